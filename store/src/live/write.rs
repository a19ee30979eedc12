//! Live rows: what applications write while the node serves. A write is checked whole, becomes one batch of merge operands, is committed
//! with one synced write, and only then acknowledged; the very next fetch sees it.
//!
//! The order of steps is the guarantee. The filter learns of a key before the commit, so no fetch that could see the row skips the live family;
//! the hot tier is told after the commit and before the acknowledgement, so no fetch that starts afterwards gets what was known before.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::TimestampMillisecondType;
use rocksdb::WriteBatch;

use crate::delta::{Change, Delta};
use crate::encode::{ElementKeys, EncodedRows, RowColumns};
use crate::key;
use crate::live::late::{self, Noted};
use crate::live::{Touched, tell_hot};
use crate::plan::{View, find_view};
use crate::store::Inner;
use crate::stream::{self, StreamSpan};
use crate::view::{TenantId, check_columns};
use crate::writer::MAX_ROW_BYTES;
use crate::{Error, meta, metrics};

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
    /// Of these rows and deletions: how many came late and change nothing, because something newer of their entity (in a history, of their
    /// element) was there before. Rows that lie cold are not looked at for this.
    pub late: u64,
    /// Rows and deletions left out, because their entity was erased at or after their event time.
    pub erased: u64,
}

impl Written {
    /// Takes in what another write did.
    pub(crate) fn add(self, other: Written) -> Written {
        Written {
            rows: self.rows + other.rows,
            deletions: self.deletions + other.deletions,
            late: self.late + other.late,
            erased: self.erased + other.erased,
        }
    }
}

