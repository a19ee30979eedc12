//! One Parquet file of a snapshot: checking that its columns fit the view, reading it as canonical batches.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMillisecondArray, new_null_array};
use arrow::compute::filter;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use larder_store::{FeatureType, MAX_ENTITY_BYTES, ViewConfig};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;

use crate::Error;
use crate::convert::Wanted;
use crate::input::{Input, RemoteFile};
use crate::location::FoundFile;
use crate::partition;
use crate::rejects::{MAX_SAMPLES, Reject};

/// Rows read at a time, and the bytes that they should not exceed by far.
const BATCH_ROWS: usize = 2048;
const BATCH_BYTES: u64 = 4 << 20;
/// Bytes of a rejected row's key that are kept.
const MAX_KEY_CHARS: usize = 300;

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Rows of a whole generation.
    Rows,
    /// New and changed rows of a delta snapshot.
    Upserts,
    /// Deletions of a delta snapshot, and when they happened where the file does not say it, Unix milliseconds UTC.
    Deletions {
        /// The time.
        at_ms: i64,
    },
}

impl Holds {
    /// The schema of the rows as they are passed on.
    pub(crate) fn schema(self, view: &ViewConfig) -> SchemaRef {
        match self {
            Holds::Rows => view.arrow_schema(),
            Holds::Upserts | Holds::Deletions { .. } => view.change_schema(),
        }
    }

    /// Whether a column is looked for in such a file, and what stands in its place where it is not there.
    fn stand_in(self, view: &ViewConfig, column: usize, name: &str) -> (bool, Option<ArrayRef>) {
        let Holds::Deletions { at_ms } = self else { return (true, None) };
        match column {
            0 => (true, None),
            1 => {
                let time = TimestampMillisecondArray::from(vec![at_ms]).with_timezone("UTC");
                (true, Some(Arc::new(time)))
            }
            _ => {
                let is_element = view.element_key.as_deref() == Some(name);
                (is_element, Some(new_null_array(self.schema(view).field(column).data_type(), 1)))
            }
        }
    }
}

/// A file of a snapshot, as it was found.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) found: FoundFile,
    holds: Holds,
    /// The same as a path, for messages.
    pub(crate) path: PathBuf,
    /// Columns in the names of its folders.
    partitions: Vec<(String, Option<String>)>,
}

impl Source {
    pub(crate) fn new(holds: Holds, found: FoundFile) -> Source {
        let path = PathBuf::from(found.location.to_string());
        Source { path, holds, partitions: partition::partitions(&found.relative), found }
    }
}

/// One open Parquet file, read batch by batch.
pub(crate) struct SourceFile<'a> {
    path: &'a Path,
    view: &'a ViewConfig,
    reader: ParquetRecordBatchReader,
    /// The canonical schema: the view's, or that of its changes.
    schema: SchemaRef,
    /// The number of rows that the file says it holds, and the bytes of the wanted columns before their pages were compressed.
    rows: u64,
    bytes: u64,
    columns: Vec<ColumnFrom>,
    /// The number of the first row to read.
    first_row: u64,
    rows_read: u64,
    /// To ask what failed.
    remote: Option<RemoteFile>,
}

/// Where a canonical column comes from.
enum ColumnFrom {
    /// A position in what the reader returns, and what it is wanted for.
    File(usize, Wanted),
    /// One row with the value that the folder's name holds.
    Folder(ArrayRef),
    /// One row with what is so in every row of such files.
    Given(ArrayRef),
}

/// A canonical batch without the rows whose keys cannot be used.
pub(crate) struct SourceBatch {
    pub(crate) rows: RecordBatch,
    /// Rows left out.
    pub(crate) rejected: u64,
    /// The first of them.
    pub(crate) samples: Vec<Reject>,
}

