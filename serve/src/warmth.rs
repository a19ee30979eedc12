//! Warmth over a restart: a draining node notes which keys are hot, and a starting one reads their rows before it is ready, so that the
//! customers of the first minute do not pay for the restart.
//!
//! All of it is a convenience. Whatever goes wrong here is logged, and the node starts or stops as it would without.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_store::{Error, Store};

/// Reads what the file names into the hot tier, for no longer than `limit`. A file that cannot be used is deleted.
pub(crate) fn restore(store: &Store, file: &Path, limit: Duration) {
    let began = Instant::now();
    if limit.is_zero() || !file.exists() {
        return;
    }
    let path = file.display();
    match store.import_hot_set(file, began + limit) {
        Ok(imported) => {
            let (seconds, complete) = (began.elapsed().as_secs_f64(), imported.complete);
            tracing::info!(%path, entries = imported.entries, made_hot = imported.made_hot, complete, seconds, "hot set read");
        }
        Err(error) => {
            tracing::warn!(%error, "the hot set is not read; starting without it");
            if matches!(error, Error::DeleteFile { .. })
                && let Err(error) = std::fs::remove_file(file)
            {
                tracing::warn!(%path, %error, "the damaged hot-set file cannot be deleted");
            }
        }
    }
}

/// Writes which keys are hot. Where that fails, the file of the stop before stays.
pub(crate) fn keep(store: &Store, file: &Path) {
    let began = Instant::now();
    match store.export_hot_set(file) {
        Ok(entries) => {
            let (path, seconds) = (file.display(), began.elapsed().as_secs_f64());
            tracing::info!(%path, entries, seconds, "hot set kept");
        }
        Err(error) => tracing::warn!(%error, "the hot set is not kept; the next start will be without it"),
    }
}

/// Deletes the file, if there is one, and what a stop that was cut short left of the next: they name users, and some of them may have been
/// erased since.
pub fn forget_hot_set(file: &Path) -> std::io::Result<()> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".tmp");
    for file in [file, Path::new(&unfinished)] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
