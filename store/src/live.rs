//! Live rows: what applications write while the node serves. A write is checked whole, becomes one batch of merge operands, is committed
//! with one synced write, and only then acknowledged; the very next fetch sees it.
//!
//! The order of steps is the guarantee. The filter learns of a key before the commit, so no fetch that could see the row skips the live family;
//! the hot tier is told after the commit and before the acknowledgement, so no fetch that starts afterwards gets what was known before.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;
use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::TimestampMillisecondType;
use rocksdb::WriteBatch;

use crate::batch::NO_GENERATION;
use crate::delta::{Change, Delta};
use crate::encode::{ElementKeys, EncodedRows, RowColumns};
use crate::key::{self, GenerationId, LIVE_PREFIX_BYTES};
use crate::live_filter::LiveFilter;
use crate::plan::{View, find_view};
use crate::row;
use crate::store::Inner;
use crate::view::{TenantId, check_columns};
use crate::warm::Warm;
use crate::writer::MAX_ROW_BYTES;
use crate::{Error, metrics};

/// Most rows of one call.
pub const MAX_WRITE_ROWS: usize = 65_536;
/// Most bytes of rows of one call.
pub const MAX_WRITE_BYTES: usize = 64 << 20;
/// How far ahead of the present an event time may lie. Nothing could replace a row of the far future.
pub const MAX_AHEAD_MS: i64 = 24 * 3_600_000;
/// The first moment of the year 1.
const MIN_EVENT_TIME_MS: i64 = -62_135_596_800_000;
/// Largest element of a history may always be this large, however many elements the view keeps.
const MIN_ELEMENT_BYTES: usize = 1024;

/// Live rows of one view and tenant.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Whose rows these are.
    pub tenant: TenantId,
    /// The view's name.
    pub view: &'a str,
    /// What is to happen.
    pub kind: WriteKind,
    /// For an upsert a batch of [`ViewConfig::arrow_schema`](crate::ViewConfig::arrow_schema), for a deletion one of
    /// [`ViewConfig::deletion_schema`](crate::ViewConfig::deletion_schema); in any order.
    pub rows: &'a RecordBatch,
}

/// What a write does with its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// A row takes the place of an older one of the same entity; in a `last_n` view of the same element.
    ///
    /// Of one entity's history the newest 4096 changes since its last snapshot are kept, rows and deletions of different elements together. When
    /// there are more, whatever is as old as the first that is too many is forgotten, and so are such changes that arrive later; rows of that
    /// age in an older snapshot are not shown any more, because a forgotten deletion may have been theirs. The next snapshot that is newer than
    /// all of this shows them again.
    Upsert,
    /// What is older than or as old as the deletion goes. In a `last_n` view a deletion without an element deletes them all: everything up to
    /// and including its time, also a row of that time or before that is written after it.
    ///
    /// Deletions count towards the changes that are kept: see [`Upsert`](WriteKind::Upsert).
    Delete,
}

/// What a write did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows stored; older ones than what is known are stored too, and change nothing.
    pub rows: u64,
    /// Deletions stored.
    pub deletions: u64,
    /// Rows and deletions left out, because their entity was erased at or after their event time.
    pub erased: u64,
}

/// The state of the live family that is kept in RAM.
pub(crate) struct Live {
    filters: ArcSwap<Filters>,
    /// Given to changes; tells those of equal event time apart.
    sequence: AtomicU64,
    /// Shared by writers, alone for whoever replaces live values: a merge between its read and its write would be lost.
    writers: RwLock<()>,
}

#[derive(Clone)]
struct Filters {
    current: Arc<LiveFilter>,
    /// The one that takes its place when a pruning ends.
    next: Option<Arc<LiveFilter>>,
}

/// The schemas that stored live rows have, by view and fingerprint.
pub(crate) type StoredSchemas = BTreeSet<(u16, u32)>;

