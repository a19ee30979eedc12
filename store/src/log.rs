//! Logs: small durable lists beside the views, for what a node must remember by itself, such as the turns of a conversation or questions
//! to be answered later. An entry belongs to a tenant and a key, has a position that only grows, and goes when it is too old or when
//! too many newer ones follow.
//!
//! All changes of a key are one synced write batch, made under the key's lock: after a crash each append, trim or removal has happened
//! whole or not at all. A log is no message broker: nobody is notified, and a worker that wants each entry once brings its own
//! idempotence ([`LogEntry::dedup`](crate::LogEntry::dedup)).

pub(crate) mod append;
pub(crate) mod family;
#[cfg(test)]
pub(crate) mod model;
pub(crate) mod read;
pub(crate) mod rows;
pub(crate) mod single;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::log::family::LogBatch;
use crate::log::rows::{Entry, Head, LOG_FORMAT, LogKey, decode_declaration, encode_declaration};
use crate::row::Damaged;
use crate::store::Store;
use crate::view::{MAX_NAME_BYTES, TenantId};
use crate::warm::Warm;

/// Most entries that a log may keep for one key.
pub const MAX_LOG_ENTRIES: u32 = 1 << 20;
/// Longest key, in bytes of UTF-8.
pub const MAX_LOG_KEY_BYTES: usize = 512;
/// Largest payload that a log may allow.
pub const MAX_LOG_ENTRY_BYTES: u32 = 1 << 20;
/// Greatest age that a log may allow: a hundred years.
const MAX_AGE_S: u64 = 100 * 366 * 86_400;
/// Start of the year 10000.
const END_OF_TIME_MS: i64 = 253_402_300_800_000;
/// Rows that one step of a long trim drops.
const TRIM_ROWS: usize = 10_000;

/// What a log is called and how much it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The log's name, for messages.
    pub name: String,
    /// The log's number, part of each stored key. It belongs to the name for ever.
    pub id: u16,
    /// Entries kept per key; the oldest go first.
    pub max_entries: u32,
    /// Seconds after which an entry is gone. A shorter age counts at once, a longer one for new entries.
    pub max_age_s: u64,
    /// Largest payload of one entry.
    pub max_entry_bytes: u32,
}

impl LogConfig {
    /// Checks every setting against its allowed range.
    ///
    /// # Errors
    /// [`Error::FixConfig`] names the log, the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES {
            return Err(Error::config("log.name", &self.name, format!("must have 1 to {MAX_NAME_BYTES} bytes")));
        }
        let within = |key: &str, value: u64, high: u64| {
            if (1..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::config(format!("log {}: {key}", self.name), value, format!("must be between 1 and {high}")))
        };
        within("max_entries", self.max_entries.into(), MAX_LOG_ENTRIES.into())?;
        within("max_age_s", self.max_age_s, MAX_AGE_S)?;
        within("max_entry_bytes", self.max_entry_bytes.into(), MAX_LOG_ENTRY_BYTES.into())
    }
}

/// A declared log of an open store. Clones are handles to the same log.
#[derive(Clone)]
pub struct Log {
    pub(crate) store: Store,
    pub(crate) config: Arc<LogConfig>,
}

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Log").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Store {
    /// Declares a log and returns a handle to it. Its limits may differ from those of an earlier run.
    ///
    /// # Errors
    /// [`Error::FixConfig`] for limits that are not allowed, for an id that belongs to another name and for a name that has another id;
    /// [`Error::RestoreStore`] when the log's rows were written by another version of this program.
    pub fn log(&self, config: LogConfig) -> Result<Log, Error> {
        config.validate()?;
        let warm = &self.0.warm;
        let _declaring = self.0.log_locks.declaring();
        let mut declared = false;
        for (id, name) in declarations(warm)? {
            let setting = || format!("log {}: id", config.name);
            if id == config.id && name != config.name {
                let allowed = format!("this id belongs to the stored log {name}, take another");
                return Err(Error::config(setting(), id, allowed));
            }
            if id != config.id && name == config.name {
                return Err(Error::config(
                    setting(),
                    config.id,
                    format!("its stored entries have id {id}; a log keeps its id"),
                ));
            }
            declared |= id == config.id;
        }
        if !declared {
            let mut batch = warm.log_batch()?;
            batch.put(&config.id.to_be_bytes(), &encode_declaration(&config.name));
            warm.write_log(batch)?;
        }
        Ok(Log { store: self.clone(), config: Arc::new(config) })
    }
}

