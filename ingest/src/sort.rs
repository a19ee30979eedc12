//! Bringing rows into entity order in memory: a whole snapshot where it fits, else one run of it at a time.

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::error::ArrowError;

/// Bytes that sorting needs per row, beside the row itself.
pub(crate) const BYTES_PER_ROW: u64 = size_of::<Position>() as u64;

/// A row's place, with the first bytes of its entity, which decide most comparisons without touching the row.
#[derive(Clone, Copy)]
struct Position {
    start: u64,
    batch: u32,
    row: u32,
}

/// Whether rows come in the order that the writer needs, batch after batch.
#[derive(Default)]
pub(crate) struct Order {
    last: String,
}

impl Order {
    /// True when no entity of `rows` is smaller than the one before it, in this batch or the last.
    pub(crate) fn goes_on(&mut self, rows: &RecordBatch) -> bool {
        let entities = rows.column(0).as_string::<i32>();
        let mut last = self.last.as_str();
        for row in 0..entities.len() {
            let entity = entities.value(row);
            if entity < last {
                return false;
            }
            last = entity;
        }
        self.last = last.to_owned();
        true
    }
}

/// Canonical batches with an order over all their rows: by entity in byte order, rows of one entity as they were read.
pub(crate) struct Sorted {
    batches: Vec<RecordBatch>,
    order: Vec<Position>,
}

impl Sorted {
    pub(crate) fn new(batches: Vec<RecordBatch>) -> Sorted {
        let mut order = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
        for (batch, rows) in batches.iter().enumerate() {
            let entities = rows.column(0).as_string::<i32>();
            order.extend((0..rows.num_rows()).map(|row| Position {
                start: start(entities.value(row)),
                batch: batch as u32,
                row: row as u32,
            }));
        }
        let entities: Vec<_> = batches.iter().map(|rows| rows.column(0).as_string::<i32>()).collect();
        order.sort_unstable_by(|a, b| {
            let entity = |position: &Position| entities[position.batch as usize].value(position.row as usize);
            a.start.cmp(&b.start).then_with(|| entity(a).cmp(entity(b))).then((a.batch, a.row).cmp(&(b.batch, b.row)))
        });
        Sorted { batches, order }
    }

    /// Their number.
    pub(crate) fn rows(&self) -> usize {
        self.order.len()
    }

    /// A part of the rows in order.
    pub(crate) fn batch(&self, rows: Range<usize>) -> Result<RecordBatch, ArrowError> {
        let sources: Vec<_> = self.batches.iter().collect();
        let places: Vec<_> = self.order[rows].iter().map(|p| (p.batch as usize, p.row as usize)).collect();
        interleave_record_batch(&sources, &places)
    }
}

/// The first eight bytes as a number that compares as they do.
pub(crate) fn start(entity: &str) -> u64 {
    let mut bytes = [0; 8];
    let length = entity.len().min(8);
    bytes[..length].copy_from_slice(&entity.as_bytes()[..length]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use std::sync::Arc;

    fn batch(rows: &[(&str, i64)]) -> RecordBatch {
        let entities: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        RecordBatch::try_from_iter([("entity", entities), ("value", values)]).unwrap()
    }

    #[test]
    fn rows_of_all_batches_are_ordered_and_ties_keep_their_order() {
        let sorted = Sorted::new(vec![
            batch(&[("b", 0), ("a\0", 1), ("a", 2), ("long-prefix-2", 3)]),
            batch(&[("a", 4), ("long-prefix-1", 5), ("é", 6), ("long-prefix-2", 7)]),
        ]);
        let mut values = Vec::new();
        assert_eq!(sorted.rows(), 8);
        for rows in [0..3, 3..6, 6..8] {
            let batch = sorted.batch(rows).unwrap();
            values.extend(batch.column(1).as_primitive::<Int64Type>().values().to_vec());
        }
        assert_eq!(values, [2, 4, 1, 0, 5, 3, 7, 6]);
    }

    #[test]
    fn order_is_seen_within_and_across_batches() {
        let in_order = |batches: &[&[(&str, i64)]]| {
            let mut order = Order::default();
            batches.iter().all(|rows| order.goes_on(&batch(rows)))
        };
        assert!(in_order(&[&[("a", 2), ("a", 1), ("ab", 0)], &[], &[("ab", 3), ("b", 0)]]));
        assert!(!in_order(&[&[("a", 0), ("b", 0), ("ab", 0)]]));
        assert!(!in_order(&[&[("a", 0), ("b", 0)], &[("ab", 0)]]));
        assert!(!in_order(&[&[("b", 0)], &[], &[("a", 0)]]));
    }
}
