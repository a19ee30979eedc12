//! A column of a batch, known by its type, and what identifies the elements of a history.

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Float32Type;

use crate::row::push_ordered;
use crate::schema::RowSchema;
use crate::view::{FeatureType, ViewConfig};

/// One column, known by its type, so that rows are encoded without looking types up again.
pub(super) enum Column<'a> {
    Bool(&'a BooleanArray),
    I32(&'a Int32Array),
    I64(&'a Int64Array),
    F32(&'a Float32Array),
    F64(&'a Float64Array),
    Utf8(&'a StringArray),
    Timestamp(&'a TimestampMillisecondArray),
    ListF32(&'a ListArray, &'a Float32Array),
}

impl<'a> Column<'a> {
    pub(super) fn new(column: &'a dyn Array, data_type: FeatureType) -> Column<'a> {
        match data_type {
            FeatureType::Bool => Column::Bool(column.as_boolean()),
            FeatureType::I32 => Column::I32(column.as_primitive()),
            FeatureType::I64 => Column::I64(column.as_primitive()),
            FeatureType::F32 => Column::F32(column.as_primitive()),
            FeatureType::F64 => Column::F64(column.as_primitive()),
            FeatureType::Utf8 => Column::Utf8(column.as_string()),
            FeatureType::Timestamp => Column::Timestamp(column.as_primitive()),
            FeatureType::ListF32 => {
                let list = column.as_list::<i32>();
                Column::ListF32(list, list.values().as_primitive::<Float32Type>())
            }
        }
    }

    /// Where the column has no value; nothing when it has one everywhere.
    pub(super) fn nulls(&self) -> Option<&NullBuffer> {
        let nulls = match self {
            Column::Bool(a) => a.nulls(),
            Column::I32(a) => a.nulls(),
            Column::I64(a) => a.nulls(),
            Column::F32(a) => a.nulls(),
            Column::F64(a) => a.nulls(),
            Column::Utf8(a) => a.nulls(),
            Column::Timestamp(a) => a.nulls(),
            Column::ListF32(a, _) => a.nulls(),
        };
        nulls.filter(|nulls| nulls.null_count() > 0)
    }

    /// Adds the bytes that the values take in the variable part of their rows, of rows `first` and following.
    pub(super) fn add_lengths(&self, first: usize, lengths: &mut [usize]) {
        let (offsets, item_bytes) = match self {
            Column::Utf8(a) => (a.value_offsets(), 1),
            Column::ListF32(a, _) => (a.value_offsets(), 4),
            _ => return,
        };
        let nulls = self.nulls();
        for (row, (length, ends)) in lengths.iter_mut().zip(offsets[first..].windows(2)).enumerate() {
            if nulls.is_none_or(|nulls| nulls.is_valid(first + row)) {
                *length += (ends[1] - ends[0]) as usize * item_bytes;
            }
        }
    }
}

/// What identifies the elements of a `last_n` view, row by row.
pub(crate) struct ElementKeys<'a>(Column<'a>);

impl<'a> ElementKeys<'a> {
    /// Of rows that are stored; `None` in a `latest` view. The caller has checked that the batch has the view's canonical schema.
    pub(crate) fn of_rows(batch: &'a RecordBatch, view: &ViewConfig, schema: &RowSchema) -> Option<ElementKeys<'a>> {
        let feature = schema.index_of(view.element_key.as_deref()?)?;
        Some(ElementKeys(Column::new(batch.column(2 + feature), schema.features[feature].data_type)))
    }

    /// Of deletions; `None` in a `latest` view. The caller has checked that the batch has the view's deletion schema.
    pub(crate) fn of_deletions(
        batch: &'a RecordBatch,
        view: &ViewConfig,
        schema: &RowSchema,
    ) -> Option<ElementKeys<'a>> {
        let feature = schema.index_of(view.element_key.as_deref()?)?;
        Some(ElementKeys(Column::new(batch.column(2), schema.features[feature].data_type)))
    }

    /// Appends the key of a row's element, as bytes that compare as the values do; `None` when it is null. An i32 has the bytes of the same i64, so
    /// that an element stays itself when its key is widened.
    pub(crate) fn push(&self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        match &self.0 {
            Column::Utf8(a) if a.is_valid(row) => out.extend_from_slice(a.value(row).as_bytes()),
            Column::I32(a) if a.is_valid(row) => push_ordered(i64::from(a.value(row)), out),
            Column::I64(a) if a.is_valid(row) => push_ordered(a.value(row), out),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_itself_at_any_width_of_its_key() {
        let numbers = [i32::MIN, -1, 0, 1, i32::MAX];
        let narrow = Int32Array::from(numbers.to_vec());
        let wide = Int64Array::from_iter_values(numbers.map(i64::from));
        let (narrow, wide) = (ElementKeys(Column::I32(&narrow)), ElementKeys(Column::I64(&wide)));
        let key = |keys: &ElementKeys<'_>, row| {
            let mut bytes = Vec::new();
            keys.push(row, &mut bytes).unwrap();
            bytes
        };
        for row in 0..numbers.len() {
            assert_eq!(key(&narrow, row), key(&wide, row));
            assert!(row == 0 || key(&narrow, row - 1) < key(&narrow, row), "keys are in another order than numbers");
        }
    }
}