/// All logs that the store has seen, by id.
fn declarations(warm: &Warm) -> Result<Vec<(u16, String)>, Error> {
    let mut rows = warm.scan_log()?;
    let mut found = Vec::new();
    let mut from = 0u16;
    while let Some((key, value)) = rows.seek(&from.to_be_bytes())? {
        let Ok(id) = <[u8; 2]>::try_from(key).map(u16::from_be_bytes) else {
            return Err(Error::damaged(warm.path(), "the log family has rows of a log that was never declared"));
        };
        let name = |damaged: Damaged| Error::damaged(warm.path(), format!("log id {id}: {}", damaged.0));
        let (format, declared) = decode_declaration(value).map_err(name)?;
        if format != LOG_FORMAT {
            let reason = format!("log {declared} has format {format}, this program reads {LOG_FORMAT}");
            return Err(Error::damaged(warm.path(), reason));
        }
        found.push((id, declared.to_string()));
        match id.checked_add(1) {
            Some(next) => from = next,
            None => break,
        }
    }
    Ok(found)
}

impl Log {
    /// Drops the entries of a key up to and including `up_to`: what a worker does with what it has dealt with. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a key that is not allowed, [`Error::FreeSpace`], [`Error::RestartStore`], [`Error::RestoreStore`].
    pub fn trim(&self, tenant: TenantId, key: &str, up_to: u64) -> Result<(), Error> {
        let key = self.key(tenant, key)?;
        let warm = &self.store.0.warm;
        let _locked = self.store.0.log_locks.lock(std::slice::from_ref(&key));
        let mut rows = warm.scan_log()?;
        let Some(mut head) = self.head(&mut rows, &key)? else { return Ok(()) };
        let first_kept = up_to.saturating_add(1).min(head.next);
        // In steps, each whole in itself, so that a long trim needs little memory.
        while head.first < first_kept {
            let mut batch = warm.log_batch()?;
            let mut kept_from = first_kept;
            self.each_entry(&mut rows, &key, head.first..first_kept, |position, entry| {
                if batch.len() >= TRIM_ROWS {
                    kept_from = position;
                    return Ok(false);
                }
                self.delete_entry(&mut batch, &key, position, &entry)?;
                Ok(true)
            })?;
            head.first = kept_from;
            batch.put(&key.head(), &head.encode());
            warm.write_log(batch)?;
        }
        Ok(())
    }

    /// Removes a key with all its entries. Durable when it returns; the bytes leave the files when these are next compacted. Positions of
    /// later entries are greater than those of the removed ones as long as the clock is not set back.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a key that is not allowed, [`Error::FreeSpace`], [`Error::RestartStore`].
    pub fn remove(&self, tenant: TenantId, key: &str) -> Result<(), Error> {
        let key = self.key(tenant, key)?;
        let warm = &self.store.0.warm;
        let _locked = self.store.0.log_locks.lock(std::slice::from_ref(&key));
        let mut batch = warm.log_batch()?;
        batch.delete_range(key.bytes()..&key.end());
        warm.write_log(batch)
    }

