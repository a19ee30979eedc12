//! Two columns of a CSV or Parquet file, row by row: the keys, and the values to rank them by.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Takes a key and a value, either of which may be absent.
type Take<'a> = dyn FnMut(Option<&str>, Option<f64>) -> Result<()> + 'a;

/// Rows of a CSV file whose first line names the columns.
pub(crate) fn csv_rows(path: &Path, column: &str, by: Option<&str>, take: &mut Take<'_>) -> Result<()> {
    let mut reader = csv::Reader::from_path(path)?;
    let header = reader.headers().context("it is no CSV in UTF-8")?.clone();
    let find = |name: &str| {
        let found = header.iter().position(|other| other == name);
        found.ok_or_else(|| no_such_column(name, header.iter()))
    };
    let (key, value) = (find(column)?, by.map(find).transpose()?);
    let mut record = csv::StringRecord::new();
    let mut row = 0;
    while reader.read_record(&mut record)? {
        row += 1;
        let value = value.and_then(|at| record.get(at)).filter(|text| !text.is_empty());
        let number = value.map(|text| {
            let wrong = || anyhow!("row {row}: {text:?} in column {} is no number", by.unwrap_or_default());
            text.trim().parse::<f64>().map_err(|_| wrong())
        });
        take(record.get(key), number.transpose()?)?;
    }
    Ok(())
}

/// Rows of a Parquet file.
pub(crate) fn parquet_rows(path: &Path, column: &str, by: Option<&str>, take: &mut Take<'_>) -> Result<()> {
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).context("it is no readable Parquet file")?;
    let schema = builder.schema().clone();
    let key = find(&schema, column)?;
    let value = by.map(|by| find(&schema, by)).transpose()?;
    let text = schema.field(key).data_type();
    ensure!(is_text(text) || text.is_integer(), "column {column} is {text}; keys are text or integers");
    if let (Some(value), Some(by)) = (value, by) {
        let found = schema.field(value).data_type();
        ensure!(found.is_numeric() || is_time(found), "column {by} is {found}; --by takes numbers and times");
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), [Some(key), value].into_iter().flatten());
    let mut reader = builder.with_projection(mask).build()?;
    loop {
        // Some decoders of the parquet crate panic on lengths that a damaged file makes up.
        let next = catch_unwind(AssertUnwindSafe(|| reader.next()));
        let Some(rows) = next.map_err(|_| anyhow!("it cannot be decoded: it is damaged"))? else { return Ok(()) };
        let rows = rows.context("it is cut short or damaged")?;
        let named = |name: &str| rows.column_by_name(name).context("a column is missing in its row groups");
        let keys = cast(named(column)?, &DataType::Utf8)?;
        let values = by.map(|by| numbers(named(by)?)).transpose()?;
        let keys = keys.as_string::<i32>();
        for row in 0..rows.num_rows() {
            let values = values.as_ref().map(|values| values.as_primitive::<Float64Type>());
            let value = values.filter(|values| values.is_valid(row)).map(|values| values.value(row));
            take(keys.is_valid(row).then(|| keys.value(row)), value)?;
        }
    }
}

fn find(schema: &Schema, name: &str) -> Result<usize> {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    schema.index_of(name).map_err(|_| no_such_column(name, names()))
}

fn no_such_column<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Error {
    anyhow!("it has no column {name:?}; it has {}", names.collect::<Vec<_>>().join(", "))
}

fn is_text(found: &DataType) -> bool {
    match found {
        DataType::Dictionary(_, value) => is_text(value),
        found => matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

fn is_time(found: &DataType) -> bool {
    matches!(found, DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64)
}

/// Numbers as they are, times by their distance from 1970, in whatever unit the column has.
fn numbers(values: &ArrayRef) -> Result<ArrayRef> {
    let whole = match values.data_type() {
        DataType::Date32 => cast(values, &DataType::Int32)?,
        found if is_time(found) => cast(values, &DataType::Int64)?,
        _ => values.clone(),
    };
    Ok(cast(&whole, &DataType::Float64)?)
}
