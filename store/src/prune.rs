//! Pruning live rows that snapshots have caught up with. A change may go when both the live generation and the one kept for rollback were taken
//! after it, and neither shows an older row in its place: then no fetch, now or after a rollback, would answer differently. What a later, older
//! snapshot would need is gone, so the record says up to when was pruned, and such a snapshot is refused.
//!
//! Values are replaced with all writers kept out, a few hundred at a time. A change that arrives late finds nothing to meet, and is hidden or
//! shown by the same rule as if what was pruned were still there.

use std::sync::Arc;

use rocksdb::WriteBatch;

use crate::Error;
use crate::combine::Published;
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
use crate::view::ViewKind;
use crate::warm::Snapshot;

/// Entities looked at while writers wait.
const CHUNK: usize = 256;

/// Prunes the live rows of one view and tenant against its two generations. Returns how many changes went. The caller holds the publish lock.
pub(crate) fn prune(inner: &Inner, view: &View, generations: &[Arc<Generation>]) -> Result<u64, Error> {
    let [live, ..] = generations else { return Ok(0) };
    let covered_ms = generations.iter().map(|generation| generation.manifest.as_of_ms).min().unwrap_or(i64::MIN);
    let (id, tenant) = (view.config.id, live.manifest.tenant);
    let Some(mut record) = MetaRecord::read(&inner.warm, id, tenant)? else { return Ok(0) };
    let end = key::live_end(id, tenant);
    let mut from = key::live_prefix(id, tenant).to_vec();
    let (mut pruned, mut seen, mut emptied) = (0, 0, 0);
    loop {
        let _alone = inner.live.write_alone();
        let snapshot = inner.warm.snapshot();
        let damaged = |damaged: Damaged| damaged_row(&snapshot, view, damaged);
        let chunk: Vec<_> = inner.warm.scan_live(&from, &end)?.take(CHUNK).collect::<Result<_, _>>()?;
        let Some((last, _)) = chunk.last() else { break };
        from = [last, &[0][..]].concat();
        let mut batch = WriteBatch::default();
        let mut gone = 0;
        for (live_key, value) in &chunk {
            let mut delta = Delta::decode(value).map_err(damaged)?;
            if delta.changes.iter().all(|change| change.event_time_ms > covered_ms) && !delta.is_cleared_by(covered_ms)
            {
                continue;
            }
            let entity = read_key(live_key).map(|(_, _, entity)| entity).unwrap_or_default();
            if generations.iter().any(|generation| generation.cold_part(&entity).is_some()) {
                // What its cold row says is not worth a slow read; it goes when the entity is placed warm.
                continue;
            }
            let erased_ms = inner.erasures.erased_ms(tenant, &entity);
            let mut shown = Vec::with_capacity(generations.len());
            for generation in generations {
                shown.push(Shown::read(&snapshot, view, generation, erased_ms, live_key)?);
            }
            let before = delta.changes.len();
            let covered =
                |time: i64, element: &[u8]| time <= covered_ms && shown.iter().all(|shown| shown.covers(time, element));
            delta.changes.retain(|change| !covered(change.event_time_ms, change.element));
            if delta.is_cleared_by(covered_ms) && shown.iter().all(|shown| shown.is_after(delta.cleared_ms)) {
                delta.forget_clearing();
            }
            gone += (before - delta.changes.len()) as u64;
            let mut reduced = Vec::new();
            if !delta.is_empty() {
                delta.encode(&mut reduced);
            }
            seen += 1;
            emptied += u64::from(reduced.is_empty());
            if reduced != **value {
                inner.warm.replace_live(&mut batch, live_key, &reduced)?;
            }
        }
        if batch.is_empty() {
            continue;
        }
        if record.pruned_to_ms.is_none_or(|pruned_to_ms| pruned_to_ms < covered_ms) {
            record.pruned_to_ms = Some(covered_ms);
            record.write(&inner.warm)?;
        }
        inner.warm.write_synced(batch)?;
        pruned += gone;
    }
    if emptied > seen / 2 {
        inner.live.rebuild_filter(&inner.warm)?;
    }
    Ok(pruned)
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
        let published = Published::new(view, Some(generation), erased_ms);
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

fn elements(view: &View, published: Published<'_>, value: &[u8]) -> Result<Vec<(Vec<u8>, i64)>, Damaged> {
    match view.config.kind {
        ViewKind::Latest => Ok(vec![(Vec::new(), event_time_ms(value)?)]),
        ViewKind::LastN => {
            let element = |row| Ok((published.element_key(row)?.into_owned(), event_time_ms(row)?));
            Elements::new(value)?.map(|row| element(row?)).collect()
        }
    }
}
