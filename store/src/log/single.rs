//! Single entries of a log, told by their dedup keys: found without reading the others, and removed from their midst. What a queue does
//! whose entries are dealt with in another order than they came.

use std::collections::BTreeSet;
use std::ops::Deref;

use crate::Error;
use crate::log::Log;
use crate::log::family::LogBatch;
use crate::log::read::LogRecord;
use crate::log::rows::{Entry, LogKey};
use crate::view::TenantId;

/// An entry, told by its dedup key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogName<'a> {
    /// Whose entry it is.
    pub tenant: TenantId,
    /// The key within the tenant.
    pub key: &'a str,
    /// The dedup key it was appended with.
    pub dedup: &'a str,
}

impl Log {
    /// The entry with this dedup key; none where it was never appended, is expired at `now_ms`, trimmed or removed.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a key or a time that is not allowed, [`Error::CheckDisk`], [`Error::RestoreStore`].
    pub fn find(&self, name: LogName<'_>, now_ms: i64) -> Result<Option<LogRecord>, Error> {
        self.check_time(now_ms)?;
        let key = self.key(name.tenant, name.key)?;
        let Some((position, value)) = self.named(&key, name.dedup)? else { return Ok(None) };
        let entry = Entry::decode(&value).map_err(|damaged| self.damaged(damaged))?;
        let visible = entry.is_visible(self.max_age_ms(), now_ms);
        Ok(visible.then(|| LogRecord::new(position, &entry)))
    }

    /// Removes entries, each told by its dedup key, and returns how many there were. All of it is one synced write, durable when it returns.
    /// The others keep their positions; the place of a removed entry counts for the log's `max_entries` until those before it are gone.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a key that is not allowed, [`Error::FreeSpace`], [`Error::RestartStore`], [`Error::RestoreStore`].
    pub fn remove_many(&self, names: &[LogName<'_>]) -> Result<usize, Error> {
        let keys = names.iter().map(|name| self.key(name.tenant, name.key)).collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<_> = (0..names.len()).collect();
        order.sort_by_key(|&index| &keys[index]);
        let warm = &self.store.0.warm;
        let _locked = self.store.0.log_locks.lock(&keys);
        let mut batch = warm.log_batch()?;
        let mut removed = 0;
        for same_key in order.chunk_by(|&one, &other| keys[one] == keys[other]) {
            let dedups = same_key.iter().map(|&index| names[index].dedup);
            removed += self.remove_of_key(&mut batch, &keys[same_key[0]], dedups)?;
        }
        warm.write_log(batch)?;
        Ok(removed)
    }

    /// Its lock is held.
    fn remove_of_key<'a>(
        &self,
        batch: &mut LogBatch<'_>,
        key: &LogKey,
        dedups: impl Iterator<Item = &'a str>,
    ) -> Result<usize, Error> {
        let mut removed = BTreeSet::new();
        for dedup in dedups {
            let Some((position, value)) = self.named(key, dedup)? else { continue };
            let entry = Entry::decode(&value).map_err(|damaged| self.damaged(damaged))?;
            if removed.insert(position) {
                self.delete_entry(batch, key, position, &entry)?;
            }
        }
        let mut rows = self.store.0.warm.scan_log()?;
        let Some(mut head) = self.head(&mut rows, key)?.filter(|_| !removed.is_empty()) else { return Ok(0) };
        let mut first = head.next;
        self.each_entry(&mut rows, key, head.first..head.next, |position, _| {
            if removed.contains(&position) {
                return Ok(true);
            }
            first = position;
            Ok(false)
        })?;
        head.first = first;
        batch.put(&key.head(), &head.encode());
        Ok(removed.len())
    }

