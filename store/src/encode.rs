//! From Arrow columns to row bytes, column by column over a few rows at a time: what there is to know about a column is asked once for all of
//! these rows, and they stay in the processor's nearest cache until the last column has been there.

use std::ops::Range;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Float32Type;

use crate::row::push_ordered;
use crate::schema::{ROW_HEADER_BYTES, RowSchema, Slot};
use crate::view::{FeatureType, ViewConfig};

/// Most rows that are encoded together.
const PART_ROWS: usize = 256;
/// Most bytes of them, unless a single row has more.
const PART_BYTES: usize = 32 << 10;

/// The feature columns of a canonical batch, as rows of one schema.
pub(crate) struct RowColumns<'a> {
    schema: &'a RowSchema,
    times_ms: &'a [i64],
    columns: Vec<Column<'a>>,
    /// What all rows have in common: the fingerprint, the bits of the columns without nulls, and zeros.
    template: Vec<u8>,
}

/// Rows of a batch that were encoded together. Used again and again, it allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct EncodedRows {
    /// Which rows of the batch these are.
    rows: Range<usize>,
    bytes: Vec<u8>,
    /// Where each of them starts.
    starts: Vec<usize>,
    /// Where each of them ends, as far as it is written.
    ends: Vec<usize>,
}

/// A row that has no encoding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unencodable {
    /// Its number in the batch.
    pub(crate) row: usize,
    pub(crate) reason: String,
}

