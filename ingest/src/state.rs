//! What a build leaves for the next one in case it is killed: which segments of the rows are sorted and set aside, in which files.
//!
//! The file is small, written anew after every finished run, synced and renamed into place; the run itself is durable before it is named.
//! A next build goes on only if it is asked for exactly the same of exactly the same sources.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::location::write_whole;
use crate::rejects::{MAX_SAMPLES, Reject};
use crate::spill::RunFile;

/// The state's name in the work folder.
const STATE_FILE: &str = "state.json";
/// Version of the state and of the run files.
const FORMAT: u32 = 1;
/// Largest state that is read.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// What has been done of a build, and where that is kept.
pub(crate) struct State {
    path: PathBuf,
    runs: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    /// Of the request.
    fingerprint: String,
    /// Rows of a segment; the last one may have fewer.
    segment_rows: u64,
    /// Finished segments: the rows read in each.
    finished: BTreeMap<u64, u64>,
    /// Rows rejected in them, and the first of those.
    rejected: u64,
    samples: Vec<Reject>,
    /// Their runs.
    runs: Vec<RunFile>,
    /// The number of the next run file.
    next_run: u64,
}

impl State {
    /// A state of a build in the work folder `root` whose runs lie in `runs`; nothing is done yet.
    pub(crate) fn new(root: &Path, runs: &Path, fingerprint: &str) -> State {
        let kept = Kept { format: FORMAT, fingerprint: fingerprint.to_owned(), ..Kept::default() };
        State { path: root.join(STATE_FILE), runs: runs.to_owned(), kept: Mutex::new(kept) }
    }

