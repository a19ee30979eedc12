//! The rows of one shard: a build for one of several nodes reads the whole snapshot and keeps what is that node's.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use larder_store::Shard;

/// The rows of a canonical batch whose entities belong to the shard.
pub(crate) fn own_rows(rows: RecordBatch, shard: Shard) -> Result<RecordBatch, ArrowError> {
    if shard.is_whole() {
        return Ok(rows);
    }
    let entities = rows.column(0).as_string::<i32>();
    let own: BooleanArray = entities.iter().map(|entity| entity.map(|entity| shard.holds(entity))).collect();
    if own.true_count() == rows.num_rows() { Ok(rows) } else { filter_record_batch(&rows, &own) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, StringArray};
    use std::sync::Arc;

    #[test]
    fn every_row_is_of_one_shard() {
        let names: Vec<String> = (0..100).map(|user| format!("user-{user}")).collect();
        let column: ArrayRef = Arc::new(StringArray::from(names.clone()));
        let rows = RecordBatch::try_from_iter([("entity", column)]).unwrap();
        let mut kept = Vec::new();
        for index in 0..3 {
            let shard: Shard = format!("{index}/3").parse().unwrap();
            let own = own_rows(rows.clone(), shard).unwrap();
            assert!((20..50).contains(&own.num_rows()), "{} of 100 in {shard}", own.num_rows());
            kept.extend(own.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        kept.sort();
        let mut names = names;
        names.sort();
        assert_eq!(kept, names);
        assert_eq!(own_rows(rows.clone(), Shard::default()).unwrap(), rows);
    }
}
