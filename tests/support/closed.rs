//! A store that lived through a history and was closed, so that its files can be spoilt.

use std::fs;
use std::path::{Path, PathBuf};

use larder_store::{Error, Store};
use tempfile::TempDir;

use super::history::{Expected, FIRST, Step, open};

/// Of the history.
pub(crate) const SEED: u64 = 7;

/// A store with a history, closed, and what it shows.
pub(crate) struct Closed {
    folder: TempDir,
    pub(crate) expected: Expected,
    /// The step that comes next.
    pub(crate) next: usize,
}

impl Closed {
    /// The first `steps` steps of the history.
    pub(crate) fn new(steps: usize) -> Closed {
        let folder = tempfile::tempdir().expect("it works on a healthy disk");
        let mut expected = Expected::new();
        let store = open(folder.path()).expect("it works on a healthy disk");
        for number in FIRST..FIRST + steps {
            let step = Step::of(SEED, number);
            step.perform(&store, folder.path(), SEED, number).expect("it works on a healthy disk");
            expected.apply(SEED, number, &step);
        }
        Closed { folder, expected, next: FIRST + steps }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn copy(&self) -> Closed {
        let folder = tempfile::tempdir().expect("it works on a healthy disk");
        for name in ["store", "cold"] {
            let (from, to) = (self.path().join(name), folder.path().join(name));
            // Nothing lies cold in a store that has no such folder.
            let Ok(entries) = fs::read_dir(from) else { continue };
            fs::create_dir(&to).expect("it works on a healthy disk");
            for entry in entries {
                let entry = entry.expect("it works on a healthy disk");
                fs::copy(entry.path(), to.join(entry.file_name())).expect("it works on a healthy disk");
            }
        }
        Closed { folder, expected: self.expected.clone(), next: self.next }
    }

    /// The next step of a kind.
    pub(crate) fn find(&self, kind: impl Fn(&Step) -> bool) -> (usize, Step) {
        let mut steps = (self.next..).map(|number| (number, Step::of(SEED, number)));
        steps.find(|(_, step)| kind(step)).expect("it works on a healthy disk")
    }

    /// What the store shows after one more step.
    pub(crate) fn after(&self, number: usize, step: &Step) -> Expected {
        let mut after = self.expected.clone();
        after.apply(SEED, number, step);
        after
    }

    /// The files of the store with an extension; the largest first.
    pub(crate) fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join("store"))
            .expect("it works on a healthy disk")
            .map(|entry| entry.expect("it works on a healthy disk").path());
        let found = entries.filter(|path| path.extension().is_some_and(|found| found == extension));
        // An open store may just be deleting a file that it no longer needs.
        let mut files: Vec<_> = found.filter_map(|path| Some((fs::metadata(&path).ok()?.len(), path))).collect();
        files.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        files.into_iter().map(|(_, path)| path).collect()
    }

    pub(crate) fn perform(&self, store: &Store, number: usize, step: &Step) -> Result<(), Error> {
        step.perform(store, self.path(), SEED, number)
    }
}

/// Checks that an error names the place and says what to do.
pub(crate) fn check_message(error: &Error, folder: &Path) {
    let message = error.to_string();
    assert!(message.contains(&folder.display().to_string()), "no place: {message}");
    let advice = ["free space there", "then start again", "check the disk", "restore it", "is refused"];
    assert!(advice.iter().any(|advice| message.contains(advice)), "no advice: {message}");
}
