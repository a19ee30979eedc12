//! The warm tier: one RocksDB with a base family, written only by linking SST files, and a meta family that says which of its
//! generations count. All knowledge of RocksDB's options and quirks is in this file and the writer's use of `base_options`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice,
    DBRecoveryMode, DataBlockIndexType, IngestExternalFileOptions, IteratorMode, Options, WriteBatch, WriteOptions,
};

use crate::Error;
use crate::config::StoreConfig;
use crate::key::GenerationId;
use crate::log_family::{LOG, log_options};

const BASE: &str = "base";
const META: &str = "meta";

/// The database of one store.
pub(crate) struct Warm {
    pub(crate) db: DB,
    path: PathBuf,
}

/// One entry of the meta family.
pub(crate) type KeyAndValue = (Box<[u8]>, Box<[u8]>);

/// One SST file of the base family, as RocksDB knows it.
pub(crate) struct BaseFile {
    pub(crate) name: String,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    pub(crate) entities: u64,
}

impl BaseFile {
    /// The one generation whose keys the file holds; `None` when there is no such.
    pub(crate) fn generation(&self) -> Option<GenerationId> {
        let first = GenerationId::of_key(&self.first_key)?;
        (GenerationId::of_key(&self.last_key) == Some(first)).then_some(first)
    }
}

impl Warm {
    pub(crate) fn open(config: &StoreConfig) -> Result<Warm, Error> {
        let path = &config.path;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn last record is what a crash leaves; any other damage in the log must not pass for an older state.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        // All files stay open: only then are their properties, which hold the number of entities, known after a restart.
        options.set_max_open_files(-1);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        let cache = Cache::new_hyper_clock_cache((config.block_cache_mib as usize) << 20, 0);
        let families = [
            ColumnFamilyDescriptor::new(BASE, base_options(Some(&cache))),
            ColumnFamilyDescriptor::new(META, Options::default()),
            ColumnFamilyDescriptor::new(LOG, log_options(&cache)),
        ];
        match DB::open_cf_descriptors(&options, path, families) {
            Ok(db) => Ok(Warm { db, path: path.clone() }),
            Err(error) if is_lock(&error) => Err(Error::CloseOtherProcess { path: path.clone() }),
            Err(error) if error.kind() == rocksdb::ErrorKind::IOError => Err(disk("open", path)(error)),
            Err(error) => Err(Error::damaged(path, error.into_string())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads many keys at once; they must be sorted. One result per key.
    pub(crate) fn read<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>>, Error> {
        Ok(self.db.batched_multi_get_cf(self.family(BASE)?, keys, true))
    }

    /// Links SST files into the base family; the originals are gone afterwards. Files that overlap anything present are refused, so no
    /// file can ever shadow another generation's rows. `dir` is where the generation came from, for the message.
    pub(crate) fn ingest(&self, files: Vec<PathBuf>, dir: &Path) -> Result<(), Error> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        options.set_allow_global_seqno(false);
        options.set_allow_blocking_flush(false);
        let linked = self.db.ingest_external_file_cf_opts(self.family(BASE)?, &options, files);
        linked.map_err(|error| match error.kind() {
            rocksdb::ErrorKind::IOError => disk("link files into", &self.path)(error),
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
        self.db.delete_file_in_range_cf(self.family(BASE)?, first, last).map_err(disk("drop files of", &self.path))
    }

    /// Writes one meta record durably: when this returns, a crash cannot undo it.
    pub(crate) fn write_meta(&self, key: &[u8], record: &[u8]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META)?, key, record);
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(disk("write the meta record of", &self.path))
    }

    #[cfg(test)]
    pub(crate) fn delete_meta(&self, key: &[u8]) -> Result<(), Error> {
        self.db.delete_cf(self.family(META)?, key).map_err(disk("delete a meta record of", &self.path))
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

/// Adapter for `map_err`: which action on which path RocksDB failed at.
pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> Error {
    let path = path.to_path_buf();
    move |error| Error::disk(action, &path)(io::Error::other(error))
}

fn is_lock(error: &rocksdb::Error) -> bool {
    let message: &str = error.as_ref();
    error.kind() == rocksdb::ErrorKind::IOError
        && (message.contains("While lock file") || message.contains("lock hold by current process"))
}
