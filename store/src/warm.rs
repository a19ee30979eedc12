//! The warm tier: one RocksDB with a base family, written only by linking SST files, a live family of merged changes, and a meta family that
//! says which of base's generations count. All knowledge of RocksDB's options and quirks is in this file and the writer's use of `base_options`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBPinnableSlice, DBRecoveryMode, DataBlockIndexType, Direction, FlushOptions,
    IngestExternalFileOptions, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::Error;
use crate::config::StoreConfig;
use crate::delta;
use crate::key::GenerationId;
use crate::log_family::{LOG, log_options};
use crate::staging;
use crate::wal;

const BASE: &str = "base";
const LIVE: &str = "live";
const META: &str = "meta";

/// How long a compaction waits for the fetches that were under way, and for old files to go.
const READERS_WAIT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });

/// Changes of one key that may pile up in RAM before a write merges them.
const MAX_UNMERGED: usize = 16;

/// The database of one store.
pub(crate) struct Warm {
    pub(crate) db: DB,
    path: PathBuf,
    /// Kept for the counts that RocksDB keeps with them.
    options: Options,
}

/// One entry of the meta family.
pub(crate) type KeyAndValue = (Box<[u8]>, Box<[u8]>);

/// One SST file of the base family, as RocksDB knows it.
pub(crate) struct BaseFile {
    pub(crate) name: String,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    pub(crate) entities: u64,
    /// 0 for a file that lies on top of others.
    level: i32,
}

/// The families that are compacted by hand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Family {
    Base,
    Live,
}

impl BaseFile {
    /// The one generation whose keys the file holds; `None` when there is no such.
    pub(crate) fn generation(&self) -> Option<GenerationId> {
        let first = GenerationId::of_key(&self.first_key)?;
        (GenerationId::of_key(&self.last_key) == Some(first)).then_some(first)
    }

    pub(crate) fn first_key(&self) -> &[u8] {
        &self.first_key
    }

    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }
}

impl Warm {
    pub(crate) fn open(config: &StoreConfig) -> Result<Warm, Error> {
        let path = &config.path;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.enable_statistics();
        options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        // A torn last record is what a crash leaves; any other damage in the log must not pass for an older state.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        // All files stay open: only then are their properties, which hold the number of entities, known after a restart.
        options.set_max_open_files(-1);
        // At the level of information RocksDB writes keys into its log file, and a key is a user's name.
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        let cache = Cache::new_hyper_clock_cache((config.block_cache_mib as usize) << 20, 0);
        let families = || {
            [
                ColumnFamilyDescriptor::new(BASE, base_options(Some(&cache))),
                ColumnFamilyDescriptor::new(LIVE, live_options(&cache, config)),
                ColumnFamilyDescriptor::new(META, Options::default()),
                ColumnFamilyDescriptor::new(LOG, log_options(&cache)),
            ]
        };
        wal::check_logs(path)?;
        let open = || DB::open_cf_descriptors(&options, path, families());
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
        Snapshot { warm: self, snapshot: self.db.snapshot() }
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

    /// Adds the replacement of a base value to a batch, or its deletion: only to take out what was erased.
    pub(crate) fn replace_base(&self, batch: &mut WriteBatch, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        match value {
            None => batch.delete_cf(self.family(BASE)?, key),
            Some(value) => batch.put_cf(self.family(BASE)?, key, value),
        }
        Ok(())
    }

    /// Writes everything that is in RAM into files, so that the log can go.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = [self.family(BASE)?, self.family(LIVE)?, self.family(META)?, self.family(LOG)?];
        self.db.flush_cfs_opt(&families, &options).map_err(|error| self.refused_write(error))
    }

    /// Rewrites the files that hold keys from `first` to `last`, so that what was deleted or replaced there is gone from disk.
    pub(crate) fn compact(&self, family: Family, first: &[u8], last: &[u8]) -> Result<(), Error> {
        let family = match family {
            Family::Base => BASE,
            Family::Live => LIVE,
        };
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        let family = self.family(family)?;
        self.compacted(|| self.db.compact_range_cf_opt(family, Some(first), Some(last), &options))
    }

    /// Does a compaction, which does not say how it went.
    pub(crate) fn compacted(&self, compact: impl FnOnce()) -> Result<(), Error> {
        let failures = || self.db.property_int_value("rocksdb.background-errors").ok().flatten();
        let before = failures();
        compact();
        match failures() == before {
            true => Ok(()),
            false => Err(Error::disk("rewrite a file of", &self.path)(io::Error::other("a compaction failed"))),
        }
    }