impl Live {
    /// Reads the whole live family once, to know which entities have live rows and which schemas those have.
    pub(crate) fn open(warm: &Warm, filter_mib: u64) -> Result<(Live, StoredSchemas), Error> {
        let filter = LiveFilter::new(filter_mib);
        let mut sequence = warm.sequence();
        let mut schemas = StoredSchemas::new();
        for entry in warm.scan_live(&[], &[0xFF; LIVE_PREFIX_BYTES + 1])? {
            let (key, value) = entry?;
            let damaged = |reason: &str| Error::damaged(warm.path(), format!("a live row: {reason}"));
            let (view, tenant, entity) = read_key(&key).ok_or_else(|| damaged("its key is not one"))?;
            filter.insert(key::key_hash(view, tenant, entity.as_bytes()));
            for change in Delta::decode(&value).map_err(|broken| damaged(broken.0))?.changes {
                sequence = sequence.max(change.sequence);
                if let Some(row) = change.row {
                    schemas.insert((view, row::fingerprint(row).map_err(|broken| damaged(broken.0))?));
                }
            }
        }
        let filters = Filters { current: Arc::new(filter), next: None };
        let live = Live {
            filters: ArcSwap::from_pointee(filters),
            sequence: AtomicU64::new(sequence.saturating_add(1)),
            writers: RwLock::new(()),
        };
        Ok((live, schemas))
    }

    /// The filter of now.
    pub(crate) fn filter(&self) -> Arc<LiveFilter> {
        Arc::clone(&self.filters.load().current)
    }

    /// Keeps whoever replaces values out, for as long as it is held.
    fn write_shared(&self) -> RwLockReadGuard<'_, ()> {
        self.writers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all writers out.
    pub(crate) fn write_alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.writers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a filter of what is there now, so that entities whose live rows were pruned cost no read any more. Writes go on meanwhile and are
    /// noted in both.
    pub(crate) fn rebuild_filter(&self, warm: &Warm) -> Result<(), Error> {
        let next = {
            let _alone = self.write_alone();
            let current = self.filter();
            let next = Arc::new(LiveFilter::new(current.mib()));
            self.filters.store(Arc::new(Filters { current, next: Some(Arc::clone(&next)) }));
            next
        };
        let noted = warm.scan_live(&[], &[0xFF; LIVE_PREFIX_BYTES + 1])?.try_for_each(|entry| {
            let (key, _) = entry?;
            if let Some((view, tenant, entity)) = read_key(&key) {
                next.insert(key::key_hash(view, tenant, entity.as_bytes()));
            }
            Ok(())
        });
        let _alone = self.write_alone();
        let current = if noted.is_ok() { next } else { self.filter() };
        self.filters.store(Arc::new(Filters { current, next: None }));
        noted
    }

    fn note(&self, hash: u64) {
        let filters = self.filters.load();
        filters.current.insert(hash);
        if let Some(next) = &filters.next {
            next.insert(hash);
        }
    }
}

/// The parts of a live key; `None` when it is not one.
pub(crate) fn read_key(key: &[u8]) -> Option<(u16, TenantId, String)> {
    let (prefix, entity) = key.split_first_chunk::<LIVE_PREFIX_BYTES>()?;
    let [a, b, c, d, e, f] = *prefix;
    Some((u16::from_be_bytes([a, b]), TenantId(u32::from_be_bytes([c, d, e, f])), key::read_entity(entity)?))
}

