//! Finding the rows of a batch: the hot tier first; for what it does not know one read of the base family, one of the live family for the few
//! keys that have live rows, and both combined; for what is in neither and may be cold, the cold tier within its time.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Error;
use crate::batch::Batch;
use crate::cold::lookup::{ColdFinding, ColdKey, ColdTier};
use crate::combine::{self, Baseline};
use crate::fetched::{FetchStats, Tier};
use crate::generation::Generation;
use crate::hot::row::HotRow;
use crate::hot::{Clock, Filling, Hot};
use crate::live::LiveFilter;
use crate::plan::{Plan, View};
use crate::readers::Readers;
use crate::row::Damaged;
use crate::warm::{Pinned, Read, Snapshot};

/// Most row bytes that one fetch may read, and most that it may return, repeats included: what a caller's columns could take at worst.
pub const MAX_FETCH_BYTES: usize = 1 << 30;

/// Keys of the live family that are read before it is looked whether the fetch has become too large.
const LIVE_PART: usize = 1024;

/// How many more row bytes a fetch may take in. Counted while they are read: rows of many gigabytes must not be in RAM before it shows that they
/// are too many.
pub(crate) struct Room {
    entities: usize,
    bytes: AtomicUsize,
}

impl Room {
    /// The room of a fetch of so many entities.
    pub(crate) fn new(entities: usize) -> Room {
        Room { entities, bytes: AtomicUsize::new(0) }
    }

    /// Counts bytes.
    ///
    /// # Errors
    /// [`Error::FixRequest`] when they are more than [`MAX_FETCH_BYTES`], together with those before.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), Error> {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if bytes > MAX_FETCH_BYTES {
            let entities = self.entities;
            return Err(Error::FixRequest(format!(
                "{entities} entities have {bytes} bytes of rows or more, one fetch takes at most {MAX_FETCH_BYTES}: ask in parts"
            )));
        }
        Ok(())
    }

    /// Counts the bytes of what was read, and hands it on.
    pub(crate) fn take_in<'db>(&self, rows: Vec<Read<'db>>) -> Result<Vec<Read<'db>>, Error> {
        self.take(rows.iter().flatten().map(|row| row.len()).sum())?;
        Ok(rows)
    }
}

/// A value where it was found, to be read in place.
pub(crate) enum Value<'db> {
    /// In the hot tier, or on its way there.
    Hot(HotRow),
    /// Read from the cold tier.
    Shared(Arc<[u8]>),
    /// In a block of the database.
    Pinned(Pinned<'db>),
    /// Combined of several.
    Owned(Vec<u8>),
}

impl Deref for Value<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Value::Hot(row) => row.bytes_of_row(),
            Value::Shared(bytes) => bytes,
            Value::Pinned(bytes) => bytes,
            Value::Owned(bytes) => bytes,
        }
    }
}

/// What was found under one key.
pub(crate) struct FoundRow<'db> {
    pub(crate) value: Option<Value<'db>>,
    pub(crate) tier: Tier,
    /// False when the cold tier did not answer in time, so that nothing is known.
    pub(crate) in_time: bool,
}

/// Where a fetch looks: the tiers as they were at one moment. The first three were taken in this order, because each may only be as old as the
/// one before: see [`Store::fetch`](crate::Store::fetch).
pub(crate) struct Reading<'a> {
    pub(crate) read_at: Clock,
    pub(crate) filter: &'a LiveFilter,
    pub(crate) snapshot: &'a Snapshot<'a>,
    pub(crate) hot: &'a Hot,
    pub(crate) readers: &'a Readers,
    /// For each distinct entity the time up to which its rows are erased; empty where nobody is.
    pub(crate) erased: &'a [Option<i64>],
    pub(crate) cold: &'a ColdTier,
    /// Until when the cold tier is waited for.
    pub(crate) deadline: Instant,
}