    /// The tenant's keys that have entries, in byte order, at most `limit` of them: those after `after`, or from the start. A key whose
    /// last entries expired under an age limit that was changed since, or whose newest were removed one by one, may be among them; none that
    /// has entries is missing. Costs a seek
    /// per key, those included that were trimmed empty and whose entries would not be expired yet.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a time out of range, [`Error::FreeSpace`], [`Error::RestartStore`], [`Error::RestoreStore`].
    pub fn keys(&self, tenant: TenantId, after: Option<&str>, limit: usize, now_ms: i64) -> Result<Vec<String>, Error> {
        self.check_time(now_ms)?;
        let prefix = rows::tenant_prefix(self.config.id, tenant);
        let mut rows = self.store.0.warm.scan_log()?;
        let mut keys = Vec::new();
        let mut from = after.map_or(prefix.to_vec(), |key| LogKey::new(self.config.id, tenant, key).end());
        while keys.len() < limit {
            let Some((row, value)) = rows.seek(&from)? else { break };
            let Some(row) = row.strip_prefix(&prefix) else { break };
            let key = rows::key_of_head(row).map_err(|damaged| self.damaged(damaged))?;
            let head = Head::decode(value).map_err(|damaged| self.damaged(damaged))?;
            from = LogKey::new(self.config.id, tenant, &key).end();
            if head.first < head.next && now_ms < head.expires_at_ms {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    pub(crate) fn key(&self, tenant: TenantId, key: &str) -> Result<LogKey, Error> {
        if key.is_empty() || key.len() > MAX_LOG_KEY_BYTES {
            return Err(self.refused(format!("a key has 1 to {MAX_LOG_KEY_BYTES} bytes, this one {}", key.len())));
        }
        Ok(LogKey::new(self.config.id, tenant, key))
    }

    pub(crate) fn check_time(&self, now_ms: i64) -> Result<(), Error> {
        if (0..END_OF_TIME_MS).contains(&now_ms) {
            return Ok(());
        }
        Err(self.refused(format!("the time {now_ms} ms is not between the years 1970 and 9999")))
    }

    pub(crate) fn max_age_ms(&self) -> i64 {
        self.config.max_age_s as i64 * 1000
    }

    /// Deletes an entry's row, and its dedup mark unless that stands for a newer entry by now.
    pub(crate) fn delete_entry(
        &self,
        batch: &mut LogBatch<'_>,
        key: &LogKey,
        position: u64,
        entry: &Entry<'_>,
    ) -> Result<(), Error> {
        batch.delete(&key.entry(position));
        if !entry.dedup.is_empty() && self.dedup_mark(key, entry.dedup)?.is_some_and(|mark| mark.position == position) {
            batch.delete(&key.dedup(entry.dedup));
        }
        Ok(())
    }

    pub(crate) fn refused(&self, reason: impl fmt::Display) -> Error {
        Error::FixRequest(format!("log {}: {reason}", self.config.name))
    }

    pub(crate) fn damaged(&self, damaged: Damaged) -> Error {
        Error::damaged(self.store.0.warm.path(), format!("log {}: {}", self.config.name, damaged.0))
    }
}

/// Locks of keys: whoever changes a key holds the lock that its hash selects. Reads need none, they see whole batches.
pub(crate) struct LogLocks {
    declaring: Mutex<()>,
    stripes: Vec<Mutex<()>>,
}

impl Default for LogLocks {
    fn default() -> LogLocks {
        LogLocks { declaring: Mutex::new(()), stripes: (0..128).map(|_| Mutex::new(())).collect() }
    }
}

impl LogLocks {
    fn declaring(&self) -> MutexGuard<'_, ()> {
        self.declaring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks all the keys, always in the same order, so that two callers cannot wait for each other. The locks guard no data that a
    /// panic could have left half changed.
    pub(crate) fn lock(&self, keys: &[LogKey]) -> Vec<MutexGuard<'_, ()>> {
        let stripe = |key: &LogKey| crc32fast::hash(key.bytes()) as usize % self.stripes.len();
        let mut stripes: Vec<_> = keys.iter().map(stripe).collect();
        stripes.sort_unstable();
        stripes.dedup();
        stripes.into_iter().map(|stripe| self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::model::{NOW_MS, entries, open, payloads, turns};

    const SHOP: TenantId = TenantId(1);

    #[test]
    fn an_id_belongs_to_one_name_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.log(turns(3)).unwrap();
        store.log(LogConfig { id: 8, name: "queue".into(), ..turns(3) }).unwrap();
        store.log(LogConfig { max_age_s: 5, ..turns(7) }).unwrap();
        drop(store);
        let store = open(folder.path());
        let message = |config| store.log(config).unwrap_err().to_string();
        let taken = LogConfig { name: "other".into(), ..turns(3) };
        assert_eq!(message(taken), "log other: id = 7: this id belongs to the stored log turns, take another");
        let renumbered = LogConfig { id: 9, ..turns(3) };
        assert_eq!(message(renumbered), "log turns: id = 9: its stored entries have id 7; a log keeps its id");
        store.log(LogConfig { id: u16::MAX, name: "last".into(), ..turns(3) }).unwrap();
        store.log(LogConfig { id: 0, name: "first".into(), ..turns(3) }).unwrap();
    }

    #[test]
    fn limits_that_are_not_allowed_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        for (config, expected) in [
            (turns(0), "log turns: max_entries = 0: must be between 1 and 1048576"),
            (LogConfig { max_age_s: 0, ..turns(1) }, "log turns: max_age_s = 0: must be between 1 and 3162240000"),
            (
                LogConfig { max_entry_bytes: 1 << 21, ..turns(1) },
                "max_entry_bytes = 2097152: must be between 1 and 1048576",
            ),
            (LogConfig { name: String::new(), ..turns(1) }, "log.name = : must have 1 to"),
        ] {
            let message = store.log(config).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_format_of_another_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let mut batch = store.0.warm.log_batch().unwrap();
        let mut declaration = encode_declaration("turns");
        declaration[8] = 9;
        batch.put(&7u16.to_be_bytes(), &declaration);
        store.0.warm.write_log(batch).unwrap();
        let message = store.log(turns(1)).unwrap_err().to_string();
        assert!(message.contains("log turns has format 9, this program reads 1"), "{message}");
    }

    #[test]
    fn tenants_keys_and_logs_are_separate() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let log = store.log(turns(9)).unwrap();
        let other_log = store.log(LogConfig { id: 8, name: "queue".into(), ..turns(9) }).unwrap();
        let places = [(&log, 1, "a"), (&log, 1, "a\0"), (&log, 1, "ab"), (&log, 2, "a"), (&other_log, 1, "a")];
        for (number, (log, tenant, key)) in places.iter().enumerate() {
            log.append(TenantId(*tenant), key, &entries([number.to_string().as_str()]), NOW_MS).unwrap();
        }
        let read = |(log, tenant, key): (&Log, u32, &str)| {
            payloads(&log.read_last(TenantId(tenant), key, 9, NOW_MS).unwrap()).join(" ")
        };
        assert_eq!(places.map(read), ["0", "1", "2", "3", "4"]);
        log.remove(SHOP, "a").unwrap();
        assert_eq!(places.map(read), ["", "1", "2", "3", "4"]);
        assert_eq!(log.keys(SHOP, None, 9, NOW_MS).unwrap(), ["a\0", "ab"]);
    }

    #[test]
    fn keys_come_in_pages_and_only_those_with_entries() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(9)).unwrap();
        for key in ["a", "b", "c", "d"] {
            log.append(SHOP, key, &entries(["x", "y"]), NOW_MS).unwrap();
        }
        log.trim(SHOP, "b", u64::MAX).unwrap();
        let keys = |after, limit| log.keys(SHOP, after, limit, NOW_MS).unwrap();
        assert_eq!(keys(None, 9), ["a", "c", "d"]);
        assert_eq!(keys(None, 2), ["a", "c"]);
        assert_eq!(keys(Some("c"), 2), ["d"]);
        assert_eq!(keys(Some("bb"), 1), ["c"]);
        assert_eq!(keys(Some("d"), 1), Vec::<String>::new());
        assert_eq!(log.keys(TenantId(2), None, 9, NOW_MS).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_late_trim_does_not_touch_what_came_after_a_removal() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(9)).unwrap();
        let old = log.append(SHOP, "ada", &entries(["a", "b", "c"]), NOW_MS).unwrap();
        log.remove(SHOP, "ada").unwrap();
        log.append(SHOP, "ada", &entries(["new"]), NOW_MS + 1).unwrap();
        log.trim(SHOP, "ada", old[2]).unwrap();
        assert_eq!(payloads(&log.read_last(SHOP, "ada", 9, NOW_MS + 1).unwrap()), ["new"]);
    }

    #[test]
    fn a_long_trim_takes_several_steps() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path()).log(turns(50_000)).unwrap();
        let at = log.append(SHOP, "ada", &entries(["x"; 25_000]), NOW_MS).unwrap();
        log.trim(SHOP, "ada", at[24_000]).unwrap();
        let left = log.read(SHOP, "ada", .., 50_000, NOW_MS).unwrap();
        assert_eq!((left.len(), left[0].position), (999, at[24_001]));
    }
}