/// See [`Store::write`](crate::Store::write).
pub(crate) fn write(inner: &Inner, writes: &[Write<'_>], now_ms: i64) -> Result<Written, Error> {
    let rows: usize = writes.iter().map(|write| write.rows.num_rows()).sum();
    if rows > MAX_WRITE_ROWS {
        let message = format!("{rows} rows, one write takes at most {MAX_WRITE_ROWS}: write in parts");
        return Err(Error::FixRequest(message));
    }
    let writing = inner.live.write_shared();
    let mut gathering = Gathering {
        inner,
        now_ms,
        batch: WriteBatch::default(),
        touched: Vec::new(),
        operand: Vec::new(),
        written: Written::default(),
    };
    for write in writes {
        gathering.add(write)?;
    }
    let Gathering { batch, touched, written, .. } = gathering;
    if touched.is_empty() {
        metrics::record_write(&written);
        return Ok(written);
    }
    touched.iter().for_each(|key| inner.live.note(key.hash));
    inner.warm.write_synced(batch)?;
    drop(writing);
    tell_hot(inner, &touched);
    metrics::record_write(&written);
    Ok(written)
}

/// An entity whose live rows change.
pub(crate) struct Touched {
    pub(crate) view: u16,
    pub(crate) tenant: TenantId,
    pub(crate) entity: String,
    pub(crate) hash: u64,
}

impl Touched {
    pub(crate) fn new(view: u16, tenant: TenantId, entity: &str) -> Touched {
        Touched { view, tenant, entity: entity.to_string(), hash: key::key_hash(view, tenant, entity.as_bytes()) }
    }

    fn live_key(&self) -> Vec<u8> {
        let mut key = key::live_prefix(self.view, self.tenant).to_vec();
        key::push_entity(&mut key, self.entity.as_bytes());
        key
    }
}

/// Drops what the hot tier knew of the entities, under every generation that a fetch can ask for. The order matters: what a fetch inserts after
/// the first step is dropped there; what it inserted before is under a generation that the table names in the second.
pub(crate) fn tell_hot(inner: &Inner, touched: &[Touched]) {
    if !inner.hot.is_on() {
        return;
    }
    inner.hot.note_written(touched.iter().map(|touched| touched.hash));
    let table = inner.generations.load();
    let mut key = Vec::new();
    for Touched { view, tenant, entity, hash } in touched {
        let stored = table.pair(*view, *tenant).into_iter().flat_map(|pair| pair.readable());
        for generation in stored.chain([NO_GENERATION]) {
            key.clear();
            key.extend_from_slice(&GenerationId { view: *view, tenant: *tenant, generation }.prefix());
            key::push_entity(&mut key, entity.as_bytes());
            inner.hot.forget(&key, *hash);
        }
    }
}

/// A write while it is being checked and encoded.
struct Gathering<'a> {
    inner: &'a Inner,
    now_ms: i64,
    batch: WriteBatch,
    touched: Vec<Touched>,
    operand: Vec<u8>,
    written: Written,
}

