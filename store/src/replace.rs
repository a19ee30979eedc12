//! Re-placement: the live generation's rows are divided between the tiers anew, without going back to its sources. They become a new generation of
//! the same time and schema, which is published like any other.

use std::path::Path;

use crate::Error;
use crate::compact::left;
use crate::files;
use crate::generation::Generation;
use crate::manifest::Manifest;
use crate::meta::MetaRecord;
use crate::placement::Placement;
use crate::plan::{View, find_view};
use crate::publish::{self, Published};
use crate::row::Damaged;
use crate::store::Inner;
use crate::view::TenantId;
use crate::whole::{Entry, entries, times};
use crate::writer::{GenerationWriter, WriterLimits};

/// Where a generation is written that is made of the live one; inside the store's folder, so that linking costs nothing.
pub(crate) const WORK: &str = "replacing";

/// See [`Store::replace`](crate::Store::replace). The caller holds the lock of whoever changes meta.
pub(crate) fn replace(
    inner: &Inner,
    tenant: TenantId,
    view: &str,
    placement: &Placement,
    limits: WriterLimits,
) -> Result<Published, Error> {
    let view = find_view(&inner.views, view)?;
    let record = MetaRecord::read(&inner.warm, view.config.id, tenant)?;
    let live = inner.generations.load().live(view.config.id, tenant).cloned();
    let Some((record, live)) = record.zip(live) else {
        let name = &view.config.name;
        return Err(Error::ChooseGeneration(format!("view {name} of tenant {tenant} has no live generation")));
    };
    let Some(generation) = record.newest_generation.checked_add(1) else {
        return Err(Error::ChooseGeneration("there is no greater generation number".to_string()));
    };
    clear(inner.warm.path())?;
    let dir = inner.warm.path().join(WORK);
    let built = build(inner, view, &live, &dir, generation, placement, limits);
    let published = built.and_then(|()| publish::publish(inner, &dir));
    if let Err(error) = clear(inner.warm.path()) {
        tracing::warn!(%error, "the working folder of a placement is not removed, the next one does it");
    }
    published
}

/// Writes the live rows into `dir` as a generation.
fn build(
    inner: &Inner,
    view: &View,
    live: &Generation,
    dir: &Path,
    generation: u32,
    placement: &Placement,
    limits: WriterLimits,
) -> Result<(), Error> {
    let kind = view.config.kind;
    let mut writer = GenerationWriter::again(dir, &live.manifest, generation, limits)?;
    let damaged = |damaged: Damaged| Error::damaged(inner.warm.path(), format!("a row: {}", damaged.0));
    for entry in entries(inner, live)? {
        let Entry { entity, value, .. } = entry?;
        let Some(value) = without_erased(inner, live, &entity, value.into_vec()).map_err(damaged)? else { continue };
        let times_ms = times(kind, &value).map_err(damaged)?;
        let is_cold = times_ms.first().is_some_and(|newest_ms| placement.is_cold(&entity, *newest_ms));
        writer.put(&entity, &times_ms, &value, is_cold)?;
    }
    writer.finish().map(drop)
}

/// What an erasure leaves of a value.
pub(crate) fn without_erased(
    inner: &Inner,
    generation: &Generation,
    entity: &str,
    value: Vec<u8>,
) -> Result<Option<Vec<u8>>, Damaged> {
    let Manifest { tenant, schema, .. } = &generation.manifest;
    match inner.erasures.erased_ms(*tenant, entity) {
        None => Ok(Some(value)),
        Some(erased_ms) => left(schema.kind, &value, erased_ms),
    }
}

/// Removes what a re-placement, or the application of a delta snapshot, left when it was cut short.
pub(crate) fn clear(store: &Path) -> Result<(), Error> {
    files::remove_dir(&store.join(WORK))
}
