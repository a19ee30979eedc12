//! Writing a cold file: sorted rows in, one immutable Parquet file out, in the layout that `format.rs` describes.
//!
//! Rows are gathered to a row group and then written column by column. The column of rows is written into memory first, page by page,
//! because only there is it known where a page ends; its checksum and first key go into the directory.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::column::page::{CompressedPage, PageWriteSpec, PageWriter};
use parquet::column::writer::{get_column_writer, get_typed_column_writer_mut};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};

use crate::Error;
use crate::cold::directory::{Directory, PageEntry};
use crate::cold::format::{MAX_TAIL_BYTES, Record, START_BYTES, Seal};
use crate::cold::layout::{self, LAYOUT, Layout, ROW_COLUMN};
use crate::key::check_entity;
use crate::writer::MAX_ROW_BYTES;

/// Writes one file. [`finish`](ColdWriter::finish) makes it whole; dropping the writer earlier leaves a file that nobody opens.
pub(crate) struct ColdWriter {
    path: PathBuf,
    file: SerializedFileWriter<File>,
    row_properties: WriterPropertiesPtr,
    group_bytes: usize,
    group: Group,
    directory: Directory,
    groups: u32,
    last_key: String,
}

/// The rows of the row group that is being gathered.
#[derive(Default)]
struct Group {
    keys: Vec<u8>,
    key_ends: Vec<usize>,
    event_times: Vec<i64>,
    records: Vec<u8>,
    record_ends: Vec<usize>,
}

impl ColdWriter {
    /// Starts a file, which must not exist yet, of rows that are `owner`'s.
    pub(crate) fn create(path: &Path, owner: &str) -> Result<ColdWriter, Error> {
        ColdWriter::create_with(path, owner, LAYOUT)
    }

