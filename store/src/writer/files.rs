//! The files of a generation while they are written, one of each tier at a time.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rocksdb::{Options, SstFileWriter};

use crate::cold::writer::ColdWriter;
use crate::manifest::ManifestFile;
use crate::{Error, files, warm};

/// The table options of SST files. A writer borrows its options for as long as it lives, and they are the same for all.
static SST_OPTIONS: LazyLock<Options> = LazyLock::new(|| warm::base_options(None));

/// An SST file.
pub(super) struct OpenSst {
    writer: SstFileWriter<'static>,
    name: String,
    path: PathBuf,
    entities: u64,
}

impl OpenSst {
    pub(super) fn create(dir: &Path, number: usize) -> Result<OpenSst, Error> {
        let name = format!("{number:06}.sst");
        let path = dir.join(&name);
        let writer = SstFileWriter::create(&SST_OPTIONS);
        writer.open(&path).map_err(warm::disk("create", &path))?;
        Ok(OpenSst { writer, name, path, entities: 0 })
    }

    /// Adds an entity, greater than all before.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.writer.put(key, value).map_err(|error| warm::disk("write", &self.path)(error))?;
        self.entities += 1;
        Ok(())
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.writer.file_size()
    }

    /// Makes the file durable.
    pub(super) fn close(mut self) -> Result<ManifestFile, Error> {
        self.writer.finish().map_err(warm::disk("finish", &self.path))?;
        let (bytes, crc32) = files::sync_and_sum(&self.path)?;
        Ok(ManifestFile { name: self.name, bytes, entities: self.entities, crc32 })
    }
}

/// A Parquet file of the cold tier.
pub(crate) struct OpenCold {
    writer: ColdWriter,
    name: String,
    path: PathBuf,
}

impl OpenCold {
    pub(crate) fn create(dir: &Path, number: usize, owner: &str) -> Result<OpenCold, Error> {
        let name = format!("{number:06}.parquet");
        let path = dir.join(&name);
        Ok(OpenCold { writer: ColdWriter::create(&path, owner)?, name, path })
    }

    /// Adds an entity, greater than all before.
    pub(crate) fn append(&mut self, entity: &str, newest_ms: i64, value: &[u8]) -> Result<(), Error> {
        self.writer.append(entity, newest_ms, value)
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Makes the file durable.
    pub(crate) fn close(self) -> Result<ManifestFile, Error> {
        let entities = self.writer.finish()?;
        let (bytes, crc32) = files::sync_and_sum(&self.path)?;
        Ok(ManifestFile { name: self.name, bytes, entities, crc32 })
    }
}