/// Looks every key of the batch up once; the outcome is in the order of positions. What the database answers, absence included, is handed
/// to the hot tier.
pub(crate) fn look_up<'a>(
    plan: &Plan,
    batch: &Batch<'_, '_>,
    reading: &Reading<'a>,
    stats: &mut FetchStats,
) -> Result<Vec<FoundRow<'a>>, Error> {
    let mut found: Vec<_> =
        (0..batch.len()).map(|_| FoundRow { value: None, tier: Tier::None, in_time: true }).collect();
    let mut misses = Vec::new();
    let room = Room::new(batch.positions.len());
    for (position, row) in look_up_hot(batch, reading.hot) {
        match row {
            Some(row) if row.row().is_some() => {
                stats.hot_hits += 1;
                room.take(row.bytes_of_row().len())?;
                found[position] = FoundRow { value: Some(Value::Hot(row)), tier: Tier::Hot, in_time: true };
            }
            Some(_) => stats.hot_negatives += 1,
            None => misses.push(position),
        }
    }
    if !misses.is_empty() {
        batch.sort(plan, &mut misses);
        read_misses(plan, batch, reading, &room, &misses, &mut found, stats)?;
    }
    stats.unique_keys = batch.len() as u64;
    stats.not_found = stats.unique_keys - stats.hot_hits - stats.warm_hits - stats.cold_hits - stats.not_in_time;
    Ok(found)
}

/// All positions whose key can exist, with what the hot tier holds there.
pub(crate) fn look_up_hot(batch: &Batch<'_, '_>, hot: &Hot) -> impl Iterator<Item = (usize, Option<HotRow>)> {
    let positions: Vec<_> = batch.possible_positions().collect();
    let keys: Vec<_> = positions.iter().map(|&position| (batch.key(position), batch.hash(position))).collect();
    positions.into_iter().zip(hot.get_all(&keys))
}

fn read_misses<'a>(
    plan: &Plan,
    batch: &Batch<'_, '_>,
    reading: &Reading<'a>,
    room: &Room,
    misses: &[usize],
    found: &mut [FoundRow<'a>],
    stats: &mut FetchStats,
) -> Result<(), Error> {
    let published: Vec<_> = misses.iter().copied().filter(|&position| batch.generation(position).is_some()).collect();
    let keys: Vec<_> = published.iter().map(|&position| batch.key(position)).collect();
    let mut base = published.iter().copied().zip(reading.readers.read(reading.snapshot, &keys, room)?).peekable();

    let written: Vec<_> =
        misses.iter().copied().filter(|&position| reading.filter.may_contain(batch.hash(position))).collect();
    let mut live = written.iter().copied().zip(read_live(batch, reading, room, &written)?).peekable();

    let fills = reading.hot.is_on();
    let mut rows_to_hot = Vec::with_capacity(if fills { misses.len() } else { 0 });
    let mut cold = Vec::new();
    for &position in misses {
        let base = base.next_if(|(at, _)| *at == position);
        let live = live.next_if(|(at, _)| *at == position);
        if base.is_none() && live.is_none() {
            // Nothing is published and nothing written: known without a read, so not worth a place in the hot tier.
            continue;
        }
        let rows = Stored {
            base: base.and_then(|(_, row)| row).map(Value::Pinned),
            live: live.and_then(|(_, changes)| changes).map(Value::Pinned),
        };
        stats.bytes_read += rows.bytes() as u64;
        let view = &plan.views[position / batch.unique].view;
        let generation = batch.generation(position);
        let erased_ms = reading.erased.get(position % batch.unique).copied().flatten();
        let damaged = |damaged| damaged_row(reading.snapshot, view, damaged);
        if let Some(generation) = generation.filter(|generation| rows.base.is_none() && !generation.cold.is_empty()) {
            let entity = batch.entities[position % batch.unique].entity;
            // Of somebody of whom all the generation's rows are erased nothing needs to be read.
            let all_erased = erased_ms.is_some_and(|erased_ms| generation.manifest.event_time_max_ms <= erased_ms);
            let somewhere = !all_erased && generation.cold_part(entity).is_some();
            if somewhere && !rows.need_no_snapshot(view, generation).map_err(damaged)? {
                cold.push(ColdKey {
                    position,
                    entity: entity.into(),
                    base_key: batch.key(position).into(),
                    hash: batch.hash(position),
                    view: Arc::clone(view),
                    generation: Arc::clone(generation),
                    live: rows.live.as_deref().map(Box::from),
                    erased_ms,
                });
                continue;
            }
        }
        let combined = rows.combine(view, generation.map(|generation| &**generation), erased_ms);
        let mut value = combined.map_err(damaged)?;
        if fills {
            let row = HotRow::new(batch.key(position), batch.hash(position), value.as_deref());
            value = value.map(|_| Value::Hot(row.clone()));
            rows_to_hot.push(row);
        }
        if value.is_some() {
            stats.warm_hits += 1;
            found[position] = FoundRow { value, tier: Tier::Warm, in_time: true };
        }
    }
    if !cold.is_empty() {
        let (rows, arrived) = reading.cold.look_up(cold, reading.read_at, reading.deadline, stats);
        rows_to_hot.extend(arrived);
        for (position, row) in rows {
            let in_time = matches!(row, ColdFinding::Found(_));
            stats.not_in_time += u64::from(!in_time);
            let value = match row {
                ColdFinding::Found(found) => found.map(Value::Shared),
                ColdFinding::NotInTime => None,
            };
            let tier = if value.is_some() { Tier::Cold } else { Tier::None };
            stats.cold_hits += u64::from(value.is_some());
            found[position] = FoundRow { value, tier, in_time };
        }
    }
    reading.hot.fill(Filling { read_at: reading.read_at, rows: rows_to_hot });
    Ok(())
}

