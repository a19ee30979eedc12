//! What RocksDB's errors mean.

use std::io;
use std::path::Path;

use crate::Error;

/// Adapter for `map_err`: which action on which path RocksDB failed at.
pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> Error {
    let path = path.to_path_buf();
    move |error| Error::disk(action, &path)(io::Error::other(error))
}

/// What a failed read means. Only of bytes that are not what was written is restoring them the cure; a disk that failed to answer may answer
/// the next time.
pub(super) fn unread(error: rocksdb::Error, path: &Path) -> Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Error::damaged(path, error.into_string()),
        _ => disk("read", path)(error),
    }
}

pub(super) fn is_lock(error: &rocksdb::Error) -> bool {
    says(error, "While lock file") || says(error, "lock hold by current process")
}

/// The number of the SST file that an error says is not there.
pub(super) fn missing_file(error: &rocksdb::Error) -> Option<u64> {
    let message: &str = error.as_ref();
    let (before, _) = message.split_once(".sst: No such file or directory")?;
    before.rsplit('/').next()?.parse().ok()
}

/// Whether an error of the operating system says something.
pub(super) fn says(error: &rocksdb::Error, what: &str) -> bool {
    let message: &str = error.as_ref();
    error.kind() == rocksdb::ErrorKind::IOError && message.contains(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocksdb::{DB, Options};

    #[test]
    fn a_disk_that_does_not_answer_is_no_reason_to_restore_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let error = DB::list_cf(&Options::default(), folder.path()).unwrap_err();
        assert_eq!(error.kind(), rocksdb::ErrorKind::IOError, "{error}");
        assert!(matches!(unread(error, folder.path()), Error::CheckDisk { .. }));
    }
}
