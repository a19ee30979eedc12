//! Keeping other processes from opening a store while it is looked at, as RocksDB itself does it: with a lock on the file `LOCK`.
//!
//! Where that file may not be written, or the disk is mounted read-only, a lock that is shared with other readers does: whoever opens the store wants
//! it alone.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::Error;

/// Locks the store, which must be closed. None is needed where nobody can write to its folder and nobody ever opened it.
pub(super) fn hold(store: &Path) -> Result<Option<File>, Error> {
    if !store.join("CURRENT").exists() {
        return Err(Error::FixRequest(format!("there is no store in {}", store.display())));
    }
    let path = store.join("LOCK");
    let mut operation = FlockOperation::NonBlockingLockExclusive;
    let mut lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    if lock.as_ref().is_err_and(|error| is_read_only(error.kind())) {
        operation = FlockOperation::NonBlockingLockShared;
        lock = File::open(&path);
    }
    let lock = match lock {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let path = path.display();
            let message =
                format!("{path} may not be read by this user: run it as the user that the store's files belong to");
            return Err(Error::FixRequest(message));
        }
        Err(error) => return Err(Error::disk("open", &path)(error)),
    };
    match fcntl_lock(&lock, operation) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::CloseOtherProcess { path: store.to_path_buf() }),
        Err(error) => Err(Error::disk("lock", &path)(error.into())),
    }
}

fn is_read_only(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::{Uid, geteuid};
    use rustix::thread::set_thread_res_uid;

    use super::*;
    use crate::test_rows::{publish_points, view};
    use crate::{Store, StoreConfig, verify_store};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Runs something as a user who owns nothing here; whoever is not root stays who he is, and the modes hold for him.
    fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        let run = || {
            if geteuid().is_root() {
                let nobody = Uid::from_raw(65_534);
                set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            work()
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[test]
    fn a_store_that_may_only_be_read_is_verified_and_one_that_may_not_says_who_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let config =
            StoreConfig { path: path.clone(), cold_path: folder.path().join("cold"), ..StoreConfig::default() };
        let store = Store::open(&config, &[view()]).unwrap();
        publish_points(&store, folder.path(), 1, 1);
        drop(store);
        set_mode(folder.path(), 0o755);
        for entry in fs::read_dir(&path).unwrap() {
            set_mode(&entry.unwrap().path(), 0o444);
        }
        set_mode(&path, 0o555);
        let verify = || verify_store(&config, None, &mut |_, _| ());
        let verified = as_nobody(verify).unwrap();
        assert!(verified.damages.is_empty() && verified.files > 0, "{verified:?}");
        set_mode(&path.join("LOCK"), 0o000);
        let refused = as_nobody(verify).unwrap_err().to_string();
        assert!(refused.contains("LOCK") && refused.contains("the user that the store's files belong to"), "{refused}");
        set_mode(&path, 0o755);
        fs::remove_file(path.join("LOCK")).unwrap();
        set_mode(&path, 0o555);
        as_nobody(verify).unwrap();
        // So that the folder can be removed.
        set_mode(&path, 0o755);
    }
}
