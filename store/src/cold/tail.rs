//! The tail of a cold file: directory, filters and footer, read once when the file is opened and checked before anything of it is decoded.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};

use crate::Error;
use crate::cold::directory::Directory;
use crate::cold::format::{MAX_TAIL_BYTES, START_BYTES, Seal};
use crate::cold::layout::{self, KEY_COLUMN, ROW_COLUMN};
use crate::cold::page::{PageCodec, guarded};

/// What of a tail stays in RAM.
pub(crate) struct Tail {
    pub(crate) owner: String,
    pub(crate) directory: Directory,
    /// One for each row group, never empty.
    pub(crate) filters: Vec<Sbbf>,
    pub(crate) codec: PageCodec,
}

impl Tail {
    /// Reads the tail of a file. The error says in which way the file is not one that the cold tier wrote, or not as it was written.
    pub(crate) fn read(file: &File, path: &Path) -> Result<Tail, Error> {
        let refused = |reason: String| Error::damaged(path, reason);
        let unreadable = || Error::disk("read", path);
        let file_bytes = file.metadata().map_err(unreadable())?.len();
        if file_bytes < START_BYTES as u64 {
            return Err(refused(format!("a file of {file_bytes} bytes is no cold file")));
        }
        let mut start = [0; START_BYTES];
        file.read_exact_at(&mut start, 0).map_err(unreadable())?;
        let seal = Seal::decode(&start).map_err(refused)?;
        if seal.file_bytes != file_bytes {
            let expected = seal.file_bytes;
            return Err(refused(format!("it has {file_bytes} bytes, it had {expected} when it was finished")));
        }
        let tail_bytes = file_bytes.checked_sub(seal.tail_start).filter(|&bytes| bytes <= MAX_TAIL_BYTES);
        let Some(tail_bytes) = tail_bytes else {
            return Err(refused("its tail lies where it cannot be".to_string()));
        };
        let mut bytes = vec![0; tail_bytes as usize];
        file.read_exact_at(&mut bytes, seal.tail_start).map_err(unreadable())?;
        if crc32fast::hash(&bytes) != seal.tail_crc32 {
            return Err(refused("its tail has another checksum than when it was written".to_string()));
        }
        Tail::decode(&bytes.into(), seal).map_err(refused)
    }

    fn decode(bytes: &Bytes, seal: Seal) -> Result<Tail, String> {
        let directory = Directory::decode(bytes, seal.tail_start).map_err(|damaged| damaged.0.to_string())?;
        guarded(|| {
            let mut reader = ParquetMetaDataReader::new();
            reader.try_parse_sized(bytes, seal.file_bytes)?;
            let footer = reader.finish()?;
            check(&footer, &directory)?;
            let columns = |column| footer.row_groups().iter().map(move |group| group.column(column));
            let filters = columns(KEY_COLUMN).map(|chunk| filter(chunk, bytes, seal.tail_start));
            let filters = filters.collect::<Result<_, ParquetError>>()?;
            let Some(rows) = columns(ROW_COLUMN).next() else {
                return Err(fault("it has no row groups"));
            };
            let owner = footer.file_metadata().key_value_metadata().and_then(|metadata| layout::owner(metadata));
            let owner = owner.ok_or_else(|| fault("it does not say whose rows it holds"))?;
            Ok(Tail { owner, filters, codec: PageCodec::of(rows)?, directory })
        })
        .map_err(|reason| format!("its footer cannot be used: {reason}"))
    }
}

/// The footer and the directory were written together, so they speak of the same rows in the same columns.
fn check(footer: &ParquetMetaData, directory: &Directory) -> Result<(), ParquetError> {
    let file = footer.file_metadata();
    if !file.key_value_metadata().is_some_and(|metadata| layout::names_format(metadata)) {
        return Err(fault("it does not name the format of cold files"));
    }
    if file.schema().get_fields() != layout::schema()?.get_fields() {
        return Err(fault("its columns are not key, event_time and row"));
    }
    if u64::try_from(file.num_rows())? != directory.rows() || footer.num_row_groups() != directory.groups() {
        return Err(fault("it counts other rows than the directory"));
    }
    Ok(())
}

/// The filter of a row group's keys, which the writer put into the tail.
fn filter(keys: &ColumnChunkMetaData, tail: &[u8], tail_start: u64) -> Result<Sbbf, ParquetError> {
    let slice = || {
        let offset = u64::try_from(keys.bloom_filter_offset()?).ok()?.checked_sub(tail_start)?;
        let length = usize::try_from(keys.bloom_filter_length()?).ok()?;
        tail.get(usize::try_from(offset).ok()?..)?.get(..length)
    };
    let filter = Sbbf::from_bytes(slice().ok_or_else(|| fault("a filter lies outside of the tail"))?)?;
    if filter.num_blocks() == 0 {
        return Err(fault("a filter is empty"));
    }
    Ok(filter)
}

fn fault(reason: &str) -> ParquetError {
    ParquetError::General(reason.to_string())
}