impl<'a> RowColumns<'a> {
    /// The columns after entity and event time; the caller has checked that the batch has the view's canonical schema. `times_ms` has the event
    /// time of each row.
    pub(crate) fn new(batch: &'a RecordBatch, schema: &'a RowSchema, times_ms: &'a [i64]) -> RowColumns<'a> {
        let columns = batch.columns().iter().skip(2).zip(&schema.features);
        let columns: Vec<_> = columns.map(|(column, feature)| Column::new(column, feature.data_type)).collect();
        let mut template = schema.fingerprint.to_le_bytes().to_vec();
        template.resize(schema.variable_start, 0);
        for (column, slot) in columns.iter().zip(&schema.slots) {
            if column.nulls().is_none() {
                let (byte, mask) = bit_of(slot);
                template[byte] |= mask;
            }
        }
        RowColumns { schema, times_ms, columns, template }
    }

    /// Encodes rows in place of those that `out` holds, from row `first` on as many as belong together; at least one where there is one. Fails when
    /// a list holds a null, which a row cannot say.
    pub(crate) fn encode(&self, first: usize, out: &mut EncodedRows) -> Result<(), Unencodable> {
        self.lay_out(first, out)?;
        for (index, column) in self.columns.iter().enumerate() {
            let (slot, nulls) = (&self.schema.slots[index], column.nulls());
            match column {
                Column::Bool(a) => out.put(slot, nulls, |row| [u8::from(a.value(row))]),
                Column::I32(a) => out.put(slot, nulls, |row| a.values()[row].to_le_bytes()),
                Column::I64(a) => out.put(slot, nulls, |row| a.values()[row].to_le_bytes()),
                Column::F32(a) => out.put(slot, nulls, |row| a.values()[row].to_le_bytes()),
                Column::F64(a) => out.put(slot, nulls, |row| a.values()[row].to_le_bytes()),
                Column::Timestamp(a) => out.put(slot, nulls, |row| a.values()[row].to_le_bytes()),
                Column::Utf8(a) => {
                    let (offsets, data) = (a.value_offsets(), a.value_data());
                    out.put_variable(self.schema, slot, nulls, |row, to| {
                        let text = &data[offsets[row] as usize..offsets[row + 1] as usize];
                        to[..text.len()].copy_from_slice(text);
                        Ok(text.len())
                    })?;
                }
                Column::ListF32(list, values) => {
                    let offsets = list.value_offsets();
                    out.put_variable(self.schema, slot, nulls, |row, to| {
                        let items = offsets[row] as usize..offsets[row + 1] as usize;
                        if values.null_count() > 0 && items.clone().any(|index| values.is_null(index)) {
                            let name = &self.schema.features[index].name;
                            return Err(format!("{name} holds a null inside a list"));
                        }
                        let items = &values.values()[items];
                        for (item, to) in items.iter().zip(to.chunks_exact_mut(4)) {
                            to.copy_from_slice(&item.to_le_bytes());
                        }
                        Ok(items.len() * 4)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Finds out which rows come together and where each of them lies, and writes what they have in common.
    fn lay_out(&self, first: usize, out: &mut EncodedRows) -> Result<(), Unencodable> {
        let fixed = self.schema.variable_start;
        let rows = first..self.times_ms.len().min(first + PART_ROWS);
        out.ends.clear();
        out.ends.resize(rows.len(), fixed);
        for column in &self.columns {
            column.add_lengths(rows.start, &mut out.ends);
        }
        out.starts.clear();
        let mut end = 0;
        for (row, length) in rows.zip(&out.ends) {
            if u32::try_from(length - fixed).is_err() {
                return Err(Unencodable { row, reason: "the row is larger than 4 GiB".to_string() });
            }
            if end > 0 && end + length > PART_BYTES {
                break;
            }
            out.starts.push(end);
            end += length;
        }
        out.rows = first..first + out.starts.len();
        out.bytes.clear();
        out.bytes.resize(end, 0);
        out.ends.clear();
        for (start, time_ms) in out.starts.iter().zip(&self.times_ms[out.rows.clone()]) {
            let row = &mut out.bytes[*start..start + fixed];
            row.copy_from_slice(&self.template);
            row[ROW_HEADER_BYTES - 8..ROW_HEADER_BYTES].copy_from_slice(&time_ms.to_le_bytes());
            out.ends.push(start + fixed);
        }
        Ok(())
    }
}

impl EncodedRows {
    /// The rows, each with its number in the batch.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let places = self.starts.iter().zip(&self.ends);
        self.rows.clone().zip(places.map(|(start, end)| &self.bytes[*start..*end]))
    }

    /// Begins with the first row of another batch.
    pub(crate) fn restart(&mut self) {
        self.rows = 0..0;
    }

    /// The number of the row that comes after these.
    pub(crate) fn next(&self) -> usize {
        self.rows.end
    }

    /// Writes the values of a feature of fixed length. The template has the bits of those that have no nulls.
    #[inline]
    fn put<const N: usize>(&mut self, slot: &Slot, nulls: Option<&NullBuffer>, value: impl Fn(usize) -> [u8; N]) {
        let (byte, mask) = bit_of(slot);
        for (row, start) in self.rows.clone().zip(&self.starts) {
            if let Some(nulls) = nulls {
                if nulls.is_null(row) {
                    continue;
                }
                self.bytes[start + byte] |= mask;
            }
            self.bytes[start + slot.offset..][..N].copy_from_slice(&value(row));
        }
    }

    /// Writes the values of a feature of any length: `write` puts one where it belongs and returns its length.
    #[inline]
    fn put_variable(
        &mut self,
        schema: &RowSchema,
        slot: &Slot,
        nulls: Option<&NullBuffer>,
        write: impl Fn(usize, &mut [u8]) -> Result<usize, String>,
    ) -> Result<(), Unencodable> {
        let (byte, mask) = bit_of(slot);
        for ((row, start), end) in self.rows.clone().zip(&self.starts).zip(&mut self.ends) {
            if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                *end += write(row, &mut self.bytes[*end..]).map_err(|reason| Unencodable { row, reason })?;
                self.bytes[start + byte] |= mask;
            }
            let length = (*end - start - schema.variable_start) as u32;
            self.bytes[start + slot.offset..][..4].copy_from_slice(&length.to_le_bytes());
        }
        Ok(())
    }
}

/// The byte of a row that holds a feature's validity, and the bit in it.
fn bit_of(slot: &Slot) -> (usize, u8) {
    (ROW_HEADER_BYTES + slot.bit / 8, 1 << (slot.bit % 8))
}

/// One column, known by its type, so that rows are encoded without looking types up again.
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

impl<'a> Column<'a> {
    fn new(column: &'a dyn Array, data_type: FeatureType) -> Column<'a> {
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
    fn nulls(&self) -> Option<&NullBuffer> {
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
    fn add_lengths(&self, first: usize, lengths: &mut [usize]) {
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
    use crate::test_rows::{TYPES, batch, view};
    use crate::view::FeatureConfig;
    use arrow::compute::concat_batches;

    /// A view with features of all types, twice.
    fn wide_view() -> ViewConfig {
        let features = TYPES.iter().chain(&TYPES).enumerate();
        let features = features.map(|(index, of)| FeatureConfig::new(format!("f{index}"), *of)).collect();
        ViewConfig { features, ..view() }
    }

    /// All rows of a batch, one after the other.
    fn encode_all(batch: &RecordBatch, schema: &RowSchema) -> Vec<Vec<u8>> {
        let times = vec![7; batch.num_rows()];
        let columns = RowColumns::new(batch, schema, &times);
        let (mut rows, mut encoded) = (Vec::new(), EncodedRows::default());
        while rows.len() < batch.num_rows() {
            columns.encode(rows.len(), &mut encoded).unwrap();
            for (row, bytes) in encoded.iter() {
                assert_eq!(row, rows.len());
                rows.push(bytes.to_vec());
            }
            assert_eq!(encoded.next(), rows.len());
        }
        rows
    }

    #[test]
    fn a_row_is_the_same_wherever_it_stands_in_its_batch() {
        let view = wide_view();
        let schema = RowSchema::new(&view.features);
        let seeds = |row: u64| (0..16).map(|column| row * 31 + column * 7 % 11).collect::<Vec<_>>();
        let many = batch(&view, &(0..3 * PART_ROWS as u64).map(seeds).collect::<Vec<_>>());
        let rows = encode_all(&many, &schema);
        for row in [0, 1, PART_ROWS - 1, PART_ROWS, 2 * PART_ROWS + 5] {
            assert_eq!(encode_all(&many.slice(row, 1), &schema), [rows[row].clone()], "row {row}");
        }
        assert_eq!(encode_all(&many.slice(100, 500), &schema), rows[100..600]);
        let twice = concat_batches(&many.schema(), [&many.slice(0, 3), &many]).unwrap();
        assert_eq!(encode_all(&twice, &schema)[3..], rows[..]);
    }

    #[test]
    fn a_large_row_comes_alone() {
        let view = ViewConfig { features: vec![FeatureConfig::new("text", FeatureType::Utf8)], ..view() };
        let schema = RowSchema::new(&view.features);
        let text = |length: usize| Some("x".repeat(length));
        let small = batch(&view, &[vec![0], vec![0], vec![0]]);
        let texts = StringArray::from(vec![text(3), text(2 * PART_BYTES), text(4)]);
        let mut columns = small.columns().to_vec();
        columns[2] = std::sync::Arc::new(texts);
        let batch = RecordBatch::try_new(small.schema(), columns).unwrap();
        let columns = RowColumns::new(&batch, &schema, &[1, 2, 3]);
        let mut encoded = EncodedRows::default();
        let mut lengths = Vec::new();
        while lengths.len() < 3 {
            columns.encode(lengths.len(), &mut encoded).unwrap();
            assert_eq!(encoded.iter().count(), 1);
            lengths.extend(encoded.iter().map(|(_, row)| row.len() - schema.variable_start));
        }
        assert_eq!(lengths, [3, 2 * PART_BYTES, 4]);
    }

    #[test]
    fn a_list_with_a_null_inside_is_refused_by_its_row() {
        let view = ViewConfig { features: vec![FeatureConfig::new("list", FeatureType::ListF32)], ..view() };
        let schema = RowSchema::new(&view.features);
        let one = batch(&view, &[vec![4], vec![5]]);
        let list = ListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![Some(1.0)]), Some(vec![None])]);
        let mut columns = one.columns().to_vec();
        columns[2] = std::sync::Arc::new(list);
        let batch = RecordBatch::try_new(one.schema(), columns).unwrap();
        let refused = RowColumns::new(&batch, &schema, &[1, 2]).encode(0, &mut EncodedRows::default());
        assert_eq!(refused, Err(Unencodable { row: 1, reason: "list holds a null inside a list".to_string() }));
    }

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
