//! One value of a fetched Arrow column, by row: what the ranking head, the templates and the wire layer read.

use arrow::array::{Array, AsArray, ListArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};

/// A value without a copy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// Unix milliseconds UTC.
    Time(i64),
    Floats(Vec<f32>),
}

/// The value at `row` of a column of one of the store's feature types. Any other type reads as null.
pub(crate) fn cell(column: &dyn Array, row: usize) -> Cell<'_> {
    if column.is_null(row) {
        return Cell::Null;
    }
    match column.data_type() {
        DataType::Boolean => Cell::Bool(column.as_boolean().value(row)),
        DataType::Int32 => Cell::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Cell::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => Cell::Float(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Cell::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Cell::Text(column.as_string::<i32>().value(row)),
        DataType::Timestamp(..) => Cell::Time(column.as_primitive::<TimestampMillisecondType>().value(row)),
        DataType::List(_) => Cell::Floats(floats(column.as_list(), row)),
        _ => Cell::Null,
    }
}

fn floats(lists: &ListArray, row: usize) -> Vec<f32> {
    let list = lists.value(row);
    match list.as_primitive_opt::<Float32Type>() {
        Some(values) => values.values().to_vec(),
        None => Vec::new(),
    }
}

/// The range of a history's elements at `row`, in the list's child array, newest first.
pub(crate) fn elements(history: &ListArray, row: usize) -> std::ops::Range<usize> {
    if history.is_null(row) {
        return 0..0;
    }
    let offsets = history.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}