    /// Waits until no fetch sees the database as it was before this call: what it sees, a compaction must keep.
    pub(crate) fn outlive_snapshots(&self) -> Result<(), Error> {
        let now = self.sequence();
        let oldest = || self.db.property_int_value("rocksdb.oldest-snapshot-sequence").ok().flatten().unwrap_or(0);
        self.wait_until(|| Ok(!(1..now).contains(&oldest())))
    }

    /// Waits until the files that the database no longer needs are deleted: RocksDB does that beside, and later while a fetch reads them.
    pub(crate) fn outlive_files(&self) -> Result<(), Error> {
        self.wait_until(|| {
            let needed = self.db.live_files().map_err(disk("list", &self.path))?;
            let (mut logs, mut obsolete) = (0, false);
            for entry in fs::read_dir(&self.path).map_err(Error::disk("list", &self.path))? {
                let name = entry.map_err(Error::disk("list", &self.path))?.file_name();
                let name = name.to_string_lossy();
                logs += usize::from(name.ends_with(".log"));
                obsolete |= name.ends_with(".sst") && !needed.iter().any(|file| file.name.ends_with(&*name));
            }
            Ok(logs <= 1 && !obsolete)
        })
    }

    /// Waits until something that ends by itself has ended.
    pub(crate) fn wait_until(&self, done: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
        let until = Instant::now() + READERS_WAIT;
        while !done()? {
            if Instant::now() > until {
                let path = self.path.display();
                return Err(Error::TryAgain(format!(
                    "files of {path} cannot be rewritten yet, a fetch still reads what they held before; try again"
                )));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Compacts the files that lie on top of the base family's: those of a compaction under way, or of one that was cut short.
    pub(crate) fn finish_compactions(&self) -> Result<(), Error> {
        let mut on_top = self.base_files()?;
        on_top.retain(|file| file.level == 0);
        if !on_top.is_empty() {
            self.outlive_snapshots()?;
        }
        on_top.iter().try_for_each(|file| self.compact(Family::Base, &file.first_key, &file.last_key))
    }

    /// Whether a file of the live family holds deletions. What they delete may still be in another file.
    pub(crate) fn live_has_deletions(&self) -> Result<bool, Error> {
        let files = self.db.live_files().map_err(disk("list", &self.path))?;
        Ok(files.iter().any(|file| file.column_family_name == LIVE && file.num_deletions > 0))
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

    /// One of RocksDB's counts since the start.
    pub(crate) fn count(&self, ticker: Ticker) -> u64 {
        self.options.get_ticker_count(ticker)
    }

    /// The number of the newest write.
    pub(crate) fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    /// Links SST files into the base family; the originals are gone afterwards. Files that overlap anything present are refused, so no
    /// file can ever shadow another generation's rows. `dir` is where the generation came from, for the message.
    pub(crate) fn ingest(&self, files: Vec<PathBuf>, dir: &Path) -> Result<(), Error> {
        if files.is_empty() {
            // All of the generation is cold.
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        options.set_allow_global_seqno(false);
        // A fetch that is under way has a snapshot. The rows may appear in it: they are of a generation that it does not know.
        options.set_snapshot_consistency(false);
        options.set_allow_blocking_flush(false);
        let linked = self.db.ingest_external_file_cf_opts(self.family(BASE)?, &options, files);
        linked.map_err(|error| match error.kind() {
            rocksdb::ErrorKind::IOError => self.refused_write(error),
            _ => Error::refused(dir, format!("its files cannot be linked: {error}")),
        })
    }

    /// The files of the base family.
    pub(crate) fn base_files(&self) -> Result<Vec<BaseFile>, Error> {
        let files = self.db.live_files().map_err(disk("list", &self.path))?;
        Ok(files
            .into_iter()
            .filter(|file| file.column_family_name == BASE)
            .map(|file| BaseFile {
                name: file.name,
                first_key: file.start_key.unwrap_or_default(),
                last_key: file.end_key.unwrap_or_default(),
                entities: file.num_entries,
                level: file.level,
            })
            .collect())
    }

    /// The number of keys of each generation that has files.
    pub(crate) fn base_entities(&self) -> Result<BTreeMap<GenerationId, u64>, Error> {
        let mut entities = BTreeMap::new();
        for file in self.base_files()? {
            let Some(id) = file.generation() else {
                let reason = format!("{} holds keys of several generations", file.name);
                return Err(Error::damaged(&self.path, reason));
            };
            *entities.entry(id).or_default() += file.entities;
        }
        Ok(entities)
    }

    /// Drops a generation's files. Nobody may be reading it any more.
    pub(crate) fn drop_generation(&self, id: GenerationId) -> Result<(), Error> {
        self.drop_range(&id.prefix(), &id.end())
    }

    /// Drops one file again.
    pub(crate) fn drop_file(&self, file: &BaseFile) -> Result<(), Error> {
        self.drop_range(&file.first_key, &file.last_key)
    }

    fn drop_range(&self, first: &[u8], last: &[u8]) -> Result<(), Error> {
        self.db.delete_file_in_range_cf(self.family(BASE)?, first, last).map_err(|error| self.refused_write(error))
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

/// Options of the base family, for its SST files and for reading them: small blocks with a hash index inside, a bloom filter, index and
/// filter blocks always in RAM. Without a cache they are for writing only.
pub(crate) fn base_options(cache: Option<&Cache>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(8 << 10);
    table.set_format_version(6);
    table.set_bloom_filter(10.0, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(0.75);
    table.set_cache_index_and_filter_blocks(false);
    if let Some(cache) = cache {
        table.set_block_cache(cache);
    }
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    // Generations are written sorted and dropped whole: there is nothing to compact.
    options.set_disable_auto_compactions(true);
    options
}

/// Options of the live family: changes are merged as they are read and as files are compacted.
fn live_options(cache: &Cache, config: &StoreConfig) -> Options {
    let mut options = base_options(Some(cache));
    options.set_disable_auto_compactions(false);
    options.set_merge_operator_associative("larder-live-1", |_, existing, operands| {
        delta::merge(existing.into_iter().chain(operands.iter()))
    });
    options.set_max_successive_merges(MAX_UNMERGED);
    options.set_write_buffer_size((config.live_buffer_mib as usize) << 20);
    // The filter in RAM asks only for keys that are there; those in the memtable are found faster with a filter of its own.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options
}

/// The database at one moment. While it lives, no fetch that uses it sees a later write.
pub(crate) struct Snapshot<'db> {
    warm: &'db Warm,
    snapshot: rocksdb::Snapshot<'db>,
}

/// A value of the database, pinned where it lies.
pub(crate) type Pinned<'db> = DBPinnableSlice<'db>;

impl<'db> Snapshot<'db> {
    /// Reads sorted keys of the base family, one result per key.
    pub(crate) fn read(&self, keys: &[&[u8]]) -> Result<Vec<Read<'db>>, Error> {
        self.read_family(BASE, keys)
    }

    /// Reads sorted keys of the live family, one result per key.
    pub(crate) fn read_live(&self, keys: &[&[u8]]) -> Result<Vec<Read<'db>>, Error> {
        self.read_family(LIVE, keys)
    }

    pub(crate) fn path(&self) -> &'db Path {
        &self.warm.path
    }

    fn read_family(&self, family: &str, keys: &[&[u8]]) -> Result<Vec<Read<'db>>, Error> {
        let family = self.warm.family(family)?;
        let values = self.warm.db.batched_multi_get_cf_opt(family, keys.iter().copied(), true, &self.options());
        values.into_iter().map(|value| self.warm.readable(value)).collect()
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

/// What a key holds.
pub(crate) type Read<'db> = Option<Pinned<'db>>;

/// Adapter for `map_err`: which action on which path RocksDB failed at.
pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> Error {
    let path = path.to_path_buf();
    move |error| Error::disk(action, &path)(io::Error::other(error))
}

/// What a failed read means. Only of bytes that are not what was written is restoring them the cure; a disk that failed to answer may answer
/// the next time.
fn unread(error: rocksdb::Error, path: &Path) -> Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Error::damaged(path, error.into_string()),
        _ => disk("read", path)(error),
    }
}

fn is_lock(error: &rocksdb::Error) -> bool {
    says(error, "While lock file") || says(error, "lock hold by current process")
}

/// The number of the SST file that an error says is not there.
fn missing_file(error: &rocksdb::Error) -> Option<u64> {
    let message: &str = error.as_ref();
    let (before, _) = message.split_once(".sst: No such file or directory")?;
    before.rsplit('/').next()?.parse().ok()
}

/// Whether an error of the operating system says something.
fn says(error: &rocksdb::Error, what: &str) -> bool {
    let message: &str = error.as_ref();
    error.kind() == rocksdb::ErrorKind::IOError && message.contains(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_no_reason_to_restore_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let error = DB::list_cf(&Options::default(), folder.path()).unwrap_err();
        assert_eq!(error.kind(), rocksdb::ErrorKind::IOError, "{error}");
        assert!(matches!(unread(error, folder.path()), Error::CheckDisk { .. }));
    }

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
