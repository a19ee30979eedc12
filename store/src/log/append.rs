//! Appending to logs: one synced write batch for all keys of a call, so that a batch of conversations costs one wait for the disk.

use std::collections::HashMap;
use std::time::Instant;

use crate::log::Log;
use crate::log::family::LogBatch;
use crate::log::rows::{DedupMark, Entry, Head, LogKey};
use crate::view::TenantId;
use crate::{Error, metrics};

/// Longest dedup key, in bytes of UTF-8.
pub const MAX_LOG_DEDUP_BYTES: usize = 256;
/// Most bytes of payloads that one call may append.
pub const MAX_LOG_APPEND_BYTES: usize = 16 << 20;

/// One entry to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// While an entry with this dedup key is in the log, appending it again changes nothing and returns its position.
    pub dedup: Option<&'a str>,
    /// The bytes to remember.
    pub payload: &'a [u8],
}

/// Entries to be appended under one key.
#[derive(Debug, Clone, Copy)]
pub struct LogAppend<'a> {
    /// Whose entries these are.
    pub tenant: TenantId,
    /// The key within the tenant.
    pub key: &'a str,
    /// The entries, oldest first.
    pub entries: &'a [LogEntry<'a>],
}

impl Log {
    /// Appends entries under one key and returns their positions. See [`append_many`](Log::append_many).
    ///
    /// # Errors
    /// As [`append_many`](Log::append_many).
    pub fn append(
        &self,
        tenant: TenantId,
        key: &str,
        entries: &[LogEntry<'_>],
        now_ms: i64,
    ) -> Result<Vec<u64>, Error> {
        let mut positions = self.append_many(&[LogAppend { tenant, key, entries }], now_ms)?;
        Ok(positions.pop().unwrap_or_default())
    }

    /// Appends to many keys at once and returns a position per entry. When it returns, all of it is durable; when it fails, nothing of it
    /// has happened, except that after a disk error the entries may yet be found.
    ///
    /// Positions of a key grow by one. They start at the time in microseconds, also when a key was removed or had nothing to keep for the
    /// log's age limit, so that a position never means a second entry. Entries beyond the log's `max_entries` are trimmed, oldest first.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a key, dedup key or payload beyond its limit, for more entries under a key than the log keeps, for more
    /// than [`MAX_LOG_APPEND_BYTES`] and for a time out of range; [`Error::FreeSpace`], [`Error::RestartStore`], [`Error::RestoreStore`].
    pub fn append_many(&self, appends: &[LogAppend<'_>], now_ms: i64) -> Result<Vec<Vec<u64>>, Error> {
        let started = Instant::now();
        self.check_time(now_ms)?;
        self.check_entries(appends)?;
        let keys = appends.iter().map(|append| self.key(append.tenant, append.key)).collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<_> = (0..appends.len()).collect();
        order.sort_by_key(|&index| &keys[index]);
        let warm = &self.store.0.warm;
        let _locked = self.store.0.log_locks.lock(&keys);
        let mut batch = warm.log_batch()?;
        let mut positions = vec![Vec::new(); appends.len()];
        let mut written = 0;
        for same_key in order.chunk_by(|&one, &other| keys[one] == keys[other]) {
            let mut growing = Growing::new(self, &keys[same_key[0]], now_ms)?;
            for &index in same_key {
                let added = appends[index].entries.iter().map(|entry| growing.add(entry));
                positions[index] = added.collect::<Result<_, _>>()?;
            }
            written += growing.fresh.len() as u64;
            growing.write(&mut batch)?;
        }
        warm.write_log(batch)?;
        metrics::record_log_append(written, started.elapsed());
        Ok(positions)
    }

    fn check_entries(&self, appends: &[LogAppend<'_>]) -> Result<(), Error> {
        let mut bytes = 0usize;
        for entry in appends.iter().flat_map(|append| append.entries) {
            let (length, allowed) = (entry.payload.len(), self.config.max_entry_bytes);
            if length > allowed as usize {
                return Err(self.refused(format!("an entry has at most {allowed} bytes, this one {length}")));
            }
            if let Some(length) = entry.dedup.map(str::len).filter(|length| !(1..=MAX_LOG_DEDUP_BYTES).contains(length))
            {
                let allowed = format!("a dedup key has 1 to {MAX_LOG_DEDUP_BYTES} bytes");
                return Err(self.refused(format!("{allowed}, this one {length}")));
            }
            bytes = bytes.saturating_add(length);
        }
        if bytes > MAX_LOG_APPEND_BYTES {
            let allowed = format!("one call appends at most {MAX_LOG_APPEND_BYTES} bytes");
            return Err(self.refused(format!("{allowed}, not {bytes}: append in parts")));
        }
        Ok(())
    }

    pub(crate) fn dedup_mark(&self, key: &LogKey, dedup: &[u8]) -> Result<Option<DedupMark>, Error> {
        let value = self.store.0.warm.read_log(&key.dedup(dedup))?;
        value.map(|value| DedupMark::decode(&value)).transpose().map_err(|damaged| self.damaged(damaged))
    }
}

/// One key while entries are added to it; its lock is held.
struct Growing<'a> {
    log: &'a Log,
    key: &'a LogKey,
    now_ms: i64,
    head: Head,
    /// Entries that will be written; the first has position `first_fresh`.
    fresh: Vec<LogEntry<'a>>,
    first_fresh: u64,
    fresh_dedups: HashMap<&'a str, u64>,
}

impl<'a> Growing<'a> {
    fn new(log: &'a Log, key: &'a LogKey, now_ms: i64) -> Result<Growing<'a>, Error> {
        let head = match log.store.0.warm.read_log(&key.head())? {
            Some(value) => Head::decode(&value).map_err(|damaged| log.damaged(damaged))?,
            None => Head::starting(now_ms),
        };
        let fresh_dedups = HashMap::new();
        Ok(Growing { log, key, now_ms, head, fresh: Vec::new(), first_fresh: head.next, fresh_dedups })
    }

    /// The position of an entry, which is a new one unless its dedup key is known.
    fn add(&mut self, entry: &LogEntry<'a>) -> Result<u64, Error> {
        let position = self.head.next;
        if let Some(dedup) = entry.dedup {
            if let Some(known) = self.fresh_dedups.get(dedup) {
                return Ok(*known);
            }
            if let Some(known) = self.find(dedup)? {
                return Ok(known);
            }
            self.fresh_dedups.insert(dedup, position);
        }
        let allowed = self.log.config.max_entries as usize;
        if self.fresh.len() == allowed {
            return Err(self
                .log
                .refused(format!("it keeps {allowed} entries of a key, more cannot be appended at once")));
        }
        self.fresh.push(*entry);
        self.head.next += 1;
        Ok(position)
    }

    /// Where the visible entry with this dedup key stands.
    fn find(&self, dedup: &str) -> Result<Option<u64>, Error> {
        let Some((position, value)) = self.log.named(self.key, dedup)? else { return Ok(None) };
        let entry = Entry::decode(&value).map_err(|damaged| self.log.damaged(damaged))?;
        Ok(entry.is_visible(self.log.max_age_ms(), self.now_ms).then_some(position))
    }

    fn write(self, batch: &mut LogBatch<'_>) -> Result<(), Error> {
        let Growing { log, key, now_ms, mut head, fresh, first_fresh, .. } = self;
        if fresh.is_empty() {
            return Ok(());
        }
        let first_kept = head.first.max(head.next.saturating_sub(log.config.max_entries.into()));
        // Deletions stand before the new rows: a dedup mark that moves to a new entry must stay.
        if !head.has_dedups {
            (head.first..first_kept).for_each(|position| batch.delete(&key.entry(position)));
        } else if head.first < first_kept {
            let mut rows = log.store.0.warm.scan_log()?;
            log.each_entry(&mut rows, key, head.first..first_kept, |position, entry| {
                log.delete_entry(batch, key, position, &entry)?;
                Ok(true)
            })?;
        }
        head.first = first_kept;
        head.has_dedups |= fresh.iter().any(|entry| entry.dedup.is_some());
        let expires_at_ms = now_ms + log.max_age_ms();
        for (position, entry) in (first_fresh..).zip(&fresh) {
            let dedup = entry.dedup.unwrap_or_default().as_bytes();
            let row = Entry { expires_at_ms, appended_at_ms: now_ms, dedup, payload: entry.payload };
            batch.put(&key.entry(position), &row.encode());
            if !dedup.is_empty() {
                batch.put(&key.dedup(dedup), &DedupMark { expires_at_ms, position }.encode());
            }
        }
        head.expires_at_ms = head.expires_at_ms.max(expires_at_ms);
        batch.put(&key.head(), &head.encode());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::model::{NOW_MS, entries, open, payloads, turns};
    use std::collections::BTreeSet;
    use std::{fs, thread};

    const SHOP: TenantId = TenantId(1);

    fn queued<'a>(dedup: &'a str, payload: &'a str) -> LogEntry<'a> {
        LogEntry { dedup: Some(dedup), payload: payload.as_bytes() }
    }

    #[test]
    fn a_known_dedup_key_gets_the_old_position() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(3)).unwrap();
        let append = |says: &[LogEntry<'_>], now_ms| log.append(SHOP, "queue", says, now_ms).unwrap();
        let at = append(&[queued("q1", "one"), queued("q2", "two"), queued("q1", "again")], NOW_MS);
        let start = at[0];
        assert_eq!(at, [start, start + 1, start]);
        assert_eq!(append(&[queued("q2", "again"), queued("q3", "three")], NOW_MS), [start + 1, start + 2]);
        assert_eq!(payloads(&log.read(SHOP, "queue", .., 9, NOW_MS).unwrap()), ["one", "two", "three"]);
        // Trimmed by hand, trimmed by number and expired entries are known no more.
        log.trim(SHOP, "queue", start).unwrap();
        assert_eq!(append(&[queued("q1", "new one")], NOW_MS), [start + 3]);
        assert_eq!(append(&[queued("q4", "four"), queued("q2", "new two")], NOW_MS), [start + 4, start + 1]);
        assert_eq!(append(&[queued("q2", "new two")], NOW_MS), [start + 5]);
        let later = NOW_MS + 60_000;
        assert_eq!(append(&[queued("q2", "newest two"), queued("q5", "five")], later), [start + 6, start + 7]);
        // The old entry of q2 is trimmed now; the mark of the newer one must not go with it.
        assert_eq!(append(&[queued("q6", "six")], later), [start + 8]);
        assert_eq!(append(&[queued("q2", "again")], later), [start + 6]);
        assert_eq!(payloads(&log.read(SHOP, "queue", .., 9, later).unwrap()), ["newest two", "five", "six"]);
    }

    #[test]
    fn beyond_the_limit_the_oldest_go_in_the_same_batch() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let log = store.log(turns(3)).unwrap();
        for says in ["a", "b", "c", "d", "e"] {
            log.append(SHOP, "ada", &entries([says]), NOW_MS).unwrap();
        }
        assert_eq!(payloads(&log.read_last(SHOP, "ada", 9, NOW_MS).unwrap()), ["c", "d", "e"]);
        // A lower limit counts with the next append.
        let log = store.log(turns(2)).unwrap();
        log.append(SHOP, "ada", &entries(["f"]), NOW_MS).unwrap();
        assert_eq!(payloads(&log.read_last(SHOP, "ada", 9, NOW_MS).unwrap()), ["e", "f"]);
    }

