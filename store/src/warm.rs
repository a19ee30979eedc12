//! The warm tier: one RocksDB with a base family, written only by linking SST files, a live family of merged changes, and a meta family that
//! says which of base's generations count. All knowledge of RocksDB's options and
//! quirks is in this file, those below it and the writer's use of `base_options`.

mod base;
mod compaction;
mod failure;
mod options;
mod snapshot;

use std::collections::HashMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::Error;
use crate::config::StoreConfig;
use crate::log::family::{LOG, log_options};
use crate::staging;
use crate::wal;

pub(crate) use base::BaseFile;
pub(crate) use compaction::Family;
pub(crate) use failure::disk;
pub(crate) use options::base_options;
pub(crate) use snapshot::{Pinned, Read, Snapshot};

use failure::{is_lock, missing_file, says, unread};
use options::live_options;

const BASE: &str = "base";
const LIVE: &str = "live";
const META: &str = "meta";

/// The database of one store.
pub(crate) struct Warm {
    pub(crate) db: DB,
    path: PathBuf,
    /// Kept for the counts that RocksDB keeps with them.
    options: Options,
}

/// One entry of the meta family.
pub(crate) type KeyAndValue = (Box<[u8]>, Box<[u8]>);

/// What holds however the database is opened.
fn database_options() -> Options {
    let mut options = Options::default();
    // A torn last record is what a crash leaves; any other damage in the log must not pass for an older state.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

fn families(cache: &Cache, config: &StoreConfig) -> [ColumnFamilyDescriptor; 4] {
    [
        ColumnFamilyDescriptor::new(BASE, base_options(Some(cache))),
        ColumnFamilyDescriptor::new(LIVE, live_options(cache, config)),
        ColumnFamilyDescriptor::new(META, Options::default()),
        ColumnFamilyDescriptor::new(LOG, log_options(cache)),
    ]
}

impl Warm {
    pub(crate) fn open(config: &StoreConfig) -> Result<Warm, Error> {
        let path = &config.path;
        let mut options = database_options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.enable_statistics();
        options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        // All files stay open: only then are their properties, which hold the number of entities, known after a restart.
        options.set_max_open_files(-1);
        // At the level of information RocksDB writes keys into its log file, and a key is a user's name.
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        let cache = Cache::new_hyper_clock_cache((config.block_cache_mib as usize) << 20, 0);
        wal::check_logs(path)?;
        let open = || DB::open_cf_descriptors(&options, path, families(&cache, config));
        let mut opened = open();
        if let Some(missing) = opened.as_ref().err().and_then(missing_file)
            && let Some(db) = staging::put_back(path, missing, || open().ok())?
        {
            opened = Ok(db);
        }
        let db = opened.map_err(|error| match error.kind() {
            _ if is_lock(&error) => Error::CloseOtherProcess { path: path.clone() },
            _ if missing_file(&error).is_some() => Error::damaged(path, error.into_string()),
            rocksdb::ErrorKind::IOError => disk("open", path)(error),
            _ => Error::damaged(path, error.into_string()),
        })?;
        let warm = Warm { db, path: path.clone(), options };
        warm.clear_options()?;
        Ok(warm)
    }

    /// Opens the database of a closed store so that nothing is written, not even what the logs hold.
    pub(crate) fn open_to_look(config: &StoreConfig) -> Result<Warm, Error> {
        let path = &config.path;
        let mut options = database_options();
        options.set_max_open_files(-1);
        let cache = Cache::new_hyper_clock_cache((config.block_cache_mib as usize) << 20, 0);
        let opened = DB::open_cf_descriptors_read_only(&options, path, families(&cache, config), false);
        let db = opened.map_err(|error| Error::damaged(path, error.into_string()))?;
        Ok(Warm { db, path: path.clone(), options })
    }

    /// Removes the descriptions of its options that RocksDB was writing when it died: of all its unfinished files it keeps only these.
    fn clear_options(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).map_err(Error::disk("read", &self.path))? {
            let path = entry.map_err(Error::disk("read", &self.path))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("OPTIONS-") && name.ends_with(".dbtmp") {
                fs::remove_file(&path).map_err(Error::disk("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The state of the database now: what is read through it shows no later write.
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(self)
    }

    /// Writes a batch durably: when this returns, a crash cannot undo it. Concurrent calls share one sync of the log.
    pub(crate) fn write_synced(&self, batch: WriteBatch) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(|error| self.refused_write(error))
    }

    /// Adds a merge operand of the live family to a batch.
    pub(crate) fn merge_live(&self, batch: &mut WriteBatch, key: &[u8], operand: &[u8]) -> Result<(), Error> {
        batch.merge_cf(self.family(LIVE)?, key, operand);
        Ok(())
    }

    /// Adds the replacement of a live value to a batch; an empty one is deleted. Only for whoever keeps all writers out.
    pub(crate) fn replace_live(&self, batch: &mut WriteBatch, key: &[u8], value: &[u8]) -> Result<(), Error> {
        match value {
            [] => batch.delete_cf(self.family(LIVE)?, key),
            value => batch.put_cf(self.family(LIVE)?, key, value),
        }
        Ok(())
    }

    /// Live keys and values from `first` (inclusive) to `end` (exclusive), in key order.
    pub(crate) fn scan_live<'db>(
        &'db self,
        first: &[u8],
        end: &[u8],
    ) -> Result<impl Iterator<Item = Result<KeyAndValue, Error>> + use<'db>, Error> {
        self.scan(LIVE, first, Bound::Excluded(end))
    }

    /// Base keys and values from `first` to `end`, in key order.
    pub(crate) fn scan_base<'db>(
        &'db self,
        first: &[u8],
        end: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<KeyAndValue, Error>> + use<'db>, Error> {
        self.scan(BASE, first, end)
    }

    fn scan<'db>(
        &'db self,
        family: &str,
        first: &[u8],
        end: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<KeyAndValue, Error>> + use<'db>, Error> {
        let mut options = ReadOptions::default();
        match end {
            Bound::Excluded(end) => options.set_iterate_upper_bound(end),
            // The next key after it.
            Bound::Included(end) => options.set_iterate_upper_bound([end, &[0]].concat()),
            Bound::Unbounded => {}
        }
        // What is read once here would drive out what fetches need.
        options.fill_cache(false);
        let mode = IteratorMode::From(first, Direction::Forward);
        let entries = self.db.iterator_cf_opt(self.family(family)?, options, mode);
        Ok(entries.map(|entry| self.readable(entry)))
    }

    /// The family of each table that the database names, by the table's name.
    pub(crate) fn family_files(&self) -> Result<HashMap<String, String>, Error> {
        let files = self.db.live_files().map_err(disk("list", &self.path))?;
        let named =
            files.into_iter().map(|file| (file.name.trim_start_matches('/').to_string(), file.column_family_name));
        Ok(named.collect())
    }

    /// One of RocksDB's figures; where it is one of a family, the sum over all families.
    pub(crate) fn property(&self, name: &str) -> u64 {
        let of_all = ["rocksdb.block-cache", "rocksdb.num-running", "rocksdb.is-write"];
        let read = |value: Result<Option<u64>, rocksdb::Error>| value.ok().flatten().unwrap_or(0);
        if name == "rocksdb.background-errors" {
            // Counted with the default family, whichever the failed job was of.
            return read(self.db.property_int_value(name));
        }
        if of_all.iter().any(|prefix| name.starts_with(prefix)) {
            // The families share one cache, and the rest is the database's.
            return self.db.cf_handle(BASE).map_or(0, |base| read(self.db.property_int_value_cf(base, name)));
        }
        let families = [BASE, LIVE, META, LOG].into_iter().filter_map(|family| self.db.cf_handle(family));
        families.map(|family| read(self.db.property_int_value_cf(family, name))).sum()
    }

    /// How many keys have live rows, by RocksDB's estimate.
    pub(crate) fn live_keys(&self) -> u64 {
        self.estimated_keys(LIVE)
    }

    /// How many rows all logs have, by RocksDB's estimate.
    pub(crate) fn log_rows(&self) -> u64 {
        self.estimated_keys(LOG)
    }

    fn estimated_keys(&self, family: &str) -> u64 {
        let family = self.db.cf_handle(family);
        let estimate = family.map(|family| self.db.property_int_value_cf(family, "rocksdb.estimate-num-keys"));
        estimate.and_then(|estimate| estimate.ok().flatten()).unwrap_or(0)
    }

    /// One of RocksDB's counts since the start.
    pub(crate) fn count(&self, ticker: Ticker) -> u64 {
        self.options.get_ticker_count(ticker)
    }

    /// The number of the newest write.
    pub(crate) fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    /// Writes one meta record durably: when this returns, a crash cannot undo it.
    pub(crate) fn write_meta(&self, key: &[u8], record: &[u8]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META)?, key, record);
        self.write_synced(batch)
    }

    /// Adds a meta record to a batch.
    pub(crate) fn put_meta(&self, batch: &mut WriteBatch, key: &[u8], record: &[u8]) -> Result<(), Error> {
        batch.put_cf(self.family(META)?, key, record);
        Ok(())
    }

    /// Removes one meta record, durably as everything that is written: see `wal.rs`.
    pub(crate) fn delete_meta(&self, key: &[u8]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.family(META)?, key);
        self.write_synced(batch)
    }

    /// The meta record under `key`.
    pub(crate) fn read_meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_cf(self.family(META)?, key).map_err(disk("read the meta record of", &self.path))
    }

    /// All meta records in key order.
    pub(crate) fn read_all_meta(&self) -> Result<Vec<KeyAndValue>, Error> {
        self.db
            .iterator_cf(self.family(META)?, IteratorMode::Start)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::damaged(&self.path, format!("the meta family cannot be read: {error}")))
    }

    /// What a failed write means. RocksDB takes no more writes then: of a full disk it finds out by itself when there is space again, of anything
    /// else nobody knows what the disk holds.
    pub(crate) fn refused_write(&self, error: rocksdb::Error) -> Error {
        let path = self.path.clone();
        match says(&error, "No space left on device") {
            true => Error::FreeSpace { path, reason: error.into_string() },
            false => Error::RestartStore { path, reason: error.into_string() },
        }
    }

    fn readable<T>(&self, value: Result<T, rocksdb::Error>) -> Result<T, Error> {
        value.map_err(|error| unread(error, &self.path))
    }

    pub(crate) fn family(&self, name: &str) -> Result<&ColumnFamily, Error> {
        let missing = || Error::damaged(&self.path, format!("it has no {name} family"));
        self.db.cf_handle(name).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_jobs_are_counted_where_rocksdb_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().to_path_buf(), ..StoreConfig::default() };
        let warm = Warm::open(&config).unwrap();
        for name in ["rocksdb.background-errors", "rocksdb.is-write-stopped"] {
            assert_eq!(warm.property(name), warm.db.property_int_value(name).unwrap().unwrap());
        }
    }
}
