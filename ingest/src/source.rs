//! The Parquet files of a snapshot: finding them, checking that their columns fit the view, reading them as canonical batches.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use larder_store::{FeatureType, MAX_ENTITY_BYTES, ViewConfig};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;

use crate::Error;
use crate::convert::Wanted;

/// Rows read at a time.
const BATCH_ROWS: usize = 2048;

/// The Parquet files that `sources` name, directories replaced by the `*.parquet` files in them, in order of name.
pub(crate) fn list(sources: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for source in sources {
        if !source.is_dir() {
            files.push(source.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in fs::read_dir(source).map_err(Error::disk("read", source))? {
            let path = entry.map_err(Error::disk("read", source))?.path();
            if path.extension().is_some_and(|extension| extension == "parquet") && path.is_file() {
                inside.push(path);
            }
        }
        if inside.is_empty() {
            let message = format!("the folder {} holds no *.parquet file", source.display());
            return Err(Error::FixRequest(message));
        }
        inside.sort();
        files.append(&mut inside);
    }
    if files.is_empty() {
        return Err(Error::FixRequest("no source files are named".to_string()));
    }
    Ok(files)
}

/// One open Parquet file, read batch by batch.
pub(crate) struct SourceFile<'a> {
    path: &'a Path,
    view: &'a ViewConfig,
    reader: ParquetRecordBatchReader,
    /// The view's canonical schema.
    schema: SchemaRef,
    /// The number of rows that the file says it holds.
    rows: u64,
    /// For each canonical column its position in what the reader returns.
    columns: Vec<(usize, Wanted)>,
    rows_read: u64,
}

/// A canonical batch without the rows whose keys cannot be used.
pub(crate) struct SourceBatch {
    pub(crate) rows: RecordBatch,
    /// Rows left out, with the first one's number in the file and what is wrong with it.
    pub(crate) rejected: u64,
    pub(crate) first_rejected: Option<(u64, String)>,
}

/// A reader of a file, with INT96 timestamps read as microseconds. Spark, Hive and Impala write them; read as nanoseconds, which is the
/// parquet crate's choice, a date beyond the year 2262 (9999-12-31 is a usual one) would silently become another.
fn reader_of(file: File) -> Result<ParquetRecordBatchReaderBuilder<File>, ParquetError> {
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
    /// Opens a file and checks every column of the view against it, before any row is read.
    pub(crate) fn open(path: &'a Path, view: &'a ViewConfig) -> Result<SourceFile<'a>, Error> {
        let file = File::open(path).map_err(Error::disk("open", path))?;
        let builder =
            reader_of(file).map_err(|error| Error::source(path, format!("not a readable Parquet file: {error}")))?;
        let schema = builder.schema();
        let mut roots = Vec::new();
        for (name, former_names, wanted) in wanted_columns(view) {
            let has = |name: &str| schema.fields().iter().any(|field| field.name() == name);
            let former = former_names.iter().map(String::as_str).find(|former| has(former));
            let name = former.filter(|_| !has(name)).unwrap_or(name);
            let mut found = schema.fields().iter().enumerate().filter(|(_, field)| field.name() == name);
            let (root, field) = match (found.next(), found.next()) {
                (Some(only), None) => only,
                (Some(_), Some(_)) => return Err(Error::source(path, format!("column {name} is there twice"))),
                (None, _) => {
                    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                    let reason = format!(
                        "column {name} ({}) of view {} is missing, the file has {}",
                        wanted.name(),
                        view.name,
                        names.join(", ")
                    );
                    return Err(Error::source(path, reason));
                }
            };
            if !wanted.accepts(field.data_type()) {
                let reason = format!(
                    "column {name} is {}, view {} expects {}, which takes {}",
                    field.data_type(),
                    view.name,
                    wanted.name(),
                    wanted.accepted()
                );
                return Err(Error::source(path, reason));
            }
            roots.push((root, wanted));
        }
        // The reader returns the wanted columns in the order of the file.
        let mut in_file_order: Vec<_> = roots.iter().map(|(root, _)| *root).collect();
        in_file_order.sort_unstable();
        let position = |root| in_file_order.partition_point(|&other| other < root);
        let columns = roots.iter().map(|&(root, wanted)| (position(root), wanted)).collect();
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let mask = ProjectionMask::roots(builder.parquet_schema(), in_file_order.iter().copied());
        let reader = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| Error::source(path, error.to_string()))?;
        Ok(SourceFile { path, view, reader, schema: view.arrow_schema(), rows, columns, rows_read: 0 })
    }

    /// The file.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// Rows in the file, by its own account.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows read so far, rejected ones included.
    pub(crate) fn rows_read(&self) -> u64 {
        self.rows_read
    }

    /// The next batch; `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>, Error> {
        let first_row = self.rows_read;
        // Some decoders of the parquet crate panic on lengths that a damaged file makes up.
        let next = catch_unwind(AssertUnwindSafe(|| self.reader.next()));
        let next = next
            .map_err(|_| Error::source(self.path, format!("cannot be decoded after row {first_row}, it is damaged")))?;
        let Some(batch) = next else {
            return Ok(None);
        };
        let batch = batch.map_err(|error| {
            let reason = format!("cannot be read after row {first_row}, it is cut short or damaged: {error}");
            Error::source(self.path, reason)
        })?;
        self.rows_read += batch.num_rows() as u64;
        let mut columns = Vec::with_capacity(self.columns.len());
        for (position, wanted) in &self.columns {
            columns.push(wanted.convert(batch.column(*position)).map_err(|reason| {
                let (name, last) = (batch.schema_ref().field(*position).name(), self.rows_read);
                Error::source(self.path, format!("column {name}, rows {first_row} to {last}: {reason}"))
            })?);
        }
        let failed = |error: arrow::error::ArrowError| Error::source(self.path, error.to_string());
        let (mut rejected, mut first_rejected) = (0, None);
        if !self.all_usable(&columns) {
            let usable;
            (usable, rejected, first_rejected) = self.usable(&columns, first_row);
            let filtered = columns.iter().map(|column| filter(column, &usable)).collect::<Result<_, _>>();
            columns = filtered.map_err(failed)?;
        }
        let rows = RecordBatch::try_new(self.schema.clone(), columns).map_err(failed)?;
        Ok(Some(SourceBatch { rows, rejected, first_rejected }))
    }

    /// Whether the keys of all rows can be stored, as they nearly always can.
    fn all_usable(&self, columns: &[ArrayRef]) -> bool {
        let lengths = columns[0].as_string::<i32>().value_offsets().windows(2).map(|ends| ends[1] - ends[0]);
        let element_key = self.element_key(columns).map(|(_, column)| column);
        columns[..2].iter().chain(element_key).all(|column| column.null_count() == 0)
            && lengths.into_iter().all(|length| (1..=MAX_ENTITY_BYTES as i32).contains(&length))
    }

    /// The feature that identifies an element, with its column.
    fn element_key<'c>(&self, columns: &'c [ArrayRef]) -> Option<(&'a String, &'c ArrayRef)> {
        let name = self.view.element_key.as_ref()?;
        let feature = self.view.features.iter().position(|feature| &feature.name == name)?;
        Some((name, &columns[2 + feature]))
    }

    /// Which rows have keys that can be stored.
    fn usable(&self, columns: &[ArrayRef], first_row: u64) -> (BooleanArray, u64, Option<(u64, String)>) {
        let entities = columns[0].as_string::<i32>();
        let element_key = self.element_key(columns);
        let fault = |row: usize| -> Option<String> {
            if entities.is_null(row) {
                return Some(format!("{} is null", self.view.entity_key));
            }
            let length = entities.value(row).len();
            if length == 0 || length > MAX_ENTITY_BYTES {
                let key = &self.view.entity_key;
                return Some(format!("{key} has {length} bytes, allowed are 1 to {MAX_ENTITY_BYTES}"));
            }
            if columns[1].is_null(row) {
                return Some(format!("{} is null", self.view.event_time));
            }
            match element_key {
                Some((name, column)) if column.is_null(row) => Some(format!("{name} is null")),
                _ => None,
            }
        };
        let (mut rejected, mut first) = (0, None);
        let usable = (0..entities.len()).map(|row| {
            let fault = fault(row);
            let fine = fault.is_none();
            if let Some(fault) = fault {
                rejected += 1;
                first.get_or_insert((first_row + row as u64, fault));
            }
            Some(fine)
        });
        (usable.collect(), rejected, first)
    }
}

/// The columns of the canonical batch, in its order: the name of each, what it may be called in a file that lacks that name, and what it
/// is for.
fn wanted_columns(view: &ViewConfig) -> impl Iterator<Item = (&str, &[String], Wanted)> {
    let keys: [(_, &[String], _); 2] =
        [(&view.entity_key, &[], Wanted::Entity), (&view.event_time, &[], Wanted::Feature(FeatureType::Timestamp))];
    let features = view.features.iter().map(|f| (&f.name, f.former_names.as_slice(), Wanted::Feature(f.data_type)));
    keys.into_iter().chain(features).map(|(name, former_names, wanted)| (name.as_str(), former_names, wanted))
}
