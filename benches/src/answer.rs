//! What both sides of a comparison must produce: Arrow columns with a status and a time per row. Both then sum all of it, so that no value
//! is left untouched, and the sums must agree, so that no side does less than the other.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{
    ArrowNativeType, DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType,
};
use larder_store::{Fetched, Status};

use crate::Outcome;

/// The columns of one view, aligned with a batch of users.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// One column per feature.
    pub columns: Vec<ArrayRef>,
    /// One status per user.
    pub status: Vec<Status>,
    /// One event time per user, Unix milliseconds.
    pub event_time_ms: Vec<i64>,
}

impl Answer {
    /// The views of a fetch.
    pub fn of(fetched: Fetched) -> Vec<Answer> {
        let views = fetched.views.into_iter();
        views
            .map(|view| Answer { columns: view.columns, status: view.status, event_time_ms: view.event_time_ms })
            .collect()
    }
}

/// Touches every value: the sum of all numbers, times, lengths of texts and lists, and of the rows that are present.
///
/// # Errors
/// A column of a type that no benchmark uses.
pub fn sum(answers: &[Answer]) -> Outcome<f64> {
    let mut sum = 0.0;
    for answer in answers {
        for column in &answer.columns {
            sum += sum_column(column)?;
        }
        sum += answer.status.iter().filter(|status| **status == Status::Present).count() as f64;
        sum += answer.event_time_ms.iter().sum::<i64>() as f64;
    }
    Ok(sum)
}

fn sum_column(column: &ArrayRef) -> Outcome<f64> {
    Ok(match column.data_type() {
        DataType::Int32 => sum_numbers::<Int32Type>(column, f64::from),
        DataType::Int64 => sum_numbers::<Int64Type>(column, |value| value as f64),
        DataType::Float32 => sum_numbers::<Float32Type>(column, f64::from),
        DataType::Float64 => sum_numbers::<Float64Type>(column, |value| value),
        DataType::Timestamp(..) => sum_numbers::<TimestampMillisecondType>(column, |value| value as f64),
        DataType::Boolean => column.as_boolean().true_count() as f64,
        DataType::Utf8 => {
            let text = column.as_string::<i32>();
            sum_lengths(text.value_offsets()) - text.null_count() as f64
        }
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            sum_lengths(list.value_offsets()) + sum_column(list.values())?
        }
        other => return Err(format!("a column of {other}").into()),
    })
}

fn sum_numbers<T: ArrowPrimitiveType>(column: &ArrayRef, number: impl Fn(T::Native) -> f64) -> f64
where
    T::Native: ArrowNativeType,
{
    let array = column.as_primitive::<T>();
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => array.values().iter().map(|value| number(*value)).sum(),
        Some(nulls) => nulls.valid_indices().map(|index| number(array.value(index))).sum(),
    }
}

fn sum_lengths(offsets: &[i32]) -> f64 {
    f64::from(offsets.windows(2).map(|ends| ends[1] - ends[0]).sum::<i32>())
}
