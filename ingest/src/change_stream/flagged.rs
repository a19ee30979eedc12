//! Columns that hold rows and deletions: a boolean column says which is which. Columns are matched by name and converted as those of a snapshot's
//! files are.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use larder_store::{MAX_AHEAD_MS, MAX_ENTITY_BYTES, MAX_WRITE_BYTES, ViewConfig, WriteKind};

use crate::canonical::Canonical;
use crate::rows::Changes;

/// The changes of a view that a batch holds, in the order of its rows. `now_ms` bounds event times.
pub(crate) fn changes(batch: &RecordBatch, view: &ViewConfig, flag: &str, now_ms: i64) -> Result<Vec<Changes>, String> {
    let flags = flags(batch, flag)?;
    let is_deletion = |row: usize| flags.is_some_and(|flags| flags.is_valid(row) && flags.value(row));
    let mut changes = Vec::new();
    let mut start = 0;
    while start < batch.num_rows() {
        let deletes = is_deletion(start);
        let end = (start..batch.num_rows()).find(|row| is_deletion(*row) != deletes).unwrap_or(batch.num_rows());
        let kind = if deletes { WriteKind::Delete } else { WriteKind::Upsert };
        changes.push(part(&batch.slice(start, end - start), view, kind, now_ms)?);
        start = end;
    }
    Ok(changes)
}

fn flags<'a>(batch: &'a RecordBatch, name: &str) -> Result<Option<&'a BooleanArray>, String> {
    let Some(column) = batch.column_by_name(name) else { return Ok(None) };
    match column.data_type() {
        DataType::Boolean => Ok(Some(column.as_boolean())),
        DataType::Null => Ok(None),
        found => Err(format!("column {name} is {found}; it says which rows are deletions, by booleans")),
    }
}

fn part(rows: &RecordBatch, view: &ViewConfig, kind: WriteKind, now_ms: i64) -> Result<Changes, String> {
    let columns = match kind {
        WriteKind::Upsert => Canonical::of_rows(view, rows.schema_ref()),
        WriteKind::Delete => Canonical::of_deletions(view, rows.schema_ref()),
    };
    let rows = columns.and_then(|columns| columns.convert(rows, MAX_WRITE_BYTES)).map_err(|error| error.to_string())?;
    check(&rows, view, kind, now_ms)?;
    Ok(Changes { view: view.name.clone(), kind, rows })
}

/// What the store would refuse all rows for, because of one of them.
fn check(rows: &RecordBatch, view: &ViewConfig, kind: WriteKind, now_ms: i64) -> Result<(), String> {
    let longest =
        rows.column(0).as_string::<i32>().iter().flatten().find(|key| !(1..=MAX_ENTITY_BYTES).contains(&key.len()));
    if let Some(entity) = longest {
        let (name, length) = (&view.entity_key, entity.len());
        return Err(format!("an entity ({name}) has {length} bytes; 1 to {MAX_ENTITY_BYTES} are allowed"));
    }
    let times = rows.column(1).as_primitive::<arrow::datatypes::TimestampMillisecondType>();
    if let Some(time) = times.values().iter().find(|time| **time > now_ms.saturating_add(MAX_AHEAD_MS)) {
        let name = &view.event_time;
        return Err(format!("the event time ({name}) {time} is more than a day ahead of now, {now_ms}"));
    }
    let element = view.element_key.as_ref().filter(|_| kind == WriteKind::Upsert);
    match element.and_then(|name| rows.column_by_name(name).filter(|column| column.null_count() > 0).map(|_| name)) {
        Some(name) => Err(format!("column {name} is null in a row; it tells the element from others")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampSecondArray};

    use super::*;
    use crate::change_stream::config::tests::orders;

    const NOW_MS: i64 = 1_000_000;

    fn batch(users: &[&str], gone: ArrayRef) -> RecordBatch {
        let texts = |text: &[&str]| Arc::new(StringArray::from(text.to_vec())) as ArrayRef;
        let rows = users.len();
        RecordBatch::try_from_iter_with_nullable([
            ("gone", gone, true),
            ("paid", Arc::new(Float64Array::from(vec![1.5; rows])) as ArrayRef, true),
            ("order_id", texts(&["a", "b", "c"][..rows]), true),
            ("at", Arc::new(TimestampSecondArray::from(vec![7; rows])) as ArrayRef, false),
            ("user", texts(users), false),
        ])
        .unwrap()
    }

    #[test]
    fn rows_and_deletions_come_in_their_order() {
        let gone: ArrayRef = Arc::new(BooleanArray::from(vec![None, Some(true), Some(false)]));
        let changes = changes(&batch(&["ada", "bob", "cleo"], gone), &orders(), "gone", NOW_MS).unwrap();
        let kinds: Vec<_> = changes.iter().map(|part| (part.kind, part.rows.num_rows())).collect();
        assert_eq!(kinds, [(WriteKind::Upsert, 1), (WriteKind::Delete, 1), (WriteKind::Upsert, 1)]);
        assert_eq!(changes[1].rows.schema(), orders().deletion_schema());
        assert_eq!(changes[1].rows.column(0).as_string::<i32>().value(0), "bob");
        let all =
            super::changes(&batch(&["ada"], Arc::new(Int64Array::from(vec![0]))), &orders(), "delete", NOW_MS).unwrap();
        assert_eq!((all.len(), all[0].kind), (1, WriteKind::Upsert), "no column of that name");
    }

    #[test]
    fn what_the_store_would_refuse_is_found_here() {
        let refused = |batch: &RecordBatch, now_ms| changes(batch, &orders(), "gone", now_ms).unwrap_err();
        let plain = |users: &[&str]| batch(users, Arc::new(BooleanArray::from(vec![false; users.len()])));
        assert!(refused(&plain(&["ada", ""]), NOW_MS).contains("entity (user) has 0 bytes"));
        assert!(refused(&plain(&["ada"]), -MAX_AHEAD_MS).contains("the event time (at) 7000 is more than a day ahead"));
        let flag = batch(&["ada"], Arc::new(Int64Array::from(vec![1])));
        assert!(refused(&flag, NOW_MS).contains("column gone is Int64; it says which rows are deletions"));
        let mut columns = plain(&["ada"]).columns().to_vec();
        columns[2] = Arc::new(StringArray::from(vec![None::<&str>]));
        let element = RecordBatch::try_new(plain(&["ada"]).schema(), columns).unwrap();
        assert!(refused(&element, NOW_MS).contains("column order_id is null in a row"));
    }
}
