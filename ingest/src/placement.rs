//! Which entities of a generation go cold, as an operator says it: by how long they have not changed, and who was asked for lately. A build
//! follows such a rule, and so does `place`, which divides a live generation anew.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_store::{GenerationState, Placement, Published, Store, TenantId, ViewConfig, WriterLimits, read_hot_set};

use crate::Error;

/// Who goes cold. Without a rule everybody is warm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdRule {
    /// Entities whose newest row is older than this, counted back from the snapshot's as-of, are placed cold.
    pub cold_after: Duration,
    /// A hot-set file: the entities in it stay warm whatever their age.
    pub active: Option<PathBuf>,
}

impl ColdRule {
    /// The placement for a snapshot of one view and tenant that shows the state of `as_of_ms`, Unix milliseconds UTC.
    ///
    /// # Errors
    /// [`Error::FixSource`] when `active` is no whole hot-set file, [`Error::CheckDisk`] when it cannot be read.
    pub fn placement(&self, view_id: u16, tenant: TenantId, as_of_ms: i64) -> Result<Placement, Error> {
        let cold_after_ms = i64::try_from(self.cold_after.as_millis()).unwrap_or(i64::MAX);
        let active = match &self.active {
            Some(file) => active_entities(file, view_id, tenant).map_err(|error| unusable(file, error))?,
            None => HashSet::new(),
        };
        Ok(Placement { cold_before_ms: Some(as_of_ms.saturating_sub(cold_after_ms)), active })
    }
}

/// The entities that a hot-set file names for one view and tenant.
fn active_entities(file: &Path, view_id: u16, tenant: TenantId) -> Result<HashSet<String>, larder_store::Error> {
    let mut active = HashSet::new();
    for entry in read_hot_set(file)? {
        let entry = entry?;
        if (entry.view_id, entry.tenant) == (view_id, tenant) {
            active.insert(entry.entity);
        }
    }
    Ok(active)
}

/// The file is one that somebody named, so the store's advice to delete it does not fit.
fn unusable(file: &Path, error: larder_store::Error) -> Error {
    match error {
        larder_store::Error::DeleteFile { reason, .. } => Error::source(file, reason),
        larder_store::Error::CheckDisk { action, path, source } => Error::CheckDisk { action, path, source },
        other => Error::Store(other),
    }
}

/// Divides the live generation of a view between the warm and the cold tier anew; see [`Store::replace`]. `views` are the store's own.
///
/// # Errors
/// Those of [`ColdRule::placement`], and [`Error::Store`] when nothing is live, the view is unknown or the files cannot be written.
pub fn place(
    store: &Store,
    views: &[ViewConfig],
    tenant: TenantId,
    view: &str,
    rule: Option<&ColdRule>,
) -> Result<Published, Error> {
    let is_live = |info: &larder_store::GenerationInfo| info.state == GenerationState::Live;
    let live = store.generations().into_iter().find(|info| is_live(info) && info.tenant == tenant && info.view == view);
    let declared = views.iter().find(|declared| declared.name == view);
    let placement = match (rule, live, declared) {
        (Some(rule), Some(live), Some(declared)) => rule.placement(declared.id, tenant, live.as_of_ms)?,
        // Everybody is warm; or there is nothing to place, and the store says why.
        _ => Placement::default(),
    };
    Ok(store.replace(tenant, view, &placement, WriterLimits::default())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_store::{HotSetEntry, write_hot_set};

    fn entry(view_id: u16, tenant: u32, entity: &str) -> HotSetEntry {
        HotSetEntry { view_id, tenant: TenantId(tenant), entity: entity.to_string() }
    }

    #[test]
    fn age_counts_back_from_the_snapshot_and_only_this_views_entities_are_active() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hot-set");
        write_hot_set(&file, [entry(1, 1, "ada"), entry(2, 1, "bob"), entry(1, 2, "eve"), entry(1, 1, "zoe")]).unwrap();
        let mut rule = ColdRule { cold_after: Duration::from_secs(60), active: Some(file) };
        let placement = rule.placement(1, TenantId(1), 100_000).unwrap();
        assert_eq!(placement.cold_before_ms, Some(40_000));
        assert_eq!(placement.active, ["ada", "zoe"].map(str::to_string).into());
        rule = ColdRule { cold_after: Duration::MAX, active: None };
        let placement = rule.placement(1, TenantId(1), -5).unwrap();
        assert_eq!((placement.cold_before_ms, placement.active.len()), (Some(i64::MIN), 0));
    }

    #[test]
    fn a_file_that_is_no_hot_set_is_refused_and_nobody_is_told_to_delete_it() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str| {
            let rule = ColdRule { cold_after: Duration::ZERO, active: Some(folder.path().join(name)) };
            rule.placement(1, TenantId(1), 0).unwrap_err()
        };
        std::fs::write(folder.path().join("precious.parquet"), "PAR1 and much that somebody needs").unwrap();
        let error = refused("precious.parquet");
        assert!(matches!(error, Error::FixSource { .. }), "{error:?}");
        assert!(error.to_string().ends_with("precious.parquet: it is no hot-set file"), "{error}");
        let error = refused("absent");
        assert!(matches!(error, Error::CheckDisk { .. }), "{error:?}");
    }
}
