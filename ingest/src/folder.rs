//! The folder that a build works in: a hidden sibling of its output, renamed into place when all is done. A build that is killed leaves only
//! the sibling, which the next build of the same output removes.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::Error;

/// A build's working folder. Dropping it removes what is in it.
pub(crate) struct WorkFolder {
    root: PathBuf,
    out: PathBuf,
    /// Held while the build lives, so that another one tells a running build from a dead one's remains.
    _lock: File,
}

impl WorkFolder {
    pub(crate) fn create(out: &Path) -> Result<WorkFolder, Error> {
        let (parent, name) = match (out.parent(), out.file_name()) {
            (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
            (Some(parent), Some(name)) => (parent, name),
            _ => return Err(Error::FixRequest(format!("{} does not name a folder to build", out.display()))),
        };
        if fs::symlink_metadata(out).is_ok() {
            return Err(Error::FixRequest(format!("{} exists: build into a new folder", out.display())));
        }
        let mut hidden = OsString::from(".");
        hidden.push(name);
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
        let folder = WorkFolder { root, out: out.to_path_buf(), _lock: lock };
        folder.clear()?;
        Ok(folder)
    }

    /// Removes what was built so far, by this build or by one that was killed.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        let remains = self.generation();
        if remains.exists() {
            fs::remove_dir_all(&remains).map_err(Error::disk("remove", &remains))?;
        }
        Ok(())
    }

    /// Where the generation is built.
    pub(crate) fn generation(&self) -> PathBuf {
        self.root.join("generation")
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
        if let Err(error) = fs::remove_dir_all(&self.root) {
            tracing::warn!(folder = %self.root.display(), %error, "working folder not removed, the next build does it");
        }
    }
}
