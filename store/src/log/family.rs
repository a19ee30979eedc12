//! The RocksDB side of logs: the family's options, its reads and synced writes, and the compaction filter by which expired rows leave the disk.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, CompactOptions, DBCompressionType,
    DBPinnableSlice, DBRawIterator, Options, WriteBatch, WriteOptions,
};

use crate::Error;
use crate::log::rows::expiry_of;
use crate::warm::{Warm, disk};

pub(crate) const LOG: &str = "log";

/// How long an expired row stays on disk at least, so that a clock set back, or a caller that took the time a little earlier, still
/// reads what was visible then.
const CLOCK_SLACK_MS: i64 = 3_600_000;

/// Files older than this are compacted even when nothing is appended, so that what nobody reads again leaves the disk.
const CLEAN_UP_S: u64 = 86_400;

/// Options of the log family: unlike generations its rows come one by one, so it is compacted.
pub(crate) fn log_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_format_version(6);
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(cache);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(16 << 20);
    options.set_periodic_compaction_seconds(CLEAN_UP_S);
    options.set_compaction_filter("larder.log.expired", |_, _, value| match expiry_of(value) {
        Some(expires_at_ms) if expires_at_ms.saturating_add(CLOCK_SLACK_MS) <= wall_clock_ms() => Decision::Remove,
        _ => Decision::Keep,
    });
    options
}

/// Before 1970 nothing is expired.
fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis().min(i64::MAX as u128) as i64)
}

/// Changes of the log family that happen together or not at all.
pub(crate) struct LogBatch<'a> {
    family: &'a ColumnFamily,
    batch: WriteBatch,
}

impl LogBatch<'_> {
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.family, key, value);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.batch.delete_cf(self.family, key);
    }

    pub(crate) fn delete_range(&mut self, range: Range<&[u8]>) {
        self.batch.delete_range_cf(self.family, range.start, range.end);
    }

    pub(crate) fn len(&self) -> usize {
        self.batch.len()
    }
}

impl Warm {
    pub(crate) fn log_batch(&self) -> Result<LogBatch<'_>, Error> {
        Ok(LogBatch { family: self.family(LOG)?, batch: WriteBatch::default() })
    }

    /// Writes a batch durably: when this returns, a crash cannot undo it.
    pub(crate) fn write_log(&self, batch: LogBatch<'_>) -> Result<(), Error> {
        if batch.batch.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch.batch, &options).map_err(|error| self.refused_write(error))
    }

    pub(crate) fn read_log(&self, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        self.db.get_pinned_cf(self.family(LOG)?, key).map_err(|error| self.unreadable_log(error))
    }

    /// A view of all rows of all logs as they are now.
    pub(crate) fn scan_log(&self) -> Result<LogScan<'_>, Error> {
        Ok(LogScan { rows: self.db.raw_iterator_cf(self.family(LOG)?), warm: self })
    }

    /// Rewrites the family's files: bytes of removed, trimmed and expired rows are gone from them afterwards.
    pub(crate) fn compact_log(&self) -> Result<(), Error> {
        let family = self.family(LOG)?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.flush_cf(family).map_err(|error| self.refused_write(error))?;
        self.compacted(|| self.db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options))
    }

    fn unreadable_log(&self, error: rocksdb::Error) -> Error {
        match error.kind() {
            rocksdb::ErrorKind::IOError => disk("read a log of", self.path())(error),
            _ => Error::damaged(self.path(), format!("the log family cannot be read: {error}")),
        }
    }
}

/// Key and value of a row.
pub(crate) type LogRow<'a> = (&'a [u8], &'a [u8]);

/// A cursor over the log family that tells the end of the rows from a failure to read them.
pub(crate) struct LogScan<'a> {
    rows: DBRawIterator<'a>,
    warm: &'a Warm,
}