    /// Whether a build has left a state.
    pub(crate) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Takes over what a build that was killed left: the rows it had set aside. `None` when nothing usable is there: no state, one of another
    /// request, or runs that are not as they were.
    pub(crate) fn take_over(&self) -> Result<Option<u64>, Error> {
        let Ok(length) = fs::metadata(&self.path).map(|metadata| metadata.len()) else { return Ok(None) };
        if length > MAX_STATE_BYTES {
            return Ok(None);
        }
        let bytes = fs::read(&self.path).map_err(Error::disk("read", &self.path))?;
        let Ok(found) = serde_json::from_slice::<Kept>(&bytes) else { return Ok(None) };
        let is_whole = |run: &RunFile| {
            let metadata = fs::metadata(self.runs.join(&run.name));
            metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == run.bytes)
        };
        let mut kept = self.lock();
        let usable = found.format == FORMAT
            && found.fingerprint == kept.fingerprint
            && found.segment_rows > 0
            && found.runs.iter().all(|run| run.name.starts_with("run-") && !run.name.contains('/') && is_whole(run));
        if !usable {
            return Ok(None);
        }
        let rows = found.finished.values().sum();
        *kept = found;
        Ok(Some(rows))
    }

    /// Removes what an earlier build noted, durably, and what was taken over of it.
    pub(crate) fn forget(&self) -> Result<(), Error> {
        let mut kept = self.lock();
        let fingerprint = std::mem::take(&mut kept.fingerprint);
        *kept = Kept { format: FORMAT, fingerprint, ..Kept::default() };
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::disk("remove", &self.path)(error)),
        }
        let Some(folder) = self.path.parent() else { return Ok(()) };
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::disk("sync", folder))
    }

    /// Rows read in all segments that are finished.
    pub(crate) fn rows_finished(&self) -> u64 {
        self.lock().finished.values().sum()
    }

    /// Removes files of runs that the state does not name.
    pub(crate) fn remove_strays(&self) -> Result<(), Error> {
        let kept = self.lock();
        let Ok(entries) = fs::read_dir(&self.runs) else { return Ok(()) };
        for entry in entries {
            let path = entry.map_err(Error::disk("read", &self.runs))?.path();
            if !kept.runs.iter().any(|run| path.ends_with(&run.name)) {
                fs::remove_file(&path).map_err(Error::disk("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Rows of a segment: those of the build that is gone on with, else `rows`.
    pub(crate) fn segment_rows(&self, rows: u64) -> u64 {
        let mut kept = self.lock();
        if kept.segment_rows == 0 {
            kept.segment_rows = rows.max(1);
        }
        kept.segment_rows
    }

    /// The rows read in a segment that is finished.
    pub(crate) fn finished(&self, segment: u64) -> Option<u64> {
        self.lock().finished.get(&segment).copied()
    }

    /// Rows rejected in finished segments, with the first of them.
    pub(crate) fn rejected(&self) -> (u64, Vec<Reject>) {
        let kept = self.lock();
        (kept.rejected, kept.samples.clone())
    }

    /// The runs set aside so far.
    pub(crate) fn runs(&self) -> Vec<RunFile> {
        self.lock().runs.clone()
    }

    /// A new run file's name, and where it goes.
    pub(crate) fn new_run(&self) -> (String, PathBuf) {
        let mut kept = self.lock();
        kept.next_run += 1;
        let name = format!("run-{:06}", kept.next_run);
        (name.clone(), self.runs.join(name))
    }

    /// Notes a segment as finished, durably.
    pub(crate) fn finish(
        &self,
        segment: u64,
        rows: u64,
        runs: &[RunFile],
        rejected: u64,
        samples: &[Reject],
    ) -> Result<(), Error> {
        let mut kept = self.lock();
        kept.finished.insert(segment, rows);
        kept.runs.extend_from_slice(runs);
        kept.rejected += rejected;
        let room = MAX_SAMPLES.saturating_sub(kept.samples.len());
        kept.samples.extend(samples.iter().take(room).cloned());
        self.write(&kept)
    }

    /// Puts one run in the place of those it was merged from, durably, and removes their files.
    pub(crate) fn replace(&self, merged: &[RunFile], by: RunFile) -> Result<(), Error> {
        let mut kept = self.lock();
        kept.runs.retain(|run| !merged.contains(run));
        kept.runs.push(by);
        self.write(&kept)?;
        drop(kept);
        for run in merged {
            let path = self.runs.join(&run.name);
            fs::remove_file(&path).map_err(Error::disk("remove", &path))?;
        }
        Ok(())
    }

    fn write(&self, kept: &Kept) -> Result<(), Error> {
        let bytes =
            serde_json::to_vec(kept).map_err(|error| Error::disk("write", &self.path)(std::io::Error::other(error)))?;
        write_whole(&self.path, |file| file.write_all(&bytes))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_finished_is_taken_over_by_the_same_request_only() {
        let folder = tempfile::tempdir().unwrap();
        let (root, runs) = (folder.path(), folder.path().join("runs"));
        fs::create_dir(&runs).unwrap();
        let first = State::new(root, &runs, "one");
        assert_eq!(first.take_over().unwrap(), None, "there is nothing yet");
        assert_eq!(first.segment_rows(100), 100);
        let (name, path) = first.new_run();
        fs::write(&path, b"rows").unwrap();
        let run = RunFile { name, order: (0, 0), rows: 100, bytes: 4 };
        first.finish(0, 100, std::slice::from_ref(&run), 3, &[]).unwrap();

        let again = State::new(root, &runs, "one");
        assert_eq!(again.take_over().unwrap(), Some(100));
        assert_eq!((again.segment_rows(7), again.finished(0), again.finished(1)), (100, Some(100), None));
        assert_eq!((again.runs(), again.rejected().0), (vec![run], 3));
        let (stray, path) = again.new_run();
        assert_eq!(stray, "run-000002");
        fs::write(&path, b"unfinished").unwrap();
        again.remove_strays().unwrap();
        assert!(!path.exists() && runs.join("run-000001").exists());
        let forgetful = State::new(root, &runs, "one");
        let noted = fs::read(root.join(STATE_FILE)).unwrap();
        assert_eq!(forgetful.take_over().unwrap(), Some(100));
        forgetful.forget().unwrap();
        assert_eq!((forgetful.take_over().unwrap(), forgetful.finished(0), forgetful.runs()), (None, None, Vec::new()));
        fs::write(root.join(STATE_FILE), noted).unwrap();

        assert_eq!(State::new(root, &runs, "two").take_over().unwrap(), None);
        fs::write(runs.join("run-000001"), b"row").unwrap();
        assert_eq!(State::new(root, &runs, "one").take_over().unwrap(), None, "a run that is cut short");
        fs::write(root.join(STATE_FILE), b"{").unwrap();
        assert_eq!(State::new(root, &runs, "one").take_over().unwrap(), None);
    }
}
