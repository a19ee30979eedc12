//! Reading logs. The newest entries of many keys are found in one pass: keys in order, one seek each, which finds the head and behind it
//! the entries. From 20 entries per key on that takes a third of the time of reading each entry by its key.

use std::ops::{Bound, Range, RangeBounds};

use crate::Error;
use crate::log::Log;
use crate::log::family::LogScan;
use crate::log::rows::{Entry, Head, LogKey};
use crate::view::TenantId;

/// Most payload bytes that one read returns.
pub const MAX_LOG_READ_BYTES: usize = 256 << 20;

/// One entry as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its place among the entries of its key.
    pub position: u64,
    /// The time given when it was appended, Unix milliseconds UTC.
    pub appended_at_ms: i64,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl LogRecord {
    pub(crate) fn new(position: u64, entry: &Entry<'_>) -> LogRecord {
        LogRecord { position, appended_at_ms: entry.appended_at_ms, payload: entry.payload.to_vec() }
    }
}

impl Log {
    /// The entries of a key at the positions `range`, oldest first, at most `limit`. What is expired at `now_ms` is left out, to the
    /// millisecond. May stop early when the payloads reach [`MAX_LOG_READ_BYTES`]: go on after the last position; only an empty answer
    /// means that there is nothing.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a key or a time that is not allowed, [`Error::CheckDisk`], [`Error::RestoreStore`].
    pub fn read(
        &self,
        tenant: TenantId,
        key: &str,
        range: impl RangeBounds<u64>,
        limit: usize,
        now_ms: i64,
    ) -> Result<Vec<LogRecord>, Error> {
        self.check_time(now_ms)?;
        let key = self.key(tenant, key)?;
        let mut rows = self.store.0.warm.scan_log()?;
        let mut records = Vec::new();
        let Some(head) = self.head(&mut rows, &key)? else { return Ok(records) };
        let mut bytes = 0;
        self.each_entry(&mut rows, &key, within(&head, &range), |position, entry| {
            if records.len() >= limit || bytes + entry.payload.len() > MAX_LOG_READ_BYTES {
                return Ok(false);
            }
            if entry.is_visible(self.max_age_ms(), now_ms) {
                bytes += entry.payload.len();
                records.push(LogRecord::new(position, &entry));
            }
            Ok(true)
        })?;
        Ok(records)
    }

    /// The last `n` entries of a key that are not expired at `now_ms`, oldest first.
    ///
    /// # Errors
    /// As [`read_last_many`](Log::read_last_many).
    pub fn read_last(&self, tenant: TenantId, key: &str, n: usize, now_ms: i64) -> Result<Vec<LogRecord>, Error> {
        let mut records = self.read_last_many(&[(tenant, key)], n, now_ms)?;
        Ok(records.pop().unwrap_or_default())
    }

    /// The last `n` entries of each key that are not expired at `now_ms`, oldest first; one answer per key, empty where there is nothing.
    /// All of them are read as they were at one moment.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a key or a time that is not allowed and for more than [`MAX_LOG_READ_BYTES`], [`Error::CheckDisk`],
    /// [`Error::RestoreStore`].
    pub fn read_last_many(
        &self,
        keys: &[(TenantId, &str)],
        n: usize,
        now_ms: i64,
    ) -> Result<Vec<Vec<LogRecord>>, Error> {
        self.check_time(now_ms)?;
        let log_keys = keys.iter().map(|(tenant, key)| self.key(*tenant, key)).collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<_> = (0..keys.len()).collect();
        order.sort_by_key(|&index| &log_keys[index]);
        let mut rows = self.store.0.warm.scan_log()?;
        let mut records = vec![Vec::new(); keys.len()];
        let mut bytes_left = MAX_LOG_READ_BYTES;
        for index in order {
            records[index] = self.newest(&mut rows, &log_keys[index], n, now_ms, &mut bytes_left)?;
        }
        Ok(records)
    }

    fn newest(
        &self,
        rows: &mut LogScan<'_>,
        key: &LogKey,
        n: usize,
        now_ms: i64,
        bytes_left: &mut usize,
    ) -> Result<Vec<LogRecord>, Error> {
        let mut records = Vec::new();
        let Some(head) = self.head(rows, key)?.filter(|head| now_ms < head.expires_at_ms) else { return Ok(records) };
        while records.len() < n {
            let Some((row, value)) = rows.forward()? else { break };
            let Some(position) = key.position_of(row).filter(|position| *position >= head.first) else { break };
            let entry = Entry::decode(value).map_err(|damaged| self.damaged(damaged))?;
            // Greater positions are of an earlier life of the key, if the clock was set back since; those entries are expired.
            if position < head.next && entry.is_visible(self.max_age_ms(), now_ms) {
                *bytes_left = bytes_left.checked_sub(entry.payload.len()).ok_or_else(|| {
                    self.refused(format!(
                        "one read returns at most {MAX_LOG_READ_BYTES} bytes: ask for fewer keys or entries"
                    ))
                })?;
                records.push(LogRecord::new(position, &entry));
            }
        }
        records.reverse();
        Ok(records)
    }

    /// The head of a key; afterwards the cursor stands on it.
    pub(crate) fn head(&self, rows: &mut LogScan<'_>, key: &LogKey) -> Result<Option<Head>, Error> {
        let wanted = key.head();
        match rows.seek(&wanted)? {
            Some((row, value)) if row == wanted => {
                Head::decode(value).map(Some).map_err(|damaged| self.damaged(damaged))
            }
            _ => Ok(None),
        }
    }

