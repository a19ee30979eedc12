//! Pruning live rows that snapshots have caught up with. A change may go when both the live generation and the one kept for rollback were taken
//! after it, and neither shows an older row in its place: then no fetch, now or after a rollback, would answer differently. What a later, older
//! snapshot would need is gone, so the record says up to when was pruned, and such a snapshot is refused.
//!
//! Values are looked for beside the writers, and replaced with all writers kept out, a few hundred at a time. A change that arrives late finds nothing to meet, and is hidden or
//! shown by the same rule as if what was pruned were still there.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rocksdb::WriteBatch;

use crate::Error;
use crate::combine::Baseline;
use crate::delta::Delta;
use crate::elements::Elements;
use crate::generation::Generation;
use crate::key::{self, GenerationId, PREFIX_BYTES};
use crate::live::read_key;
use crate::lookup::damaged_row;
use crate::meta::MetaRecord;
use crate::plan::View;
use crate::row::{Damaged, event_time_ms};
use crate::store::Inner;
use crate::view::{TenantId, ViewKind};
use crate::warm::Snapshot;

/// Entities looked at together; those of them that have something to prune are replaced while writers wait.
const CHUNK: usize = 256;
/// How long writers have their way after they were kept out. The lock is not fair: taken again at once, it would be got before they wake.
const BETWEEN_CHUNKS: Duration = Duration::from_millis(1);

/// Prunes the live rows of one view and tenant against its two generations. Returns how many changes went. The caller holds the publish lock.
pub(crate) fn prune(inner: &Inner, view: &View, generations: &[Arc<Generation>]) -> Result<u64, Error> {
    let [live, ..] = generations else { return Ok(0) };
    let covered_ms = generations.iter().map(|generation| generation.manifest.as_of_ms).min().unwrap_or(i64::MIN);
    let (id, tenant) = (view.config.id, live.manifest.tenant);
    let Some(record) = MetaRecord::read(&inner.warm, id, tenant)? else { return Ok(0) };
    let mut pruning = Pruning { inner, view, tenant, generations, covered_ms, record, pruned: 0, seen: 0, emptied: 0 };
    let end = key::live_end(id, tenant);
    let mut from = key::live_prefix(id, tenant).to_vec();
    loop {
        let chunk: Vec<_> = inner.warm.scan_live(&from, &end)?.take(CHUNK).collect::<Result<_, _>>()?;
        let Some((last, _)) = chunk.last() else { break };
        from = [last, &[0][..]].concat();
        let mut keys = Vec::new();
        for (live_key, value) in &chunk {
            if pruning.may_reduce(live_key, value).map_err(|damaged| pruning.damaged(damaged))? {
                keys.push(&**live_key);
            }
        }
        if !keys.is_empty() {
            pruning.replace(&keys)?;
            thread::sleep(BETWEEN_CHUNKS);
        }
    }
    if pruning.emptied > pruning.seen / 2 {
        inner.live.rebuild_filter(&inner.warm)?;
    }
    Ok(pruning.pruned)
}

/// A pruning under way.
struct Pruning<'a> {
    inner: &'a Inner,
    view: &'a View,
    tenant: TenantId,
    generations: &'a [Arc<Generation>],
    /// What the older of the generations is the state of.
    covered_ms: i64,
    record: MetaRecord,
    /// Changes that went.
    pruned: u64,
    /// Entities that were looked at closely, and how many of them have no live rows any more.
    seen: u64,
    emptied: u64,
}