/// A reader of a file, with INT96 timestamps read as microseconds. Spark, Hive and Impala write them; read as nanoseconds, which is the
/// parquet crate's choice, a date beyond the year 2262 (9999-12-31 is a usual one) would silently become another.
fn reader_of(file: Input) -> Result<ParquetRecordBatchReaderBuilder<Input>, ParquetError> {
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let (stored, schema) = (metadata.parquet_schema(), metadata.schema());
    let int96 = |root: usize| {
        let column = &stored.root_schema().get_fields()[root];
        column.is_primitive() && column.get_physical_type() == PhysicalType::INT96
    };
    if !(0..schema.fields().len()).any(int96) {
        return Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata));
    }
    let field = |(root, field): (usize, &FieldRef)| match field.data_type() {
        DataType::Timestamp(_, zone) if int96(root) => {
            let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            Arc::new(field.as_ref().clone().with_data_type(micros))
        }
        _ => field.clone(),
    };
    let fields: Fields = schema.fields().iter().enumerate().map(field).collect();
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
    ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
}

impl<'a> SourceFile<'a> {
    /// Opens a file and checks every column of the view against it, before any row is read. Of a file that is not here, blocks of
    /// `block_bytes` are fetched. `range` are the rows to read, all of them where it is left out.
    pub(crate) fn open(
        source: &'a Source,
        view: &'a ViewConfig,
        range: Option<Range<u64>>,
        block_bytes: u64,
    ) -> Result<SourceFile<'a>, Error> {
        let path = source.path.as_path();
        let input = Input::open(&source.found, view.features.len() + 2, block_bytes)?;
        let remote = input.remote();
        let unreadable = |error: ParquetError| match remote.as_ref().and_then(RemoteFile::take_failure) {
            Some(failure) => failure,
            None => Error::source(path, format!("not a readable Parquet file: {error}")),
        };
        // Some decoders of the parquet crate panic on lengths that a damaged file makes up.
        let opened = catch_unwind(AssertUnwindSafe(|| reader_of(input)));
        let opened = opened.map_err(|_| Error::source(path, "not a readable Parquet file: its footer is damaged"))?;
        let builder = opened.map_err(unreadable)?;
        let schema = builder.schema();
        let mut roots = Vec::new();
        let mut columns = Vec::new();
        for (column, (name, former_names, wanted)) in wanted_columns(view).enumerate() {
            let (is_wanted, stand_in) = source.holds.stand_in(view, column, name);
            let names: Vec<_> = std::iter::once(name).chain(former_names.iter().map(String::as_str)).collect();
            let names = if is_wanted { names } else { Vec::new() };
            let in_folder = |name: &&str| source.partitions.iter().find(|(column, _)| column == name);
            if let Some(root) = wanted.find(view, schema, &names).map_err(|reason| Error::source(path, reason))? {
                roots.push(root);
                columns.push(ColumnFrom::File(root, wanted));
            } else if let Some((column, value)) = names.iter().find_map(in_folder) {
                let value = partition::value(value.as_deref(), wanted)
                    .map_err(|reason| Error::source(path, format!("column {column}: {reason}")))?;
                columns.push(ColumnFrom::Folder(value));
            } else {
                let given = stand_in.ok_or_else(|| Error::source(path, missing(view, name, wanted, schema)))?;
                columns.push(ColumnFrom::Given(given));
            }
        }
        if source.holds != Holds::Rows {
            let deleted = matches!(source.holds, Holds::Deletions { .. });
            columns.push(ColumnFrom::Given(Arc::new(BooleanArray::from(vec![deleted]))));
        }
        // The reader returns the wanted columns in the order of the file.
        roots.sort_unstable();
        for from in &mut columns {
            if let ColumnFrom::File(root, _) = from {
                *root = roots.partition_point(|other| other < root);
            }
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
        let groups = builder.metadata().row_groups();
        let rows = groups.iter().map(group_rows).fold(0, u64::saturating_add);
        let bytes = groups.iter().map(|group| group_bytes(group, &mask)).fold(0, u64::saturating_add);
        let largest =
            groups.iter().map(|group| group_bytes(group, &mask) / group_rows(group).max(1)).max().unwrap_or(0);
        let batch_rows = (BATCH_BYTES / largest.max(1)).clamp(1, BATCH_ROWS as u64) as usize;
        let first_row = range.as_ref().map_or(0, |range| range.start);
        let mut builder = builder.with_projection(mask).with_batch_size(batch_rows);
        if let Some(range) = range {
            let (groups, skipped) = overlapping(builder.metadata().row_groups(), &range);
            builder = builder.with_row_groups(groups);
            builder = builder.with_offset(skipped as usize).with_limit((range.end - range.start) as usize);
        }
        let reader = catch_unwind(AssertUnwindSafe(|| builder.build()));
        let reader = reader.map_err(|_| Error::source(path, "cannot be decoded, it is damaged"))?;
        let reader = reader.map_err(unreadable)?;
        Ok(SourceFile {
            path,
            view,
            reader,
            schema: source.holds.schema(view),
            rows,
            bytes,
            columns,
            first_row,
            rows_read: 0,
            remote,
        })
    }