impl LogScan<'_> {
    /// Goes to the first row at or after `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<Option<LogRow<'_>>, Error> {
        self.rows.seek(key);
        self.row()
    }

    /// Goes to the last row at or before `key`.
    pub(crate) fn seek_back(&mut self, key: &[u8]) -> Result<Option<LogRow<'_>>, Error> {
        self.rows.seek_for_prev(key);
        self.row()
    }

    pub(crate) fn forward(&mut self) -> Result<Option<LogRow<'_>>, Error> {
        self.rows.next();
        self.row()
    }

    pub(crate) fn back(&mut self) -> Result<Option<LogRow<'_>>, Error> {
        self.rows.prev();
        self.row()
    }

    fn row(&self) -> Result<Option<LogRow<'_>>, Error> {
        match self.rows.item() {
            Some(row) => Ok(Some(row)),
            None => self.rows.status().map(|()| None).map_err(|error| self.warm.unreadable_log(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::model::{NOW_MS, config, entries, open, payloads, rows, turns};
    use crate::{LogEntry, TenantId};
    use rocksdb::{ColumnFamilyDescriptor, DB};

    const SHOP: TenantId = TenantId(1);

    #[test]
    fn compaction_drops_what_is_expired_by_the_clock_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let log = store.log(turns(9)).unwrap();
        let now_ms = wall_clock_ms();
        let queued = [LogEntry { dedup: Some("d"), payload: b"old" }];
        let age_ms = 60_000;
        log.append(SHOP, "gone", &queued, now_ms - age_ms - CLOCK_SLACK_MS).unwrap();
        log.append(SHOP, "mixed", &queued, now_ms - age_ms - CLOCK_SLACK_MS).unwrap();
        log.append(SHOP, "mixed", &entries(["new"]), now_ms).unwrap();
        log.append(SHOP, "slack", &queued, now_ms - age_ms - CLOCK_SLACK_MS / 2).unwrap();
        // One declaration; head, entry and mark each, and one entry more.
        assert_eq!(rows(&store), 11);
        store.0.warm.compact_log().unwrap();
        // The declaration, head and new entry of "mixed", all of "slack".
        assert_eq!(rows(&store), 6);
        assert_eq!(payloads(&log.read(SHOP, "mixed", .., 9, now_ms).unwrap()), ["new"]);
        // A key whose head is gone starts again, with a greater position.
        let first = log.append(SHOP, "gone", &queued, now_ms).unwrap()[0];
        assert_eq!(first, now_ms as u64 * 1000);
        assert_eq!(payloads(&log.read_last(SHOP, "gone", 9, now_ms).unwrap()), ["old"]);
    }

    #[test]
    fn removed_bytes_leave_the_files_with_compaction() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let log = store.log(turns(9)).unwrap();
        let holds = |bytes: &[u8]| {
            std::fs::read_dir(folder.path()).unwrap().any(|file| {
                let path = file.unwrap().path();
                path.is_file() && std::fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes)
            })
        };
        log.append(SHOP, "ada", &entries(["secret-of-ada"]), NOW_MS).unwrap();
        log.append(SHOP, "bob", &entries(["secret-of-bob"]), NOW_MS).unwrap();
        assert!(holds(b"secret-of-ada"));
        log.remove(SHOP, "ada").unwrap();
        store.0.warm.compact_log().unwrap();
        assert_eq!(payloads(&log.read_last(SHOP, "bob", 9, NOW_MS).unwrap()), ["secret-of-bob"]);
        drop((log, store));
        // Opening starts a new write-ahead log; closing dropped none of the old one's writes.
        drop(open(folder.path()));
        assert!(!holds(b"secret-of-ada"));
        assert!(holds(b"secret-of-bob"));
    }

    #[test]
    fn a_store_from_before_there_were_logs_opens() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let cache = Cache::new_hyper_clock_cache(8 << 20, 0);
        let families = [
            ColumnFamilyDescriptor::new("base", crate::warm::base_options(Some(&cache))),
            ColumnFamilyDescriptor::new("meta", Options::default()),
        ];
        drop(DB::open_cf_descriptors(&options, &config.path, families).unwrap());
        let log = open(folder.path()).log(turns(9)).unwrap();
        log.append(SHOP, "ada", &entries(["turn"]), NOW_MS).unwrap();
        assert_eq!(payloads(&log.read_last(SHOP, "ada", 9, NOW_MS).unwrap()), ["turn"]);
    }
}
