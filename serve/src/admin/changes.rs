//! What an operator has a store do, and what it means for the caller when the store refuses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_store::{Error, Store, TenantId, read_hot_set};

use crate::error::Refusal;
use crate::pipeline::now_ms;

/// A path that a caller named, which means the same to the node.
pub(super) fn absolute(field: &str, path: String) -> Result<PathBuf, Refusal> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    let shown = path.display();
    Err(Refusal::Invalid(format!("{field} \"{shown}\" must be absolute: the node has a working folder of its own")))
}

/// Erases one after the other; each is in force as soon as it is recorded.
pub(super) fn erase(store: &Store, tenant: TenantId, entities: &[String]) -> Result<usize, Refusal> {
    let (number, now_ms) = (entities.len(), now_ms());
    for (erased, entity) in entities.iter().enumerate() {
        store.erase(tenant, entity, now_ms).map_err(|error| {
            Refusal::Internal(format!("{erased} of {number} entities were erased, call again for the rest: {error}"))
        })?;
    }
    tracing::info!(tenant = tenant.0, entities = number, "erased");
    Ok(number)
}

/// Writes the keys that are hot to a file. Whatever else lies at the path is not the node's to replace.
pub(super) fn export(store: &Store, path: &Path) -> Result<u64, Refusal> {
    let shown = path.display();
    if path.exists() && read_hot_set(path).is_err() {
        return Err(Refusal::Invalid(format!("{shown} exists and is no hot-set file; name another path")));
    }
    if !path.parent().is_some_and(Path::is_dir) {
        return Err(Refusal::Invalid(format!("{shown} cannot be written: its folder does not exist")));
    }
    store.export_hot_set(path).map_err(|error| refused(&error))
}

/// What the store refused to do: most often what was handed to it is at fault, and the store says how.
pub(super) fn refused(error: &Error) -> Refusal {
    match error {
        Error::TryAgain(what) => Refusal::TryAgain { what: what.clone(), retry_after: Duration::from_secs(1) },
        Error::CheckDisk { .. } | Error::FreeSpace { .. } | Error::RestartStore { .. } | Error::RestoreStore { .. } => {
            Refusal::Internal(error.to_string())
        }
        _ => Refusal::Invalid(error.to_string()),
    }
}
