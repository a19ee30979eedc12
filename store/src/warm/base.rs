//! The files of the base family: linking those of a generation in, knowing which there are, dropping those of a generation that goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rocksdb::{IngestExternalFileOptions, WriteBatch};

use crate::Error;
use crate::key::GenerationId;
use crate::warm::failure::disk;
use crate::warm::{BASE, Warm};

/// One SST file of the base family, as RocksDB knows it.
pub(crate) struct BaseFile {
    pub(crate) name: String,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    pub(crate) entities: u64,
    /// 0 for a file that lies on top of others.
    pub(super) level: i32,
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

    /// Adds the replacement of a base value to a batch, or its deletion: only to take out what was erased.
    pub(crate) fn replace_base(&self, batch: &mut WriteBatch, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        match value {
            None => batch.delete_cf(self.family(BASE)?, key),
            Some(value) => batch.put_cf(self.family(BASE)?, key, value),
        }
        Ok(())
    }
}
