//! The folders that a build works in: a hidden sibling of its output, renamed into place when all is done, and in it or on another disk the
//! sorted runs. A build that is killed leaves them, and the next build of the same output goes on from there or removes them.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;

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
        let (parent, name) = match (out.parent(), out.file_name()) {
            (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
            (Some(parent), Some(name)) => (parent, name),
            _ => return Err(Error::FixRequest(format!("{} does not name a folder to build", out.display()))),
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        let mut runs_name = hidden.clone();
        hidden.push(".building");
        let root = parent.join(hidden);
        fs::create_dir_all(&root).map_err(Error::disk("create", &root))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(Error::disk("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::FixRequest(format!("another build of {} is under way", out.display())));
            }
            Err(TryLockError::Error(error)) => return Err(Error::disk("lock", &path)(error)),
        }
        let runs = match spill {
            None => root.join("runs"),
            Some(spill) => {
                // Outputs of the same name in different places share a disk for their runs.
                let real = fs::canonicalize(&root).map_err(Error::disk("read", &root))?;
                let number = xxhash_rust::xxh3::xxh3_64(real.as_os_str().as_encoded_bytes());
                runs_name.push(format!(".runs-{number:016x}"));
                spill.join(runs_name)
            }
        };
        fs::create_dir_all(&runs).map_err(Error::disk("create", &runs))?;
        let folder = WorkFolder { root, runs, out: out.to_path_buf(), keep: AtomicBool::new(false), _lock: lock };
        folder.clear()?;
        Ok(folder)
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
