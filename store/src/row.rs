//! One row as bytes: schema fingerprint u32, event time i64, null bitmap, fixed part, variable part; numbers little-endian.
//!
//! A row is read in place: a reader looks at the feature it wants and allocates nothing. Bytes come from disk, so each length is
//! checked before it is used, and a row that lies about itself is an error, never a panic.

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::Float32Type;

use crate::schema::{Projection, ROW_HEADER_BYTES, RowSchema, Slot};
use crate::view::FeatureType;

/// What is wrong with a stored row or value; the caller adds which key it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged(pub(crate) &'static str);

/// A stored row seen through the features that a fetch wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    bytes: &'a [u8],
    projection: &'a Projection,
}

impl<'a> Row<'a> {
    /// Takes the row apart as far as its lengths are fixed. Afterwards header, bitmap and fixed part are known to be there.
    pub(crate) fn new(bytes: &'a [u8], projection: &'a Projection) -> Result<Row<'a>, Damaged> {
        let Some(fingerprint) = bytes.first_chunk::<4>() else {
            return Err(Damaged("shorter than a row header"));
        };
        if u32::from_le_bytes(*fingerprint) != projection.fingerprint {
            return Err(Damaged("its schema fingerprint is not its generation's"));
        }
        if bytes.len() < projection.variable_start {
            return Err(Damaged("shorter than its fixed part"));
        }
        Ok(Row { bytes, projection })
    }

    pub(crate) fn event_time_ms(&self) -> i64 {
        i64::from_le_bytes(self.fixed(4))
    }

    /// Where the wanted feature lies, unless it is null or unknown to this row's schema.
    #[inline]
    pub(crate) fn slot(&self, feature: usize) -> Option<&'a Slot> {
        let slot = self.projection.slots[feature].as_ref()?;
        let byte = self.bytes[ROW_HEADER_BYTES + slot.bit / 8];
        (byte >> (slot.bit % 8) & 1 == 1).then_some(slot)
    }

    /// `N` bytes of the fixed part; offsets come from the schema and lie before `variable_start`, which `new` has checked.
    #[inline]
    pub(crate) fn fixed<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut value = [0; N];
        value.copy_from_slice(&self.bytes[offset..offset + N]);
        value
    }

    /// The bytes of a text or list.
    #[inline]
    pub(crate) fn variable(&self, slot: &Slot) -> Result<&'a [u8], Damaged> {
        let base = self.projection.variable_start;
        let end_at = |offset: usize| u32::from_le_bytes(self.fixed(offset)) as usize;
        let start = base + slot.start.map_or(0, end_at);
        let end = base + end_at(slot.offset);
        self.bytes.get(start..end).ok_or(Damaged("a text or list reaches past its end"))
    }
}

/// The feature columns of a canonical batch, each known by its type, so that rows are encoded without looking types up again.
pub(crate) struct RowColumns<'a>(Vec<Column<'a>>);

enum Column<'a> {
    Bool(&'a BooleanArray),
    I32(&'a Int32Array),
    I64(&'a Int64Array),
    F32(&'a Float32Array),
    F64(&'a Float64Array),
    Utf8(&'a StringArray),
    Timestamp(&'a TimestampMillisecondArray),
    ListF32(&'a ListArray, &'a Float32Array),
}

impl<'a> RowColumns<'a> {
    /// The columns after entity and event time; the caller has checked that the batch has the view's canonical schema.
    pub(crate) fn new(batch: &'a RecordBatch, schema: &RowSchema) -> RowColumns<'a> {
        let columns = batch.columns().iter().skip(2);
        RowColumns(
            columns
                .zip(&schema.features)
                .map(|(column, feature)| match feature.data_type {
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
                })
                .collect(),
        )
    }

    /// The value that identifies an element, as bytes that compare as the values do; `None` when it is null.
    pub(crate) fn element_key(&self, feature: usize, row: usize, out: &mut Vec<u8>) -> Option<()> {
        match &self.0[feature] {
            Column::Utf8(a) if a.is_valid(row) => out.extend_from_slice(a.value(row).as_bytes()),
            Column::I32(a) if a.is_valid(row) => {
                out.extend_from_slice(&(a.value(row) ^ i32::MIN).to_be_bytes());
            }
            Column::I64(a) if a.is_valid(row) => {
                out.extend_from_slice(&(a.value(row) ^ i64::MIN).to_be_bytes());
            }
            _ => return None,
        }
        Some(())
    }

    /// Appends row `row` to `out` in the layout of `schema`. Fails when a list holds a null, which a row cannot say.
    pub(crate) fn encode(
        &self,
        schema: &RowSchema,
        event_time_ms: i64,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let start = out.len();
        out.extend_from_slice(&schema.fingerprint.to_le_bytes());
        out.extend_from_slice(&event_time_ms.to_le_bytes());
        out.resize(start + schema.variable_start, 0);
        for ((column, slot), feature) in self.0.iter().zip(&schema.slots).zip(&schema.features) {
            let at = start + slot.offset;
            let valid = match column {
                Column::Bool(a) => put(out, at, a.is_valid(row), || [u8::from(a.value(row))]),
                Column::I32(a) => put(out, at, a.is_valid(row), || a.value(row).to_le_bytes()),
                Column::I64(a) => put(out, at, a.is_valid(row), || a.value(row).to_le_bytes()),
                Column::F32(a) => put(out, at, a.is_valid(row), || a.value(row).to_le_bytes()),
                Column::F64(a) => put(out, at, a.is_valid(row), || a.value(row).to_le_bytes()),
                Column::Timestamp(a) => put(out, at, a.is_valid(row), || a.value(row).to_le_bytes()),
                Column::Utf8(a) => {
                    if a.is_valid(row) {
                        out.extend_from_slice(a.value(row).as_bytes());
                    }
                    put_end(out, start, at, schema)?;
                    a.is_valid(row)
                }
                Column::ListF32(list, values) => {
                    if list.is_valid(row) {
                        let offsets = list.value_offsets();
                        for index in offsets[row] as usize..offsets[row + 1] as usize {
                            if values.is_null(index) {
                                return Err(format!("{} holds a null inside a list", feature.name));
                            }
                            out.extend_from_slice(&values.value(index).to_le_bytes());
                        }
                    }
                    put_end(out, start, at, schema)?;
                    list.is_valid(row)
                }
            };
            out[start + ROW_HEADER_BYTES + slot.bit / 8] |= u8::from(valid) << (slot.bit % 8);
        }
        Ok(())
    }
}

fn put<const N: usize>(out: &mut [u8], at: usize, valid: bool, value: impl Fn() -> [u8; N]) -> bool {
    if valid {
        out[at..at + N].copy_from_slice(&value());
    }
    valid
}

fn put_end(out: &mut [u8], start: usize, at: usize, schema: &RowSchema) -> Result<(), String> {
    let end = u32::try_from(out.len() - start - schema.variable_start)
        .map_err(|_| "the row is larger than 4 GiB".to_string())?;
    out[at..at + 4].copy_from_slice(&end.to_le_bytes());
    Ok(())
}