    /// Rows in the file, by its own account.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of the wanted columns before their pages were compressed, by its own account.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Rows read so far, rejected ones included.
    pub(crate) fn rows_read(&self) -> u64 {
        self.rows_read
    }

    /// The next batch; `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>, Error> {
        let first_row = self.first_row + self.rows_read;
        // Some decoders of the parquet crate panic on lengths that a damaged file makes up.
        let next = catch_unwind(AssertUnwindSafe(|| self.reader.next()));
        let next = next
            .map_err(|_| Error::source(self.path, format!("cannot be decoded after row {first_row}, it is damaged")))?;
        let Some(batch) = next else {
            return Ok(None);
        };
        let batch = batch.map_err(|error| match self.remote.as_ref().and_then(RemoteFile::take_failure) {
            Some(failure) => failure,
            None => {
                let reason = format!("cannot be read after row {first_row}, it is cut short or damaged: {error}");
                Error::source(self.path, reason)
            }
        })?;
        self.rows_read += batch.num_rows() as u64;
        let mut columns = Vec::with_capacity(self.columns.len());
        for from in &self.columns {
            let (column, name) = match from {
                ColumnFrom::File(position, wanted) => {
                    (wanted.convert(batch.column(*position)), batch.schema_ref().field(*position).name().as_str())
                }
                ColumnFrom::Folder(value) => (partition::repeated(value, batch.num_rows()), "of the folder's name"),
                ColumnFrom::Given(value) => (partition::repeated(value, batch.num_rows()), "that is not there"),
            };
            columns.push(column.map_err(|reason| {
                let last = first_row + batch.num_rows() as u64;
                Error::source(self.path, format!("column {name}, rows {first_row} to {last}: {reason}"))
            })?);
        }
        let failed = |error: arrow::error::ArrowError| Error::source(self.path, error.to_string());
        let (mut rejected, mut samples) = (0, Vec::new());
        if !self.all_usable(&columns) {
            let usable;
            (usable, rejected, samples) = self.usable(&columns, first_row);
            let filtered = columns.iter().map(|column| filter(column, &usable)).collect::<Result<_, _>>();
            columns = filtered.map_err(failed)?;
        }
        let rows = RecordBatch::try_new(self.schema.clone(), columns).map_err(failed)?;
        Ok(Some(SourceBatch { rows, rejected, samples }))
    }

    /// Whether the keys of all rows can be stored, as they nearly always can.
    fn all_usable(&self, columns: &[ArrayRef]) -> bool {
        let lengths = columns[0].as_string::<i32>().value_offsets().windows(2).map(|ends| ends[1] - ends[0]);
        let element_key = self.element_key(columns).map(|(_, column)| column);
        columns[..2].iter().chain(element_key).all(|column| column.null_count() == 0)
            && lengths.into_iter().all(|length| (1..=MAX_ENTITY_BYTES as i32).contains(&length))
    }

    /// The feature that identifies an element, with its column; none in a file of deletions that names no elements.
    fn element_key<'c>(&self, columns: &'c [ArrayRef]) -> Option<(&'a String, &'c ArrayRef)> {
        let name = self.view.element_key.as_ref()?;
        let column = 2 + self.view.features.iter().position(|feature| &feature.name == name)?;
        let is_there = !matches!(self.columns.get(column)?, ColumnFrom::Given(_));
        is_there.then(|| (name, &columns[column]))
    }

    /// Which rows have keys that can be stored, how many have not, and the first of those.
    fn usable(&self, columns: &[ArrayRef], first_row: u64) -> (BooleanArray, u64, Vec<Reject>) {
        let entities = columns[0].as_string::<i32>();
        let element_key = self.element_key(columns);
        let fault = |row: usize| -> Option<(&String, String)> {
            let is_null = || "is null".to_owned();
            if entities.is_null(row) {
                return Some((&self.view.entity_key, is_null()));
            }
            let length = entities.value(row).len();
            if length == 0 || length > MAX_ENTITY_BYTES {
                let reason = format!("has {length} bytes, allowed are 1 to {MAX_ENTITY_BYTES}");
                return Some((&self.view.entity_key, reason));
            }
            if columns[1].is_null(row) {
                return Some((&self.view.event_time, is_null()));
            }
            element_key.filter(|(_, column)| column.is_null(row)).map(|(name, _)| (name, is_null()))
        };
        let (mut rejected, mut samples) = (0, Vec::new());
        let usable = (0..entities.len()).map(|row| {
            let fault = fault(row);
            let fine = fault.is_none();
            if let Some((column, reason)) = fault {
                rejected += 1;
                if samples.len() < MAX_SAMPLES {
                    let key = entities.is_valid(row).then(|| entities.value(row).chars().take(MAX_KEY_CHARS).collect());
                    let (file, column) = (self.path.display().to_string(), column.clone());
                    samples.push(Reject { file, row: first_row + row as u64, column, reason, key });
                }
            }
            Some(fine)
        });
        (usable.collect(), rejected, samples)
    }
}