    #[test]
    fn one_call_may_name_a_key_twice() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(9)).unwrap();
        let (one, two, three) = (entries(["one", "two"]), entries(["elsewhere"]), entries(["three"]));
        let append = |key, entries| LogAppend { tenant: SHOP, key, entries };
        let at = log.append_many(&[append("b", &one), append("a", &two), append("b", &three)], NOW_MS).unwrap();
        let start = at[0][0];
        assert_eq!((at[0].as_slice(), at[2].as_slice()), ([start, start + 1].as_slice(), [start + 2].as_slice()));
        assert_eq!(payloads(&log.read(SHOP, "b", .., 9, NOW_MS).unwrap()), ["one", "two", "three"]);
        assert!(log.append(SHOP, "b", &[], NOW_MS).unwrap().is_empty());
        assert!(log.append_many(&[], NOW_MS).unwrap().is_empty());
    }

    #[test]
    fn what_is_over_a_limit_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(3)).unwrap();
        let (long_key, long_payload) = ("k".repeat(513), "x".repeat(2001));
        let good = LogEntry { dedup: None, payload: b"x" };
        let check = |key: &str, entries: &[LogEntry<'_>], now_ms, expected: &str| {
            let both =
                [LogAppend { tenant: SHOP, key: "good", entries: &[good] }, LogAppend { tenant: SHOP, key, entries }];
            let error = log.append_many(&both, now_ms).unwrap_err();
            assert!(matches!(error, Error::FixRequest(_)), "{error:?}");
            assert_eq!(error.to_string(), format!("log turns: {expected}"));
        };
        check("", &[], NOW_MS, "a key has 1 to 512 bytes, this one 0");
        check(&long_key, &[good], NOW_MS, "a key has 1 to 512 bytes, this one 513");
        check("k", &[queued("", "x")], NOW_MS, "a dedup key has 1 to 256 bytes, this one 0");
        check("k", &[queued(&long_key, "x")], NOW_MS, "a dedup key has 1 to 256 bytes, this one 513");
        check("k", &[queued("d", &long_payload)], NOW_MS, "an entry has at most 2000 bytes, this one 2001");
        check("k", &[good; 4], NOW_MS, "it keeps 3 entries of a key, more cannot be appended at once");
        check("k", &[good], -1, "the time -1 ms is not between the years 1970 and 9999");
        let full = LogEntry { dedup: None, payload: &[0; 2000] };
        let expected = "one call appends at most 16777216 bytes, not 16800001: append in parts";
        check("k", &vec![full; 8400], NOW_MS, expected);
        assert_eq!(log.keys(SHOP, None, 9, NOW_MS).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn threads_lose_and_double_no_position() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(1000)).unwrap();
        let append = |thread: usize| {
            let mut positions = Vec::new();
            for turn in 0..40 {
                let payload = format!("{thread}-{turn}");
                let both = [LogEntry { dedup: None, payload: payload.as_bytes() }, queued(&payload, "once")];
                // Two keys in different orders: nobody may wait for the other for ever.
                let (own, shared) = ("own", "shared");
                let keys = if thread.is_multiple_of(2) { [own, shared] } else { [shared, own] };
                let appends = keys.map(|key| LogAppend { tenant: SHOP, key, entries: &both });
                let at = log.append_many(&appends, NOW_MS).unwrap();
                positions.extend_from_slice(&at[keys.iter().position(|key| *key == shared).unwrap()]);
            }
            positions
        };
        let all: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || append(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let distinct: BTreeSet<_> = all.iter().copied().collect();
        let start = *distinct.first().unwrap();
        assert_eq!((all.len(), distinct.len()), (320, 320));
        assert!(distinct.iter().copied().eq(start..start + 320));
        let read: Vec<_> = log.read(SHOP, "shared", .., 1000, NOW_MS).unwrap().iter().map(|r| r.position).collect();
        assert!(distinct.into_iter().eq(read));
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let log = store.log(turns(9)).unwrap();
        log.append(SHOP, "ada", &[queued("d", "one"), queued("e", "two")], NOW_MS).unwrap();
        log.trim(SHOP, "ada", log.read(SHOP, "ada", .., 1, NOW_MS).unwrap()[0].position).unwrap();
        // The files as a process leaves them that is killed now.
        let crashed = tempfile::tempdir().unwrap();
        for file in fs::read_dir(folder.path()).unwrap().map(Result::unwrap).filter(|file| file.path().is_file()) {
            fs::copy(file.path(), crashed.path().join(file.file_name())).unwrap();
        }
        let found = open(crashed.path()).log(turns(9)).unwrap();
        assert_eq!(found.read(SHOP, "ada", .., 9, NOW_MS).unwrap(), log.read(SHOP, "ada", .., 9, NOW_MS).unwrap());
        let again = [queued("e", "again"), queued("d", "new")];
        let positions = |log: &Log| log.append(SHOP, "ada", &again, NOW_MS).unwrap();
        assert_eq!(positions(&found), positions(&log));
        assert_eq!(payloads(&found.read(SHOP, "ada", .., 9, NOW_MS).unwrap()), ["two", "new"]);
    }
}