impl Pruning<'_> {
    /// Whether a value holds anything that the generations may cover.
    fn may_reduce(&self, live_key: &[u8], value: &[u8]) -> Result<bool, Damaged> {
        let delta = Delta::decode(value)?;
        let is_newer = delta.changes.iter().all(|change| change.event_time_ms > self.covered_ms);
        if is_newer && !delta.is_cleared_by(self.covered_ms) {
            return Ok(false);
        }
        // What its cold row says is not worth a slow read; it goes when the entity is placed warm.
        let entity = entity_of(live_key);
        Ok(!self.generations.iter().any(|generation| generation.cold_part(&entity).is_some()))
    }

    /// Reads the values again, with all writers kept out, and puts what is left of them in their place.
    fn replace(&mut self, keys: &[&[u8]]) -> Result<(), Error> {
        let warm = &self.inner.warm;
        let _alone = self.inner.live.write_alone();
        let snapshot = warm.snapshot();
        let values = snapshot.read_live(keys)?;
        let mut batch = WriteBatch::default();
        let mut gone = 0;
        for (live_key, value) in keys.iter().zip(&values) {
            let Some(value) = value.as_deref() else { continue };
            let mut delta = Delta::decode(value).map_err(|damaged| self.damaged(damaged))?;
            let before = delta.changes.len();
            self.reduce(&snapshot, live_key, &mut delta)?;
            gone += (before - delta.changes.len()) as u64;
            let mut reduced = Vec::new();
            if !delta.is_empty() {
                delta.encode(&mut reduced);
            }
            self.seen += 1;
            self.emptied += u64::from(reduced.is_empty());
            if reduced != *value {
                warm.replace_live(&mut batch, live_key, &reduced)?;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        if self.record.pruned_to_ms.is_none_or(|pruned_to_ms| pruned_to_ms < self.covered_ms) {
            self.record.pruned_to_ms = Some(self.covered_ms);
            self.record.write(warm)?;
        }
        warm.write_synced(batch)?;
        self.pruned += gone;
        Ok(())
    }

    /// Takes out what all generations cover.
    fn reduce(&self, snapshot: &Snapshot<'_>, live_key: &[u8], delta: &mut Delta<'_>) -> Result<(), Error> {
        let erased_ms = self.inner.erasures.erased_ms(self.tenant, &entity_of(live_key));
        let mut shown = Vec::with_capacity(self.generations.len());
        for generation in self.generations {
            shown.push(Shown::read(snapshot, self.view, generation, erased_ms, live_key)?);
        }
        let covered =
            |time, element: &[u8]| time <= self.covered_ms && shown.iter().all(|shown| shown.covers(time, element));
        delta.changes.retain(|change| !covered(change.event_time_ms, change.element));
        if delta.is_cleared_by(self.covered_ms) && shown.iter().all(|shown| shown.is_after(delta.cleared_ms)) {
            delta.forget_clearing();
        }
        Ok(())
    }

    fn damaged(&self, damaged: Damaged) -> Error {
        Error::damaged(self.inner.warm.path(), format!("a row of view {}: {}", self.view.config.name, damaged.0))
    }
}

fn entity_of(live_key: &[u8]) -> String {
    read_key(live_key).map(|(_, _, entity)| entity).unwrap_or_default()
}

/// What a generation shows of an entity: its elements and their event times.
struct Shown(Vec<(Vec<u8>, i64)>);

impl Shown {
    fn read(
        snapshot: &Snapshot<'_>,
        view: &View,
        generation: &Generation,
        erased_ms: Option<i64>,
        live_key: &[u8],
    ) -> Result<Shown, Error> {
        let GenerationId { generation: number, .. } = generation.manifest.id();
        let mut key = Vec::with_capacity(live_key.len() + PREFIX_BYTES - key::LIVE_PREFIX_BYTES);
        key.extend_from_slice(&live_key[..key::LIVE_PREFIX_BYTES]);
        key.extend_from_slice(&number.to_be_bytes());
        key.extend_from_slice(&live_key[key::LIVE_PREFIX_BYTES..]);
        let rows = snapshot.read(&[&key])?;
        let published = Baseline::new(view, Some(generation), erased_ms);
        let elements = match rows.first().and_then(Option::as_ref) {
            None => Ok(Vec::new()),
            Some(value) => elements(view, published, value),
        };
        let mut elements = elements.map_err(|damaged| damaged_row(snapshot, view, damaged))?;
        elements.retain(|(_, time)| !published.is_erased(*time));
        Ok(Shown(elements))
    }

    /// Whether a change of that time and element says nothing that the snapshot does not know.
    fn covers(&self, time: i64, element: &[u8]) -> bool {
        self.0.iter().all(|(other, row_time)| other != element || *row_time >= time)
    }

    fn is_after(&self, time: i64) -> bool {
        self.0.iter().all(|(_, row_time)| *row_time > time)
    }
}

fn elements(view: &View, published: Baseline<'_>, value: &[u8]) -> Result<Vec<(Vec<u8>, i64)>, Damaged> {
    match view.config.kind {
        ViewKind::Latest => Ok(vec![(Vec::new(), event_time_ms(value)?)]),
        ViewKind::LastN => {
            let element = |row| Ok((published.element_key(row)?.into_owned(), event_time_ms(row)?));
            Elements::new(value)?.map(|row| element(row?)).collect()
        }
    }
}