/// What is said of a column that is nowhere.
fn missing(view: &ViewConfig, name: &str, wanted: Wanted, schema: &Schema) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let (wanted, view, names) = (wanted.name(), &view.name, names.join(", "));
    format!("column {name} ({wanted}) of view {view} is missing, the file has {names}")
}

/// Rows of a row group; a damaged footer may say anything.
fn group_rows(group: &RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or(0)
}

/// Bytes of a row group's wanted columns, before their pages were compressed.
fn group_bytes(group: &RowGroupMetaData, wanted: &ProjectionMask) -> u64 {
    let columns = group.columns().iter().enumerate().filter(|(leaf, _)| wanted.leaf_included(*leaf));
    let bytes = columns.map(|(_, column)| u64::try_from(column.uncompressed_size()).unwrap_or(0));
    bytes.fold(0, u64::saturating_add)
}

/// The row groups that hold a range of rows, and how many rows of the first come before it.
fn overlapping(groups: &[RowGroupMetaData], range: &Range<u64>) -> (Vec<usize>, u64) {
    let (mut found, mut skipped, mut start) = (Vec::new(), 0, 0u64);
    for (number, group) in groups.iter().enumerate() {
        let end = start.saturating_add(group_rows(group));
        if start < range.end && range.start < end {
            if found.is_empty() {
                skipped = range.start - start;
            }
            found.push(number);
        }
        start = end;
    }
    (found, skipped)
}

/// The columns of the canonical batch, in its order: the name of each, what it may be called in a file that lacks that name, and what it
/// is for.
fn wanted_columns(view: &ViewConfig) -> impl Iterator<Item = (&str, &[String], Wanted)> {
    let keys: [(_, &[String], _); 2] =
        [(&view.entity_key, &[], Wanted::Entity), (&view.event_time, &[], Wanted::Feature(FeatureType::Timestamp))];
    let features = view.features.iter().map(|f| (&f.name, f.former_names.as_slice(), Wanted::Feature(f.data_type)));
    keys.into_iter().chain(features).map(|(name, former_names, wanted)| (name.as_str(), former_names, wanted))
}