    pub(crate) fn create_with(path: &Path, owner: &str, layout: Layout) -> Result<ColdWriter, Error> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(Error::disk("create", path))?;
        let start = || {
            let mut file = SerializedFileWriter::new(file, layout::schema()?, layout.file_properties(owner))?;
            // Room for the seal, behind the magic that is there already.
            let magic_bytes = file.bytes_written();
            file.write_all(&[0; START_BYTES][magic_bytes..])?;
            Ok::<_, ParquetError>(file)
        };
        Ok(ColdWriter {
            path: path.to_path_buf(),
            file: start().map_err(unwritable(path))?,
            row_properties: layout.row_properties(),
            group_bytes: layout.group_bytes,
            group: Group::default(),
            directory: Directory::default(),
            groups: 0,
            last_key: String::new(),
        })
    }

    /// Adds a row. Entities must ascend, in byte order.
    pub(crate) fn append(&mut self, entity: &str, event_time_ms: i64, value: &[u8]) -> Result<(), Error> {
        let path = self.path.display();
        check_entity(entity).map_err(|reason| Error::FixInput(format!("{path}: {reason}")))?;
        if value.len() > MAX_ROW_BYTES {
            let message =
                format!("{path}: entity {entity:?}: a value of {} bytes, allowed are {MAX_ROW_BYTES}", value.len());
            return Err(Error::FixInput(message));
        }
        if entity <= self.last_key.as_str() {
            let message = format!("{path}: entity {entity:?} after {:?}, entities must ascend", self.last_key);
            return Err(Error::FixInput(message));
        }
        self.last_key.clear();
        self.last_key.push_str(entity);
        self.group.push(&Record { entity: entity.as_bytes(), event_time_ms, value });
        if self.group.records.len() >= self.group_bytes {
            self.write_group()?;
        }
        Ok(())
    }

    /// Bytes of the file so far, those not yet compressed included.
    pub(crate) fn bytes(&self) -> u64 {
        (self.file.bytes_written() + self.group.records.len()) as u64
    }

    /// Writes what is left, makes the file durable (not its name: that is one call for the whole folder) and returns the number of rows.
    pub(crate) fn finish(mut self) -> Result<u64, Error> {
        self.write_group()?;
        let rows = self.directory.rows();
        if rows == 0 {
            let message = format!("{}: no rows were added", self.path.display());
            return Err(Error::FixInput(message));
        }
        let tail_start = self.file.bytes_written() as u64;
        let end = || {
            self.file.write_all(&self.directory.encode())?;
            self.file.into_inner()
        };
        let file = end().map_err(unwritable(&self.path))?;
        let seal = || {
            let file_bytes = file.metadata()?.len();
            let tail_bytes = file_bytes - tail_start;
            if tail_bytes > MAX_TAIL_BYTES {
                let reason = format!("{rows} rows need an index of {tail_bytes} bytes, allowed are {MAX_TAIL_BYTES}");
                return Err(io::Error::other(reason));
            }
            let mut tail = vec![0; tail_bytes as usize];
            file.read_exact_at(&mut tail, tail_start)?;
            let seal = Seal { file_bytes, tail_start, tail_crc32: crc32fast::hash(&tail) };
            // The seal may not reach the disk before what it vouches for.
            file.sync_data()?;
            file.write_all_at(&seal.encode(), 0)?;
            file.sync_all()
        };
        seal().map_err(Error::disk("finish", &self.path))?;
        Ok(rows)
    }

    fn write_group(&mut self) -> Result<(), Error> {
        if self.group.event_times.is_empty() {
            return Ok(());
        }
        let group = mem::take(&mut self.group);
        self.write_columns(group).map_err(unwritable(&self.path))
    }

    fn write_columns(&mut self, group: Group) -> Result<(), ParquetError> {
        let keys = byte_arrays(group.keys, &group.key_ends);
        let records = byte_arrays(group.records, &group.record_ends);
        let column = self.file.schema_descr().column(ROW_COLUMN);

        let mut columns = self.file.next_row_group()?;
        write_column::<ByteArrayType>(&mut columns, &keys)?;
        write_column::<Int64Type>(&mut columns, &group.event_times)?;

        let mut pages = Pages::new();
        let mut writer = get_column_writer(column, self.row_properties.clone(), Box::new(&mut pages));
        get_typed_column_writer_mut::<ByteArrayType>(&mut writer).write_batch(&records, None, None)?;
        let closed = writer.close()?;
        let stored = Bytes::from(pages.bytes.into_inner()?);
        columns.append_column(&stored, closed)?;
        let (mut offset, _) = columns.close()?.column(ROW_COLUMN).byte_range();

        let (mut start, mut row) = (0, 0);
        for (rows, bytes) in pages.sizes {
            let (first, end) = (row, row + rows as usize);
            let crc32 = crc32fast::hash(&stored[start..start + bytes as usize]);
            let page = PageEntry { offset, bytes, rows, crc32, group: self.groups };
            let pushed = self.directory.push(page, keys[first].data(), keys[end - 1].data());
            pushed.map_err(|damaged| ParquetError::General(damaged.0.to_string()))?;
            (offset, start, row) = (page.end(), start + bytes as usize, end);
        }
        self.groups += 1;
        Ok(())
    }
}

impl Group {
    fn push(&mut self, record: &Record<'_>) {
        self.keys.extend_from_slice(record.entity);
        self.key_ends.push(self.keys.len());
        self.event_times.push(record.event_time_ms);
        self.records.reserve(record.len());
        record.push_to(&mut self.records);
        self.record_ends.push(self.records.len());
    }
}

/// The pages of one column chunk, and of each how many rows and bytes it has.
struct Pages {
    bytes: TrackedWrite<Vec<u8>>,
    sizes: Vec<(u32, u32)>,
}

impl Pages {
    fn new() -> Pages {
        Pages { bytes: TrackedWrite::new(Vec::new()), sizes: Vec::new() }
    }
}

