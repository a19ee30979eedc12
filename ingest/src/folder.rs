//! The folders that a build works in: a hidden sibling of its output, renamed into place when all is done, and in it or on another disk the
//! sorted runs. A build that is killed leaves them, and the next build of the same output goes on from there or removes them. Where its runs are
//! on another disk is noted, because the next build may be told to use another one, or none.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;
use crate::location::write_whole;

/// Names the folder of the runs, where that is elsewhere.
const RUNS_NOTE: &str = "runs-folder";
/// Longest path that is read from it.
const MAX_PATH_BYTES: u64 = 4096;

/// A build's working folder. Dropping it removes what is in it, unless it is to be kept.
pub(crate) struct WorkFolder {
    root: PathBuf,
    runs: PathBuf,
    out: PathBuf,
    keep: AtomicBool,
    /// Held while the build lives, so that another one tells a running build from a dead one's remains.
    _lock: File,
}

impl WorkFolder {
    /// Makes the folder, or takes over the one that a build of the same output left. Runs go to `spill`, if it is given.
    pub(crate) fn create(out: &Path, spill: Option<&Path>) -> Result<WorkFolder, Error> {
        let root = work_root(out)?;
        fs::create_dir_all(&root).map_err(Error::disk("create", &root))?;
        let lock = lock(&root, out)?;
        let runs = match spill {
            None => root.join("runs"),
            Some(spill) => {
                fs::create_dir_all(spill).map_err(Error::disk("create", spill))?;
                let spill = fs::canonicalize(spill).map_err(Error::disk("read", spill))?;
                spill.join(runs_name(&root)?)
            }
        };
        remove_other_runs(&root, &runs);
        if spill.is_some() {
            let note = root.join(RUNS_NOTE);
            write_whole(&note, |file| file.write_all(runs.as_os_str().as_encoded_bytes()))?;
        }
        fs::create_dir_all(&runs).map_err(Error::disk("create", &runs))?;
        let folder = WorkFolder { root, runs, out: out.to_path_buf(), keep: AtomicBool::new(false), _lock: lock };
        folder.clear()?;
        Ok(folder)
    }

    /// Removes what a killed build of `out` has left, the runs on another disk included. False when there is nothing, or a build is under way.
    pub(crate) fn discard(out: &Path) -> Result<bool, Error> {
        let root = work_root(out)?;
        if !root.exists() {
            return Ok(false);
        }
        let Ok(_lock) = lock(&root, out) else { return Ok(false) };
        remove_other_runs(&root, &root.join("runs"));
        fs::remove_dir_all(&root).map_err(Error::disk("remove", &root))?;
        Ok(true)
    }

    /// Removes what was built so far of the generation, by this build or by one that was killed.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        let remains = self.generation();
        if remains.exists() {
            fs::remove_dir_all(&remains).map_err(Error::disk("remove", &remains))?;
        }
        Ok(())
    }

    /// Where the build notes what it has done.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the generation is built.
    pub(crate) fn generation(&self) -> PathBuf {
        self.root.join("generation")
    }

    /// Where sorted runs are set aside.
    pub(crate) fn runs(&self) -> PathBuf {
        self.runs.clone()
    }

    /// Whether runs and generation take their room from the same disk.
    pub(crate) fn shares_disk(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        device(&self.root) == device(&self.runs)
    }

    /// Leaves everything as it is for the next build.
    pub(crate) fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Moves the finished generation to its place, durably.
    pub(crate) fn finish(self) -> Result<(), Error> {
        fs::rename(self.generation(), &self.out).map_err(Error::disk("rename into place", &self.out))?;
        let parent = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::disk("sync", parent))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        // The root may hold the runs, so it goes last.
        for folder in [&self.runs, &self.root] {
            if let Err(error) = fs::remove_dir_all(folder) {
                tracing::warn!(folder = %folder.display(), %error, "working folder not removed, the next build does it");
            }
        }
    }
}

/// The folder in which a build of `out` works.
fn work_root(out: &Path) -> Result<PathBuf, Error> {
    let (parent, name) = match (out.parent(), out.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(Error::FixRequest(format!("{} does not name a folder to build", out.display()))),
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".building");
    Ok(parent.join(hidden))
}

/// Keeps other builds of the same output out.
fn lock(root: &Path, out: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let lock = File::create(&path).map_err(Error::disk("create", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(Error::FixRequest(format!("another build of {} is under way", out.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::disk("lock", &path)(error)),
    }
}

/// What the folder of a build's runs is called where it is on another disk: outputs of the same name in different places may share that one.
fn runs_name(root: &Path) -> Result<OsString, Error> {
    let real = fs::canonicalize(root).map_err(Error::disk("read", root))?;
    let number = xxhash_rust::xxh3::xxh3_64(real.as_os_str().as_encoded_bytes());
    let mut name = root.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".runs-{number:016x}"));
    Ok(name)
}

/// Removes the runs of an earlier build that lie elsewhere than those of this one. What cannot be removed, because its disk is away, is named.
fn remove_other_runs(root: &Path, runs: &Path) {
    let note = root.join(RUNS_NOTE);
    let is_small = fs::metadata(&note).is_ok_and(|metadata| metadata.len() <= MAX_PATH_BYTES);
    let noted = if is_small { fs::read(&note).ok() } else { None };
    let Some(noted) = noted.map(|bytes| PathBuf::from(OsString::from_vec(bytes))) else { return };
    // Nothing but what a build of this output called so.
    let is_own = runs_name(root).is_ok_and(|name| noted.file_name() == Some(&name));
    if noted == runs || !is_own {
        return;
    }
    match fs::remove_dir_all(&noted) {
        Ok(()) => {
            tracing::info!(folder = %noted.display(), "removed the sorted rows that an earlier build had set aside there");
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(folder = %noted.display(), %error, "sorted rows of an earlier build are left there: delete them");
        }
    }
    // If it stays, it has been told.
    let _ = fs::remove_file(&note);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn runs_on_another_disk_go_with_the_build_that_left_them() {
        let folder = tempfile::tempdir().unwrap();
        let (out, one, other) = (folder.path().join("out"), folder.path().join("one"), folder.path().join("other"));
        let left = |spill: Option<&Path>| {
            let work = WorkFolder::create(&out, spill).unwrap();
            fs::write(work.runs().join("run-000001"), b"rows").unwrap();
            work.keep();
        };
        left(Some(&one));
        left(Some(&one));
        assert_eq!(names(&one).len(), 1, "the same disk: it goes on there");
        left(Some(&other));
        assert_eq!((names(&one).len(), names(&other).len()), (0, 1));
        left(None);
        assert_eq!(names(&other).len(), 0);
        left(Some(&one));
        let running = WorkFolder::create(&out, Some(&one)).unwrap();
        assert!(!WorkFolder::discard(&out).unwrap(), "it is under way");
        running.keep();
        drop(running);
        assert!(WorkFolder::discard(&out).unwrap());
        assert_eq!((names(&one).len(), names(folder.path())), (0, vec!["one".into(), "other".into()]));
        assert!(!WorkFolder::discard(&out).unwrap(), "there is nothing any more");
    }

    #[test]
    fn only_what_a_build_has_made_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (out, precious) = (folder.path().join("out"), folder.path().join("precious"));
        WorkFolder::create(&out, None).unwrap().keep();
        fs::create_dir(&precious).unwrap();
        fs::write(work_root(&out).unwrap().join(RUNS_NOTE), precious.as_os_str().as_encoded_bytes()).unwrap();
        drop(WorkFolder::create(&out, None).unwrap());
        assert!(precious.exists());
    }
}
