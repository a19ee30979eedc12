//! What a cold fetch costs: 100 random keys of a snapshot that is too large to keep warm, from Parquet on disk, beside DuckDB asked for
//! the same keys of the same snapshot.

use std::fs::File;
use std::path::Path;

use larder_benches::{Figures, Outcome, account_batch, account_view, uniform_batches};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::duckdb::DuckDb;

/// Batches; DuckDB takes long for one.
const MAX_BATCHES: usize = 50;
/// Rows made at a time.
const ROWS_AT_ONCE: usize = 8192;
/// Rows of a row group: of all sizes that were tried, DuckDB finds scattered keys fastest with this one.
const ROW_GROUP_ROWS: usize = 4096;

/// Sets `duckdb_vs_cold`, `cold_preads_per_key` and `cold_kib_per_key`.
pub(crate) fn measure(rows: usize, count: usize, figures: &mut Figures) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let snapshot = folder.path().join("account.parquet");
    write_snapshot(&snapshot, rows)?;
    figures.set("cold_rows", rows as f64);
    let Some(mut duckdb) = DuckDb::start(&snapshot)? else {
        return Ok(());
    };
    let batches = uniform_batches(count.min(MAX_BATCHES), rows, super::USERS_PER_BATCH, 3);
    let (mut theirs, mut found) = (Vec::new(), 0);
    for batch in &batches {
        // TO BE DONE when the store has a cold tier: fetch the same batch here, so that both run in turns, its rows built by
        // `larder_ingest::build` from `snapshot` and nothing of them warm or hot; then `duckdb_vs_cold` is the ratio of medians, and
        // `cold_preads_per_key` and `cold_kib_per_key` come from the fetch's statistics.
        let (micros, rows) = duckdb.ask(&batch.names)?;
        theirs.push(micros);
        found += rows;
    }
    if found != batches.iter().map(|batch| batch.names.len()).sum::<usize>() {
        return Err("DuckDB did not find every key".into());
    }
    figures.set("duckdb_us", larder_benches::median(&mut theirs));
    Ok(())
}

/// The typed snapshot, sorted by key.
fn write_snapshot(path: &Path, rows: usize) -> Outcome<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, account_view().arrow_schema(), Some(properties))?;
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        writer.write(&account_batch(start..rows.min(start + ROWS_AT_ONCE), 0)?)?;
    }
    writer.close()?;
    Ok(())
}