impl PageWriter for &mut Pages {
    fn write_page(&mut self, page: CompressedPage) -> Result<PageWriteSpec, ParquetError> {
        let written = SerializedPageWriter::new(&mut self.bytes).write_page(page)?;
        self.sizes.push((written.num_values, u32::try_from(written.bytes_written)?));
        Ok(written)
    }

    fn close(&mut self) -> Result<(), ParquetError> {
        Ok(())
    }
}

fn write_column<T: DataType>(
    columns: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
) -> Result<(), ParquetError> {
    let Some(mut column) = columns.next_column()? else {
        return Err(ParquetError::General("a column too many".to_string()));
    };
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

/// The pieces of `bytes` that end at `ends`, without copying them.
fn byte_arrays(bytes: Vec<u8>, ends: &[usize]) -> Vec<ByteArray> {
    let bytes = Bytes::from(bytes);
    let starts = [0].iter().chain(ends);
    starts.zip(ends).map(|(&start, &end)| ByteArray::from(bytes.slice(start..end))).collect()
}

fn unwritable(path: &Path) -> impl FnOnce(ParquetError) -> Error {
    let disk = Error::disk("write", path);
    move |error| disk(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cold::file::ColdFile;
    use crate::cold::test_files::{SMALL, rows, write};
    use crate::key::MAX_ENTITY_BYTES;
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use std::fs;

    #[test]
    fn rows_that_break_a_rule_are_refused_and_those_before_them_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut writer = ColdWriter::create(&path, "view 1").unwrap();
        writer.append("b", 1, b"value").unwrap();
        let long = "x".repeat(MAX_ENTITY_BYTES + 1);
        let large = vec![0; MAX_ROW_BYTES + 1];
        let bad: [(&str, &[u8], &str); 5] = [
            ("b", b"", "entities must ascend"),
            ("a", b"", "entity \"a\" after \"b\""),
            ("", b"", "an entity of 0 bytes"),
            (&long, b"", "an entity of 257 bytes, allowed are 1 to 256"),
            ("c", &large, "a value of 1048577 bytes, allowed are 1048576"),
        ];
        for (entity, value, expected) in bad {
            let error = writer.append(entity, 1, value).unwrap_err();
            assert!(matches!(error, Error::FixInput(_)));
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(writer.finish().unwrap(), 1);
        assert_eq!(ColdFile::open(&path).unwrap().scan().count(), 1);
    }

    #[test]
    fn a_file_without_rows_or_without_an_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(matches!(ColdWriter::create(&path, "view 1").unwrap().finish(), Err(Error::FixInput(_))));
        assert!(
            matches!(ColdWriter::create(&path, "view 1"), Err(Error::CheckDisk { .. })),
            "an existing file is not written over"
        );
        fs::remove_file(&path).unwrap();
        let mut writer = ColdWriter::create(&path, "view 1").unwrap();
        writer.append("a", 1, &vec![7; MAX_ROW_BYTES]).unwrap();
        assert!(writer.bytes() > MAX_ROW_BYTES as u64);
        writer.write_group().unwrap();
        drop(writer);
        assert!(ColdFile::open(&path).unwrap_err().to_string().contains("it was never finished"));
    }

    #[test]
    fn other_programs_read_it_as_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let rows = rows(500);
        let path = write(folder.path(), &rows, SMALL);
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        assert!(reader.metadata().num_row_groups() > 2);
        let types: Vec<_> =
            reader.schema().fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
        let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        assert_eq!(types, [("key", DataType::Utf8), ("event_time", time), ("row", DataType::Binary)]);
        let mut expected = rows.iter();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let keys = batch.column(0).as_string::<i32>();
            let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
            let records = batch.column(2).as_binary::<i32>();
            for row in 0..batch.num_rows() {
                let (entity, (event_time_ms, value)) = expected.next().unwrap();
                assert_eq!((keys.value(row), times.value(row)), (entity.as_str(), *event_time_ms));
                assert!(records.value(row).starts_with(value), "value bytes come first, as they are");
            }
        }
        assert!(expected.next().is_none());
    }
}
