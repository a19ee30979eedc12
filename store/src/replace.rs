//! Re-placement: the live generation's rows are divided between the tiers anew, without going back to its sources. They become a new generation of
//! the same time and schema, which is published like any other.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Bound;
use std::path::Path;

use crate::Error;
use crate::compact::left;
use crate::elements::Elements;
use crate::files;
use crate::generation::Generation;
use crate::key::{self, PREFIX_BYTES};
use crate::meta::MetaRecord;
use crate::placement::Placement;
use crate::plan::{View, find_view};
use crate::publish::{self, Published};
use crate::row::{Damaged, event_time_ms};
use crate::store::Inner;
use crate::view::{TenantId, ViewKind};
use crate::writer::{GenerationWriter, WriterLimits};

/// Where the new generation is written; inside the store's folder, so that linking costs nothing.
const WORK: &str = "replacing";

/// See [`Store::replace`](crate::Store::replace). The caller holds the lock of whoever changes meta.
pub(crate) fn replace(
    inner: &Inner,
    tenant: TenantId,
    view: &str,
    placement: Placement,
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
    placement: Placement,
    limits: WriterLimits,
) -> Result<(), Error> {
    let (tenant, kind) = (live.manifest.tenant, view.config.kind);
    let mut writer = GenerationWriter::again(dir, &live.manifest, generation, limits)?.place(placement);
    let damaged = |damaged: Damaged| Error::damaged(inner.warm.path(), format!("a row: {}", damaged.0));
    for row in rows(inner, live)? {
        let (entity, value) = row?;
        let value = match inner.erasures.erased_ms(tenant, &entity) {
            None => value,
            Some(erased_ms) => match left(kind, &value, erased_ms).map_err(damaged)? {
                None => continue,
                Some(value) => value.into(),
            },
        };
        writer.put(&entity, &times(kind, &value).map_err(damaged)?, &value)?;
    }
    writer.finish().map(drop)
}

/// Removes what a re-placement that was cut short left.
pub(crate) fn clear(store: &Path) -> Result<(), Error> {
    files::remove_dir(&store.join(WORK))
}

type EntityAndValue = (String, Box<[u8]>);
type Entries<'a> = Peekable<Box<dyn Iterator<Item = Result<EntityAndValue, Error>> + 'a>>;

/// The rows of both tiers in order of their entities.
fn rows<'a>(
    inner: &'a Inner,
    live: &'a Generation,
) -> Result<impl Iterator<Item = Result<EntityAndValue, Error>> + 'a, Error> {
    let (first, end) = (live.manifest.id().prefix(), live.manifest.id().end());
    let warm = inner.warm.scan_base(&first, Bound::Excluded(&end))?.map(|entry| {
        let (base_key, value) = entry?;
        let entity = base_key.get(PREFIX_BYTES..).and_then(key::read_entity);
        let damaged = || Error::damaged(inner.warm.path(), "a key of the base family is not one");
        Ok((entity.ok_or_else(damaged)?, value))
    });
    let cold = live.cold.iter().flat_map(|part| part.file.scan()).map(|row| {
        let row = row?;
        Ok((row.entity, Box::from(&*row.value)))
    });
    let mut warm: Entries<'a> = (Box::new(warm) as Box<dyn Iterator<Item = _>>).peekable();
    let mut cold: Entries<'a> = (Box::new(cold) as Box<dyn Iterator<Item = _>>).peekable();
    Ok(std::iter::from_fn(move || {
        let order = match (warm.peek(), cold.peek()) {
            (Some(Ok(warm)), Some(Ok(cold))) => warm.0.cmp(&cold.0),
            (Some(Err(_)), _) | (_, None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        if order == Ordering::Greater { cold.next() } else { warm.next() }
    }))
}

/// The event times of a value's rows, newest first.
fn times(kind: ViewKind, value: &[u8]) -> Result<Vec<i64>, Damaged> {
    match kind {
        ViewKind::Latest => Ok(vec![event_time_ms(value)?]),
        ViewKind::LastN => Elements::new(value)?.map(|row| event_time_ms(row?)).collect(),
    }
}