    /// Visits the entries of a key at `positions`, oldest first, until `visit` says false.
    pub(crate) fn each_entry(
        &self,
        rows: &mut LogScan<'_>,
        key: &LogKey,
        positions: Range<u64>,
        mut visit: impl FnMut(u64, Entry<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut row = rows.seek_back(&key.entry(positions.start))?;
        while let Some((bytes, value)) = row {
            let Some(position) = key.position_of(bytes).filter(|position| *position < positions.end) else { break };
            let entry = Entry::decode(value).map_err(|damaged| self.damaged(damaged))?;
            if !visit(position, entry)? {
                break;
            }
            row = rows.back()?;
        }
        Ok(())
    }
}

/// The positions of a key that a range asks for.
fn within(head: &Head, range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(position) => *position,
        Bound::Excluded(position) => position.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(position) => position.saturating_add(1),
        Bound::Excluded(position) => *position,
        Bound::Unbounded => u64::MAX,
    };
    start.max(head.first)..end.min(head.next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::model::{NOW_MS, entries, open, payloads, turns};

    const SHOP: TenantId = TenantId(1);

    #[test]
    fn an_entry_expires_at_its_millisecond() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(10)).unwrap();
        log.append(SHOP, "ada", &entries(["old"]), NOW_MS).unwrap();
        log.append(SHOP, "ada", &entries(["new"]), NOW_MS + 500).unwrap();
        let age_ms = 60_000;
        for (now_ms, expected) in [
            (NOW_MS + age_ms - 1, vec!["old", "new"]),
            (NOW_MS + age_ms, vec!["new"]),
            (NOW_MS + age_ms + 499, vec!["new"]),
            (NOW_MS + age_ms + 500, vec![]),
        ] {
            assert_eq!(payloads(&log.read_last(SHOP, "ada", 9, now_ms).unwrap()), expected);
            assert_eq!(payloads(&log.read(SHOP, "ada", .., 9, now_ms).unwrap()), expected);
            assert_eq!(log.keys(SHOP, None, 9, now_ms).unwrap().is_empty(), expected.is_empty());
        }
    }

    #[test]
    fn a_shorter_age_counts_at_once_and_a_longer_one_for_new_entries() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let with_age = |max_age_s| store.log(crate::LogConfig { max_age_s, ..turns(10) }).unwrap();
        with_age(60).append(SHOP, "ada", &entries(["turn"]), NOW_MS).unwrap();
        let seen = |max_age_s, now_ms| with_age(max_age_s).read_last(SHOP, "ada", 1, now_ms).unwrap().len();
        assert_eq!((seen(5, NOW_MS + 4_999), seen(5, NOW_MS + 5_000)), (1, 0));
        assert_eq!((seen(600, NOW_MS + 59_999), seen(600, NOW_MS + 60_000)), (1, 0));
    }

    #[test]
    fn ranges_and_limits_select_positions() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(10)).unwrap();
        let at = log.append(SHOP, "ada", &entries(["a", "b", "c", "d"]), NOW_MS).unwrap();
        let read = |range: (Bound<u64>, Bound<u64>), limit| {
            payloads(&log.read(SHOP, "ada", range, limit, NOW_MS).unwrap()).join("")
        };
        assert_eq!(read((Bound::Included(at[1]), Bound::Unbounded), 9), "bcd");
        assert_eq!(read((Bound::Excluded(at[1]), Bound::Included(at[2])), 9), "c");
        assert_eq!(read((Bound::Unbounded, Bound::Excluded(at[2])), 9), "ab");
        assert_eq!(read((Bound::Unbounded, Bound::Unbounded), 3), "abc");
        assert_eq!(read((Bound::Included(at[3]), Bound::Excluded(at[1])), 9), "");
        assert_eq!(read((Bound::Unbounded, Bound::Unbounded), 0), "");
        let record = &log.read(SHOP, "ada", at[2].., 1, NOW_MS + 1).unwrap()[0];
        assert_eq!((record.position, record.appended_at_ms), (at[2], NOW_MS));
    }

    #[test]
    fn many_keys_are_answered_in_the_order_asked() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(10)).unwrap();
        for (key, says) in [("b", ["b1", "b2", "b3"]), ("a", ["a1", "a2", "a3"])] {
            log.append(SHOP, key, &entries(says), NOW_MS).unwrap();
        }
        log.append(TenantId(2), "a", &entries(["other shop"]), NOW_MS).unwrap();
        let asked = [(SHOP, "b"), (SHOP, "nobody"), (TenantId(2), "a"), (SHOP, "a"), (SHOP, "b")];
        let read = log.read_last_many(&asked, 2, NOW_MS).unwrap();
        let read: Vec<_> = read.iter().map(|records| payloads(records).join(" ")).collect();
        assert_eq!(read, ["b2 b3", "", "other shop", "a2 a3", "b2 b3"]);
    }

    #[test]
    fn a_damaged_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let log = store.log(turns(10)).unwrap();
        let at = log.append(SHOP, "ada", &entries(["turn"]), NOW_MS).unwrap()[0];
        let key = log.key(SHOP, "ada").unwrap();
        for (row, value, expected) in [
            (key.entry(at), b"short".as_slice(), "log turns: the value of an entry is shorter than its header"),
            (key.head(), b"short", "log turns: the value of a head has the wrong length or ending"),
        ] {
            let mut batch = store.0.warm.log_batch().unwrap();
            batch.put(&row, value);
            store.0.warm.write_log(batch).unwrap();
            let message = log.read_last(SHOP, "ada", 1, NOW_MS).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(message.contains(&folder.path().display().to_string()), "{message}");
        }
    }
}
