//! A sorted run that is set aside in a file: an Arrow IPC stream inside an LZ4 frame with a checksum per block.
//!
//! Runs are written once from start to end and read once from start to end. The frame is around the stream and not inside it, so that the
//! IPC crate needs no codec of its own and damage is noticed before anything is decoded.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use lz4_flex::frame::{BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::budget::RUN_BATCH_BYTES;
use crate::sort::Sorted;

/// Rows of a batch in a run file, at most.
const RUN_BATCH_ROWS: usize = 4096;
/// Bytes that are read or written at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// A finished run file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// Its name in the folder for runs.
    pub(crate) name: String,
    /// Which part of which segment it starts with: runs in this order hold their rows in the order in which they were read.
    pub(crate) order: (u64, u32),
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// A run file that is being written.
pub(crate) struct RunWriter {
    path: PathBuf,
    stream: StreamWriter<FrameEncoder<BufWriter<File>>>,
    rows: u64,
}

impl RunWriter {
    pub(crate) fn create(path: &Path, schema: &Schema) -> Result<RunWriter, Error> {
        let file = File::create(path).map_err(Error::disk("create", path))?;
        let frame = FrameInfo::new().block_size(BlockSize::Max256KB).block_checksums(true);
        let encoder = FrameEncoder::with_frame_info(frame, BufWriter::with_capacity(BUFFER_BYTES, file));
        let stream = StreamWriter::try_new(encoder, schema).map_err(|error| refused("write", path, error))?;
        Ok(RunWriter { path: path.to_owned(), stream, rows: 0 })
    }

    /// Writes the rows of a sorted run, in batches so small that many runs can be merged at a time.
    pub(crate) fn write_sorted(&mut self, sorted: &Sorted, bytes: u64) -> Result<(), Error> {
        let step = batch_rows(sorted.rows(), bytes);
        for start in (0..sorted.rows()).step_by(step) {
            let end = sorted.rows().min(start + step);
            let batch = sorted.batch(start..end).map_err(|error| refused("sort rows for", &self.path, error))?;
            self.append(&batch)?;
        }
        Ok(())
    }

    /// Writes merged rows.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        let step = batch_rows(rows.num_rows(), rows.get_array_memory_size() as u64);
        for start in (0..rows.num_rows()).step_by(step) {
            self.append(&rows.slice(start, step.min(rows.num_rows() - start)))?;
        }
        Ok(())
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.rows += batch.num_rows() as u64;
        self.stream.write(batch).map_err(|error| refused("write", &self.path, error))
    }

    /// Makes the run durable. Returns its rows and bytes.
    pub(crate) fn finish(self) -> Result<(u64, u64), Error> {
        let RunWriter { path, stream, rows } = self;
        let encoder = stream.into_inner().map_err(|error| refused("write", &path, error))?;
        let disk = |error| Error::disk("write", &path)(error);
        let mut buffer = encoder.finish().map_err(|error| disk(error.into()))?;
        buffer.flush().map_err(disk)?;
        let file = buffer.into_inner().map_err(|error| disk(error.into_error()))?;
        file.sync_all().map_err(disk)?;
        Ok((rows, file.metadata().map_err(disk)?.len()))
    }
}

/// A run file, read batch by batch.
pub(crate) struct RunReader {
    path: PathBuf,
    stream: StreamReader<FrameDecoder<BufReader<File>>>,
    /// Rows still to come, by the account of whoever wrote it.
    rows: u64,
}

impl RunReader {
    pub(crate) fn open(path: &Path, rows: u64) -> Result<RunReader, Error> {
        let file = File::open(path).map_err(Error::disk("open", path))?;
        let decoder = FrameDecoder::new(BufReader::with_capacity(BUFFER_BYTES, file));
        let stream = StreamReader::try_new(decoder, None).map_err(|error| unreadable(path, error))?;
        Ok(RunReader { path: path.to_owned(), stream, rows })
    }

    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        let not_as_written = || Error::BuildAgain { path: self.path.clone() };
        match self.stream.next() {
            None if self.rows == 0 => Ok(None),
            None => Err(not_as_written()),
            Some(Err(error)) => Err(unreadable(&self.path, error)),
            Some(Ok(batch)) => {
                self.rows = self.rows.checked_sub(batch.num_rows() as u64).ok_or_else(not_as_written)?;
                Ok(Some(batch))
            }
        }
    }
}

/// How many rows of these make a batch of a run file.
pub(crate) fn batch_rows(rows: usize, bytes: u64) -> usize {
    let per_row = bytes / rows.max(1) as u64;
    (RUN_BATCH_BYTES as u64 / per_row.max(1)).clamp(1, RUN_BATCH_ROWS as u64) as usize
}

/// Why a run could not be read: the operating system refused it, which may pass, or what it gave back is not what was written.
fn unreadable(path: &Path, error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, error) if error.raw_os_error().is_some() => Error::disk("read", path)(error),
        error => {
            tracing::warn!(run = %path.display(), %error, "sorted rows are not as they were set aside");
            Error::BuildAgain { path: path.to_owned() }
        }
    }
}

/// What Arrow says of a run that is being written is the disk's doing.
fn refused(action: &'static str, path: &Path, error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, error) => Error::disk(action, path)(error),
        other => Error::disk(action, path)(std::io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, StringArray};
    use std::sync::Arc;

    fn run(path: &Path, rows: usize) -> u64 {
        let entities: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("user-{row:06}"))));
        let batch = RecordBatch::try_from_iter([("entity", entities)]).unwrap();
        let mut writer = RunWriter::create(path, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        let (written, bytes) = writer.finish().unwrap();
        assert_eq!((written, bytes), (rows as u64, std::fs::metadata(path).unwrap().len()));
        bytes
    }

    fn read(path: &Path, rows: u64) -> Result<u64, Error> {
        let mut reader = RunReader::open(path, rows)?;
        let mut found = 0;
        while let Some(batch) = reader.next()? {
            found += batch.num_rows() as u64;
        }
        Ok(found)
    }

    #[test]
    fn a_run_comes_back_whole_and_a_damaged_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let bytes = run(&path, 50_000);
        assert_eq!(read(&path, 50_000).unwrap(), 50_000);
        let damaged = |rows| matches!(read(&path, rows), Err(Error::BuildAgain { path: named }) if named == path);
        assert!(damaged(49_999) && damaged(50_001));
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 3, bytes as usize / 2, bytes as usize - 20] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(damaged(50_000), "{length} bytes of it");
        }
        for at in (20..whole.len() - 8).step_by(whole.len() / 50) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert!(damaged(50_000), "byte {at}");
        }
        // What the operating system refuses says nothing about the rows.
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path, 50_000), Err(Error::CheckDisk { .. })));
    }

    #[test]
    fn wide_rows_make_small_batches() {
        assert_eq!(batch_rows(1_000, 1_000 * 1_000_000), 1);
        assert_eq!(batch_rows(1_000, 1_000), RUN_BATCH_ROWS);
        assert_eq!(batch_rows(0, 0), RUN_BATCH_ROWS);
    }
}
