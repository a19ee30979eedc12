//! The one error type of the store. Variants are named by what the reader of the message must do, not by where the error arose,
//! so that a caller decides from the variant alone: answer the client, refuse a generation, or stop the node.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// What went wrong, sorted by who can put it right. Messages name the thing, what was found and what is allowed; they never hold a
/// feature value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting or a view declaration is not allowed. Change the configuration and start again.
    #[error("{key} = {found}: {allowed}")]
    FixConfig {
        /// The setting, as written in the configuration file.
        key: String,
        /// The value found there.
        found: String,
        /// What is allowed instead.
        allowed: String,
    },
    /// The call asks for something that does not exist or is too large. Change the call; the store is well.
    #[error("{0}")]
    FixRequest(String),
    /// The rows given to the writer break a rule. Change the rows; nothing of them was published.
    #[error("{0}")]
    FixInput(String),
    /// A generation's folder cannot be published as it is. Build it again; what was live still is.
    #[error("generation in {} is refused: {reason}", path.display())]
    RebuildGeneration {
        /// The folder of the generation, or the file in it that is wrong.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The generation is whole but must not take the live one's place. Publish a newer one or roll back.
    #[error("{0}")]
    ChooseGeneration(String),
    /// Something that ends by itself is in the way. Try again; what was done so far stays done.
    #[error("{0}")]
    TryAgain(String),
    /// Another process has the folder open. Stop it, or use another folder.
    #[error(
        "the store folder {} is open elsewhere: only one process at a time may open a store, stop the other one or use another path",
        path.display()
    )]
    CloseOtherProcess {
        /// The store's folder.
        path: PathBuf,
    },
    /// The store's own files contradict themselves. Restore the folder, or remove it and publish the snapshots again.
    #[error("the store folder {} is damaged: {reason}; restore it, or remove it and publish the snapshots again", path.display())]
    RestoreStore {
        /// The store's folder.
        path: PathBuf,
        /// Which record or file is wrong, and how.
        reason: String,
    },
    /// A file that only saves work is damaged or of another version. Delete it: nothing is lost.
    #[error("{} cannot be used: {reason}; delete it, nothing is lost but warmth", path.display())]
    DeleteFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk is full. Free space on it; no restart is needed.
    #[error(
        "the disk of {} is full: {reason}; this is not acknowledged, reads go on; free space there, and writing goes on by itself within seconds",
        path.display()
    )]
    FreeSpace {
        /// The store's folder.
        path: PathBuf,
        /// Which file could not grow.
        reason: String,
    },
    /// The disk failed while the store wrote, so nobody knows what it holds; the store takes no more writes. Put the disk right and start again.
    #[error(
        "the store folder {} takes no more writes: {reason}; reads go on; see that its disk is well, then start again",
        path.display()
    )]
    RestartStore {
        /// The store's folder.
        path: PathBuf,
        /// What failed first.
        reason: String,
    },
    /// The operating system refused a read or a write. Look at the disk: space, rights, health.
    #[error("cannot {action} {}: {source}; check the disk there: its space, rights and health", path.display())]
    CheckDisk {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn config(key: impl Into<String>, found: impl Display, allowed: impl Into<String>) -> Error {
        Error::FixConfig { key: key.into(), found: found.to_string(), allowed: allowed.into() }
    }

    pub(crate) fn refused(path: &Path, reason: impl Into<String>) -> Error {
        Error::RebuildGeneration { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Error {
        Error::RestoreStore { path: path.to_path_buf(), reason: reason.into() }
    }

    /// Adapter for `map_err`: which action on which path failed.
    pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::CheckDisk { action, path, source }
    }
}