impl Gathering<'_> {
    fn add(&mut self, write: &Write<'_>) -> Result<(), Error> {
        let view = Arc::clone(find_view(&self.inner.views, write.view)?);
        let expected = match write.kind {
            WriteKind::Upsert => view.config.arrow_schema(),
            WriteKind::Delete => view.config.deletion_schema(),
        };
        check_columns(&view.config.name, &expected, write.rows.schema_ref())?;
        let keys = Keys {
            entities: write.rows.column(0).as_string::<i32>(),
            times: write.rows.column(1).as_primitive::<TimestampMillisecondType>(),
            now_ms: self.now_ms,
        };
        match write.kind {
            WriteKind::Upsert => self.upsert(&view, write, &keys),
            WriteKind::Delete => self.delete(&view, write, &keys),
        }
    }

    fn upsert(&mut self, view: &View, write: &Write<'_>, keys: &Keys<'_>) -> Result<(), Error> {
        let columns = RowColumns::new(write.rows, &view.schema, keys.times.values());
        let elements = ElementKeys::of_rows(write.rows, &view.config, &view.schema);
        let max_bytes = max_row_bytes(view);
        let (mut element, mut encoded) = (Vec::new(), EncodedRows::default());
        while encoded.next() < write.rows.num_rows() {
            let encoding = columns.encode(encoded.next(), &mut encoded);
            encoding.map_err(|refused| wrong_row(view, refused.row, &refused.reason))?;
            for (index, row) in encoded.iter() {
                let wrong = |reason: &str| wrong_row(view, index, reason);
                let (entity, event_time_ms) = keys.row(index).map_err(|reason| wrong(&reason))?;
                element.clear();
                if let Some(elements) = &elements {
                    elements.push(index, &mut element).ok_or_else(|| wrong("the element key is null"))?;
                }
                if row.len() > max_bytes {
                    let bytes = row.len();
                    return Err(wrong(&format!("{bytes} bytes, a live row of this view has at most {max_bytes}")));
                }
                let change = Change { event_time_ms, sequence: 0, element: &element, row: Some(row) };
                let stored = self.put(view, write.tenant, entity, change)?;
                self.written.rows += u64::from(stored);
            }
        }
        Ok(())
    }

    fn delete(&mut self, view: &View, write: &Write<'_>, keys: &Keys<'_>) -> Result<(), Error> {
        let elements = ElementKeys::of_deletions(write.rows, &view.config, &view.schema);
        let max_bytes = max_row_bytes(view);
        let mut element = Vec::new();
        for index in 0..write.rows.num_rows() {
            let wrong = |reason: &str| wrong_row(view, index, reason);
            let (entity, event_time_ms) = keys.row(index).map_err(|reason| wrong(&reason))?;
            element.clear();
            let named = elements.as_ref().map(|elements| elements.push(index, &mut element));
            if element.len() > max_bytes {
                let bytes = element.len();
                return Err(wrong(&format!(
                    "an element key of {bytes} bytes, a live row of this view has at most {max_bytes}"
                )));
            }
            let stored = match named {
                Some(None) => self.clear(view, write.tenant, entity, event_time_ms)?,
                _ => {
                    let change = Change { event_time_ms, sequence: 0, element: &element, row: None };
                    self.put(view, write.tenant, entity, change)?
                }
            };
            self.written.deletions += u64::from(stored);
        }
        Ok(())
    }

    fn put(&mut self, view: &View, tenant: TenantId, entity: &str, change: Change<'_>) -> Result<bool, Error> {
        if self.is_erased(tenant, entity, change.event_time_ms) {
            return Ok(false);
        }
        let sequence = self.inner.live.sequence.fetch_add(1, Ordering::Relaxed);
        let mut delta = Delta::new(view.config.n);
        delta.changes.push(Change { sequence, ..change });
        self.merge(view, tenant, entity, &delta)?;
        Ok(true)
    }

    fn clear(&mut self, view: &View, tenant: TenantId, entity: &str, event_time_ms: i64) -> Result<bool, Error> {
        if self.is_erased(tenant, entity, event_time_ms) {
            return Ok(false);
        }
        let mut delta = Delta::new(view.config.n);
        delta.cleared_ms = event_time_ms;
        self.merge(view, tenant, entity, &delta)?;
        Ok(true)
    }

    fn is_erased(&mut self, tenant: TenantId, entity: &str, event_time_ms: i64) -> bool {
        let erased_ms = self.inner.erasures.erased_ms(tenant, entity);
        let erased = erased_ms.is_some_and(|erased_ms| event_time_ms <= erased_ms);
        self.written.erased += u64::from(erased);
        erased
    }

    fn merge(&mut self, view: &View, tenant: TenantId, entity: &str, delta: &Delta<'_>) -> Result<(), Error> {
        let touched = Touched::new(view.config.id, tenant, entity);
        self.operand.clear();
        delta.encode(&mut self.operand);
        self.inner.warm.merge_live(&mut self.batch, &touched.live_key(), &self.operand)?;
        self.touched.push(touched);
        if self.batch.size_in_bytes() > MAX_WRITE_BYTES {
            let message = format!("more than {MAX_WRITE_BYTES} bytes of rows in one write: write in parts");
            return Err(Error::FixRequest(message));
        }
        Ok(())
    }
}

fn wrong_row(view: &View, row: usize, reason: &str) -> Error {
    Error::FixInput(format!("view {}, row {row}: {reason}", view.config.name))
}

/// Most bytes of a live row of a view, so that all those it shows make no larger value than a snapshot's row may be.
fn max_row_bytes(view: &View) -> usize {
    (MAX_ROW_BYTES / view.config.n.unwrap_or(1) as usize).max(MIN_ELEMENT_BYTES)
}

/// Entities and event times of a batch.
struct Keys<'a> {
    entities: &'a StringArray,
    times: &'a TimestampMillisecondArray,
    now_ms: i64,
}

impl<'a> Keys<'a> {
    fn row(&self, row: usize) -> Result<(&'a str, i64), String> {
        if self.entities.is_null(row) || self.times.is_null(row) {
            return Err("entity and event time must not be null".to_string());
        }
        let (entity, time) = (self.entities.value(row), self.times.value(row));
        key::check_entity(entity)?;
        if time > self.now_ms.saturating_add(MAX_AHEAD_MS) {
            return Err(format!("its event time {time} is more than a day ahead of now, {}", self.now_ms));
        }
        if time < MIN_EVENT_TIME_MS {
            return Err(format!("its event time {time} lies before the year 1"));
        }
        Ok((entity, time))
    }
}