    /// Position and bytes of the entry that a dedup key stands for, expired or not.
    pub(crate) fn named(&self, key: &LogKey, dedup: &str) -> Result<Option<(u64, impl Deref<Target = [u8]>)>, Error> {
        let mut mark = self.dedup_mark(key, dedup.as_bytes())?;
        while let Some(found) = mark {
            if let Some(value) = self.store.0.warm.read_log(&key.entry(found.position))? {
                let entry = Entry::decode(&value).map_err(|damaged| self.damaged(damaged))?;
                let same = entry.dedup == dedup.as_bytes();
                return Ok(same.then_some((found.position, value)));
            }
            // Gone between the two reads, which hold no lock: perhaps another took its place.
            let again = self.dedup_mark(key, dedup.as_bytes())?;
            if again == mark {
                break;
            }
            mark = again;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogEntry;
    use crate::log::model::{NOW_MS, open, payloads, rows, turns};

    const SHOP: TenantId = TenantId(1);

    fn name<'a>(key: &'a str, dedup: &'a str) -> LogName<'a> {
        LogName { tenant: SHOP, key, dedup }
    }

    fn append(log: &Log, key: &str, dedups: &[&str]) -> Vec<u64> {
        let entries: Vec<_> =
            dedups.iter().map(|dedup| LogEntry { dedup: Some(dedup), payload: dedup.as_bytes() }).collect();
        log.append(SHOP, key, &entries, NOW_MS).unwrap()
    }

    fn left(log: &Log, key: &str) -> String {
        payloads(&log.read(SHOP, key, .., 99, NOW_MS).unwrap()).join("")
    }

    #[test]
    fn an_entry_is_found_by_its_dedup_key_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(9)).unwrap();
        let at = append(&log, "queue", &["a", "b"]);
        let found = log.find(name("queue", "b"), NOW_MS + 59_999).unwrap().unwrap();
        assert_eq!((found.position, found.payload.as_slice()), (at[1], b"b".as_slice()));
        assert_eq!(log.find(name("queue", "b"), NOW_MS + 60_000).unwrap(), None);
        assert_eq!(log.find(name("queue", "c"), NOW_MS).unwrap(), None);
        assert_eq!(log.find(name("other", "b"), NOW_MS).unwrap(), None);
        assert_eq!(log.find(LogName { tenant: TenantId(2), ..name("queue", "b") }, NOW_MS).unwrap(), None);
    }

    #[test]
    fn removed_entries_leave_no_row_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let log = store.log(turns(9)).unwrap();
        let at = append(&log, "queue", &["a", "b", "c", "d"]);
        append(&log, "other", &["x"]);
        let names = [name("queue", "b"), name("other", "x"), name("queue", "b"), name("queue", "nobody")];
        assert_eq!(log.remove_many(&names).unwrap(), 2);
        assert_eq!((left(&log, "queue"), left(&log, "other")), ("acd".to_owned(), String::new()));
        assert_eq!(log.keys(SHOP, None, 9, NOW_MS).unwrap(), ["queue"]);
        assert_eq!(log.remove_many(&[name("queue", "a"), name("queue", "d")]).unwrap(), 2);
        assert_eq!(left(&log, "queue"), "c");
        // A declaration, two heads, and one entry with its mark.
        assert_eq!(rows(&store), 5);
        // Positions go on, and a name that was removed is free again.
        assert_eq!(append(&log, "queue", &["a", "c"]), [at[3] + 1, at[2]]);
        assert_eq!(left(&log, "queue"), "ca");
        assert_eq!(log.remove_many(&[]).unwrap(), 0);
    }

    #[test]
    fn a_place_counts_until_those_before_it_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(3)).unwrap();
        append(&log, "queue", &["a", "b", "c"]);
        log.remove_many(&[name("queue", "b")]).unwrap();
        append(&log, "queue", &["d"]);
        assert_eq!(left(&log, "queue"), "cd", "the oldest is trimmed though only two are left");
        log.remove_many(&[name("queue", "c")]).unwrap();
        append(&log, "queue", &["e", "f"]);
        assert_eq!(left(&log, "queue"), "def");
    }
}
