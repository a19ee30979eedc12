//! Finding the rows of a batch: the hot tier first; for what it does not know one read of the base family, one of the live family for the few
//! keys that have live rows, and both combined.

use std::ops::Deref;
use std::sync::Arc;

use crate::Error;
use crate::batch::Batch;
use crate::combine::{self, Published};
use crate::fetched::{FetchStats, Tier};
use crate::generation::Generation;
use crate::hot::{Clock, Entry, Filling, Hot};
use crate::live_filter::LiveFilter;
use crate::plan::{Plan, View};
use crate::readers::Readers;
use crate::row::Damaged;
use crate::warm::{Pinned, Read, Snapshot};

/// Most row bytes that one fetch may return, repeats included: what a caller's columns could take at worst.
pub const MAX_FETCH_BYTES: usize = 1 << 30;

/// A value where it was found, to be read in place.
pub(crate) enum Value<'db> {
    /// In the hot tier, or on its way there.
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
}

/// Where a fetch looks: the tiers as they were at one moment. Made in the order of the fields, because each may only be as old as the one
/// before: see [`Store::fetch`](crate::Store::fetch).
pub(crate) struct Reading<'a> {
    pub(crate) read_at: Clock,
    pub(crate) filter: &'a LiveFilter,
    pub(crate) snapshot: &'a Snapshot<'a>,
    pub(crate) hot: &'a Hot,
    pub(crate) readers: &'a Readers,
}

/// Looks every key of the batch up once; the outcome is in the order of positions. What the database answers, absence included, is handed
/// to the hot tier.
pub(crate) fn look_up<'a>(
    plan: &Plan,
    batch: &Batch<'_, '_>,
    reading: &Reading<'a>,
    stats: &mut FetchStats,
) -> Result<Vec<FoundRow<'a>>, Error> {
    let mut found: Vec<_> = (0..batch.len()).map(|_| FoundRow { value: None, tier: Tier::None }).collect();
    let mut misses = Vec::new();
    for position in batch.sorted_positions(plan) {
        match reading.hot.get(batch.key(position), batch.hash(position)) {
            Some(Some(row)) => {
                stats.hot_hits += 1;
                found[position] = FoundRow { value: Some(Value::Shared(row)), tier: Tier::Hot };
            }
            Some(None) => stats.hot_negatives += 1,
            None => misses.push(position),
        }
    }
    if !misses.is_empty() {
        read_misses(plan, batch, reading, &misses, &mut found, stats)?;
    }
    stats.unique_keys = batch.len() as u64;
    stats.not_found = stats.unique_keys - stats.hot_hits - stats.warm_hits;
    Ok(found)
}

fn read_misses<'a>(
    plan: &Plan,
    batch: &Batch<'_, '_>,
    reading: &Reading<'a>,
    misses: &[usize],
    found: &mut [FoundRow<'a>],
    stats: &mut FetchStats,
) -> Result<(), Error> {
    let published: Vec<_> = misses.iter().copied().filter(|&position| batch.generation(position).is_some()).collect();
    let keys: Vec<_> = published.iter().map(|&position| batch.key(position)).collect();
    let mut base = published.iter().copied().zip(reading.readers.read(reading.snapshot, &keys)?).peekable();

    let written: Vec<_> =
        misses.iter().copied().filter(|&position| reading.filter.may_contain(batch.hash(position))).collect();
    let mut live = written.iter().copied().zip(read_live(batch, reading, &written)?).peekable();

    let fills = reading.hot.is_on();
    let mut entries = Vec::with_capacity(if fills { misses.len() } else { 0 });
    for &position in misses {
        let base = base.next_if(|(at, _)| *at == position);
        let live = live.next_if(|(at, _)| *at == position);
        if base.is_none() && live.is_none() {
            // Nothing is published and nothing written: known without a read, so not worth a place in the hot tier.
            continue;
        }
        let rows = Rows { base: base.and_then(|(_, row)| row), live: live.and_then(|(_, changes)| changes) };
        stats.bytes_read += rows.bytes() as u64;
        let view = &plan.views[position / batch.unique].view;
        let combined = rows.combine(view, batch.generation(position));
        let mut value = combined.map_err(|damaged| damaged_row(reading.snapshot, view, damaged))?;
        if fills {
            let row: Option<Arc<[u8]>> = value.as_deref().map(Arc::from);
            entries.push(Entry { key: batch.key(position).into(), hash: batch.hash(position), found: row.clone() });
            value = row.map(Value::Shared);
        }
        if value.is_some() {
            stats.warm_hits += 1;
            found[position] = FoundRow { value, tier: Tier::Warm };
        }
    }
    reading.hot.fill(Filling { read_at: reading.read_at, entries });
    Ok(())
}

fn read_live<'a>(batch: &Batch<'_, '_>, reading: &Reading<'a>, positions: &[usize]) -> Result<Vec<Read<'a>>, Error> {
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<_> = positions.iter().map(|&position| batch.live_key(position)).collect();
    reading.snapshot.read_live(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// What the database holds about one entity.
pub(crate) struct Rows<'db> {
    pub(crate) base: Read<'db>,
    pub(crate) live: Read<'db>,
}

impl<'db> Rows<'db> {
    fn bytes(&self) -> usize {
        [&self.base, &self.live].into_iter().flatten().map(|bytes| bytes.len()).sum()
    }

    /// The value that stands. Almost always there are no live rows, and it stays where it lies.
    pub(crate) fn combine(self, view: &View, generation: Option<&Generation>) -> Result<Option<Value<'db>>, Damaged> {
        let Some(live) = self.live else {
            return Ok(self.base.map(Value::Pinned));
        };
        let combined = combine::combine(&view.config, Published::new(view, generation), self.base.as_deref(), &live)?;
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
    if bytes > MAX_FETCH_BYTES {
        let entities = batch.positions.len();
        return Err(Error::FixRequest(format!(
            "{entities} entities have {bytes} bytes of rows, one fetch returns at most {MAX_FETCH_BYTES}: ask in parts"
        )));
    }
    Ok(())
}
