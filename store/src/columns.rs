//! From row bytes to Arrow columns, one column at a time, each value read where it lies in its row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanBuilder, Float32Array, ListArray, PrimitiveArray, PrimitiveBuilder,
    StringArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};

use crate::row::{Damaged, Row};
use crate::view::FeatureType;

/// The column of wanted feature `feature` over `rows`; null where there is no row, or no value in it.
pub(crate) fn column(rows: &[Option<Row<'_>>], feature: usize, data_type: FeatureType) -> Result<ArrayRef, Damaged> {
    Ok(match data_type {
        FeatureType::Bool => {
            let mut builder = BooleanBuilder::with_capacity(rows.len());
            for row in rows {
                builder.append_option(fixed(row, feature).map(|[byte]: [u8; 1]| byte != 0));
            }
            Arc::new(builder.finish())
        }
        FeatureType::I32 => Arc::new(primitive::<Int32Type, 4>(rows, feature, i32::from_le_bytes)),
        FeatureType::I64 => Arc::new(primitive::<Int64Type, 8>(rows, feature, i64::from_le_bytes)),
        FeatureType::F32 => Arc::new(primitive::<Float32Type, 4>(rows, feature, f32::from_le_bytes)),
        FeatureType::F64 => Arc::new(primitive::<Float64Type, 8>(rows, feature, f64::from_le_bytes)),
        FeatureType::Timestamp => {
            let read = i64::from_le_bytes;
            let times = primitive::<TimestampMillisecondType, 8>(rows, feature, read);
            Arc::new(times.with_timezone("UTC"))
        }
        FeatureType::Utf8 => {
            let (values, offsets, nulls) = variable(rows, feature, 1)?;
            let text = StringArray::try_new(offsets, values.into(), nulls);
            Arc::new(text.map_err(|_| Damaged("a text is not UTF-8"))?)
        }
        FeatureType::ListF32 => {
            let (bytes, offsets, nulls) = variable(rows, feature, 4)?;
            let (floats, _) = bytes.as_chunks::<4>();
            let values = Float32Array::from_iter_values(floats.iter().map(|b| f32::from_le_bytes(*b)));
            list(Arc::new(values), DataType::Float32, offsets, nulls)?
        }
    })
}

/// A list column.
pub(crate) fn list(
    values: ArrayRef,
    value_type: DataType,
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, Damaged> {
    let field = Arc::new(Field::new_list_field(value_type, true));
    let list = ListArray::try_new(field, offsets, values, nulls);
    Ok(Arc::new(list.map_err(|_| Damaged("a list has the wrong length"))?))
}

#[inline]
fn fixed<const N: usize>(row: &Option<Row<'_>>, feature: usize) -> Option<[u8; N]> {
    let row = row.as_ref()?;
    row.slot(feature).map(|slot| row.fixed(slot.offset))
}

fn primitive<T: ArrowPrimitiveType, const N: usize>(
    rows: &[Option<Row<'_>>],
    feature: usize,
    read: impl Fn([u8; N]) -> T::Native,
) -> PrimitiveArray<T> {
    let mut builder = PrimitiveBuilder::with_capacity(rows.len());
    for row in rows {
        builder.append_option(fixed(row, feature).map(&read));
    }
    builder.finish()
}

type Variable = (Vec<u8>, OffsetBuffer<i32>, Option<NullBuffer>);

/// The bytes of a text or list column, one value after the other, with offsets counted in units of `width` bytes. Text is checked to be
/// UTF-8 once for the whole column, where the array is made.
fn variable(rows: &[Option<Row<'_>>], feature: usize, width: usize) -> Result<Variable, Damaged> {
    let mut bytes = Vec::with_capacity(rows.len() * 16);
    let mut offsets: Vec<i32> = Vec::with_capacity(rows.len() + 1);
    let mut valid = Vec::with_capacity(rows.len());
    offsets.push(0);
    for row in rows {
        let value = row.as_ref().and_then(|row| row.slot(feature).map(|slot| row.variable(slot)));
        if let Some(value) = value.transpose()? {
            if value.len() % width != 0 {
                return Err(Damaged("a list of floats has a broken length"));
            }
            bytes.extend_from_slice(value);
        }
        valid.push(value.is_some());
        let end = i32::try_from(bytes.len() / width);
        offsets.push(end.map_err(|_| Damaged("a column is larger than 2 GiB"))?);
    }
    // Offsets only grow, so the checks of `new` hold.
    Ok((bytes, OffsetBuffer::new(ScalarBuffer::from(offsets)), nulls(&valid)))
}

/// Validity of a column; nothing when all of it is valid.
pub(crate) fn nulls(valid: &[bool]) -> Option<NullBuffer> {
    let nulls = NullBuffer::from(valid);
    (nulls.null_count() > 0).then_some(nulls)
}