/// See [`Store::write_each`](crate::Store::write_each) and [`Store::write_from`](crate::Store::write_from).
pub(crate) fn write(
    inner: &Inner,
    writes: &[Write<'_>],
    span: Option<&StreamSpan<'_>>,
    now_ms: i64,
) -> Result<Vec<Written>, Error> {
    let Some(span) = span else { return commit(inner, writes, None, now_ms) };
    let stream = inner.streams.of_span(span)?;
    // Held until the rows are on disk.
    let mut position = stream.lock().unwrap_or_else(PoisonError::into_inner);
    stream::check(span, *position)?;
    let written = commit(inner, writes, Some(span), now_ms)?;
    *position = Some(span.to);
    Ok(written)
}

/// See [`Store::move_stream`](crate::Store::move_stream).
pub(crate) fn move_stream(inner: &Inner, name: &str, to: u64) -> Result<Option<u64>, Error> {
    let stream = inner.streams.stream(name)?;
    let mut position = stream.lock().unwrap_or_else(PoisonError::into_inner);
    commit(inner, &[], Some(&StreamSpan { stream: name, from: to, to }), 0)?;
    Ok(position.replace(to))
}

/// See [`Store::check`](crate::Store::check).
pub(crate) fn check(inner: &Inner, writes: &[Write<'_>], now_ms: i64) -> Result<(), Error> {
    gather(inner, writes, now_ms).map(drop)
}

/// Writes rows, and the position of the stream that they came from.
fn commit(
    inner: &Inner,
    writes: &[Write<'_>],
    span: Option<&StreamSpan<'_>>,
    now_ms: i64,
) -> Result<Vec<Written>, Error> {
    let writing = inner.live.write_shared();
    let Gathering { mut batch, touched, noted, mut written, .. } = gather(inner, writes, now_ms)?;
    if let Some(span) = span {
        meta::put_stream(&inner.warm, &mut batch, span.stream, span.to)?;
    }
    if batch.is_empty() {
        written.iter().for_each(metrics::record_write);
        return Ok(written);
    }
    let (filter, table) = (inner.live.filter(), inner.generations.load());
    let (mut suspects, mut said) = (Vec::new(), late::Said::default());
    for (noted, touched) in noted.iter().zip(&touched) {
        if said.outdates(noted, touched) {
            written[noted.write].late += 1;
        } else if late::may_be(filter.may_contain(touched.hash), noted, touched, &table) {
            suspects.push((noted, touched));
        }
    }
    touched.iter().for_each(|key| inner.live.note(key.hash));
    if let Err(error) = late::count(inner, suspects.into_iter(), &table, |write| written[write].late += 1) {
        // Whether the rows can be written does not depend on it.
        tracing::warn!(%error, "late rows of a write could not be counted");
    }
    inner.warm.write_synced(batch)?;
    drop(writing);
    tell_hot(inner, &touched);
    written.iter().for_each(metrics::record_write);
    Ok(written)
}

/// Checks and encodes writes, all of them or none.
fn gather<'a>(inner: &'a Inner, writes: &[Write<'_>], now_ms: i64) -> Result<Gathering<'a>, Error> {
    let rows: usize = writes.iter().map(|write| write.rows.num_rows()).sum();
    if rows > MAX_WRITE_ROWS {
        let message = format!("{rows} rows, one write takes at most {MAX_WRITE_ROWS}: write in parts");
        return Err(Error::FixRequest(message));
    }
    let mut gathering = Gathering {
        inner,
        now_ms,
        batch: WriteBatch::default(),
        touched: Vec::new(),
        noted: Vec::new(),
        operand: Vec::new(),
        written: Vec::with_capacity(writes.len()),
    };
    for write in writes {
        gathering.written.push(Written::default());
        gathering.add(write)?;
    }
    Ok(gathering)
}

/// A write while it is being checked and encoded.
struct Gathering<'a> {
    inner: &'a Inner,
    now_ms: i64,
    batch: WriteBatch,
    touched: Vec<Touched>,
    /// What each of them is for.
    noted: Vec<Noted>,
    operand: Vec<u8>,
    /// Of each write so far; the last is under way.
    written: Vec<Written>,
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

    fn upsert(&mut self, view: &Arc<View>, write: &Write<'_>, keys: &Keys<'_>) -> Result<(), Error> {
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
                self.count(|written| written.rows += u64::from(stored));
            }
        }
        Ok(())
    }

    fn delete(&mut self, view: &Arc<View>, write: &Write<'_>, keys: &Keys<'_>) -> Result<(), Error> {
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
            self.count(|written| written.deletions += u64::from(stored));
        }
        Ok(())
    }

    fn count(&mut self, count: impl FnOnce(&mut Written)) {
        if let Some(written) = self.written.last_mut() {
            count(written);
        }
    }

    fn put(&mut self, view: &Arc<View>, tenant: TenantId, entity: &str, change: Change<'_>) -> Result<bool, Error> {
        if self.is_erased(tenant, entity, change.event_time_ms) {
            return Ok(false);
        }
        let sequence = self.inner.live.sequence.fetch_add(1, Ordering::Relaxed);
        let mut delta = Delta::new(view.config.n);
        delta.changes.push(Change { sequence, ..change });
        self.merge(view, tenant, entity, &delta)?;
        self.note(view, change.event_time_ms, Some(change.element.to_vec()));
        Ok(true)
    }

    fn clear(&mut self, view: &Arc<View>, tenant: TenantId, entity: &str, event_time_ms: i64) -> Result<bool, Error> {
        if self.is_erased(tenant, entity, event_time_ms) {
            return Ok(false);
        }
        let mut delta = Delta::new(view.config.n);
        delta.cleared_ms = event_time_ms;
        self.merge(view, tenant, entity, &delta)?;
        self.note(view, event_time_ms, None);
        Ok(true)
    }

    fn note(&mut self, view: &Arc<View>, event_time_ms: i64, element: Option<Vec<u8>>) {
        let write = self.written.len() - 1;
        self.noted.push(Noted { view: Arc::clone(view), write, event_time_ms, element });
    }

    fn is_erased(&mut self, tenant: TenantId, entity: &str, event_time_ms: i64) -> bool {
        let erased_ms = self.inner.erasures.erased_ms(tenant, entity);
        let erased = erased_ms.is_some_and(|erased_ms| event_time_ms <= erased_ms);
        self.count(|written| written.erased += u64::from(erased));
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