fn read_live<'a>(
    batch: &Batch<'_, '_>,
    reading: &Reading<'a>,
    room: &Room,
    positions: &[usize],
) -> Result<Vec<Read<'a>>, Error> {
    let mut rows = Vec::with_capacity(positions.len());
    for part in positions.chunks(LIVE_PART) {
        let keys: Vec<_> = part.iter().map(|&position| batch.live_key(position)).collect();
        let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
        rows.extend(room.take_in(reading.snapshot.read_live(&keys)?)?);
    }
    Ok(rows)
}

/// What is stored about one entity.
pub(crate) struct Stored<'db> {
    /// By its generation.
    pub(crate) base: Option<Value<'db>>,
    /// By what was written live.
    pub(crate) live: Option<Value<'db>>,
}

impl<'db> Stored<'db> {
    fn bytes(&self) -> usize {
        [&self.base, &self.live].into_iter().flatten().map(|bytes| bytes.len()).sum()
    }

    /// True when the live rows stand whatever the generation holds.
    pub(crate) fn need_no_snapshot(&self, view: &View, generation: &Generation) -> Result<bool, Damaged> {
        self.live.as_deref().map_or(Ok(false), |live| combine::need_no_snapshot(&view.config, generation, live))
    }

    /// The value that stands. Almost always there are no live rows, and it stays where it lies.
    pub(crate) fn combine(
        self,
        view: &View,
        generation: Option<&Generation>,
        erased_ms: Option<i64>,
    ) -> Result<Option<Value<'db>>, Damaged> {
        let Some(live) = self.live else {
            return Ok(self.base);
        };
        let published = Baseline::new(view, generation, erased_ms);
        let combined = combine::combine(&view.config, published, self.base.as_deref(), &live)?;
        Ok(combined.map(|value| Value::Owned(value.into_owned())))
    }
}

pub(crate) fn damaged_row(snapshot: &Snapshot<'_>, view: &View, damaged: Damaged) -> Error {
    Error::damaged(snapshot.path(), format!("a row of view {}: {}", view.config.name, damaged.0))
}

/// Refuses a request whose answer would be larger than [`MAX_FETCH_BYTES`].
pub(crate) fn check_bytes(batch: &Batch<'_, '_>, found: &[FoundRow<'_>]) -> Result<(), Error> {
    let views = found.chunks(batch.unique.max(1));
    let bytes_of = |found: &FoundRow<'_>| found.value.as_ref().map_or(0, |row| row.len());
    let bytes: usize =
        views.flat_map(|view| batch.positions.iter().map(|&position| bytes_of(&view[position as usize]))).sum();
    Room::new(batch.positions.len()).take(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_stops_where_its_rows_become_too_many() {
        let room = Room::new(7);
        assert!(room.take(MAX_FETCH_BYTES - 1).is_ok() && room.take(1).is_ok());
        let message = room.take(1).unwrap_err().to_string();
        let bytes = MAX_FETCH_BYTES + 1;
        assert!(message.starts_with(&format!("7 entities have {bytes} bytes of rows")), "{message}");
    }
}
