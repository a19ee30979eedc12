//! The one error type of ingest. Variants are named by what the reader of the message must do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a build stopped. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call does not fit what is on disk: no source files, or an output that is in the way. Change the call.
    #[error("{0}")]
    FixRequest(String),
    /// A source file does not hold what the view declares. Change the file or the view.
    #[error("{}: {reason}", file.display())]
    FixSource {
        /// The file.
        file: PathBuf,
        /// Which column or row is wrong, what was found and what is expected.
        reason: String,
    },
    /// A limit is too small for these sources. Raise it, or build from less.
    #[error("{setting} = {value} is too small: {reason}")]
    RaiseLimit {
        /// The limit's name.
        setting: &'static str,
        /// Its present value.
        value: u64,
        /// What would not fit.
        reason: String,
    },
    /// The operating system refused a read or a write. Look at the disk: space, rights, health.
    #[error("cannot {action} {}: {source}", path.display())]
    CheckDisk {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk has too little room for what must be set aside. Free some of it, or name another disk.
    #[error(
        "the rows are not sorted, and sorting them needs about {needed_mib} MiB more in {}, where {free_mib} MiB are free: free space there, or set them aside on another disk (--spill)",
        path.display()
    )]
    FreeSpace {
        /// Where the sorted runs are set aside.
        path: PathBuf,
        /// What they still need, and the generation too where it is built on the same disk.
        needed_mib: u64,
        /// What there is.
        free_mib: u64,
    },
    /// Rows that this build or one before it has sorted and set aside are not as they were written. Build again; nothing goes on from them.
    #[error("{} is cut short or damaged: build again, without it", path.display())]
    BuildAgain {
        /// The sorted run.
        path: PathBuf,
    },
    /// An object store or a server did not do what it was asked. Look at the address, the credentials, the network.
    #[error("cannot {action} {location}: {reason}")]
    CheckLocation {
        /// What was being done, as a verb.
        action: &'static str,
        /// The URL.
        location: String,
        /// What was answered, and what to look at.
        reason: String,
    },
    /// The generation could not be written.
    #[error(transparent)]
    Store(#[from] larder_store::Error),
}

impl Error {
    pub(crate) fn source(file: &Path, reason: impl Into<String>) -> Error {
        Error::FixSource { file: file.to_path_buf(), reason: reason.into() }
    }

    /// Adapter for `map_err`: which action on which path failed.
    pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::CheckDisk { action, path, source }
    }
}
