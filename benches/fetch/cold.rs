//! What a cold fetch costs: 100 random keys of a snapshot that is too large to keep warm, beside DuckDB asked for the same keys of the same
//! rows in Parquet. Both find their files in the kernel's page cache; what a disk would add is counted instead, in reads and in bytes,
//! by the kernel.

use std::fs::File;
use std::path::Path;

use larder_benches::{
    Answer, Batch, Figures, GENERATION, NOW_MS, Outcome, SNAPSHOT_MS, TENANT, account_batch, account_view, median,
    micros, sum, uniform_batches,
};
use larder_store::{GenerationWriter, Placement, Plan, Store, StoreConfig, WriterLimits};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::duckdb::DuckDb;
use crate::store::{config, entities, plan_of};

/// Batches; DuckDB takes long for one.
const MAX_BATCHES: usize = 50;
/// Rows made at a time.
const ROWS_AT_ONCE: usize = 8192;
/// Rows of a row group: of all sizes that were tried, DuckDB finds scattered keys fastest with this one.
const ROW_GROUP_ROWS: usize = 4096;

/// How long a fetch may wait, in milliseconds: for ever, as a late row would only be left out.
const BUDGET_MS: u64 = 60_000;

/// Sets `cold_preads_per_key`, `cold_kib_per_key` and `duckdb_vs_cold`.
pub(crate) fn measure(rows: usize, count: usize, figures: &mut Figures) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(
        &StoreConfig { cold_budget_ms: BUDGET_MS, ..config(folder.path().join("store"), 0, 64) },
        &[account_view()],
    )?;
    let dir = folder.path().join("generation");
    build(&dir, rows)?;
    store.publish(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    let plan = plan_of(&store, &[account_view()])?;
    let batches = uniform_batches(count.min(MAX_BATCHES), rows, super::USERS_PER_BATCH, 3);
    figures.set("cold_rows", rows as f64);

    // Once before, for the page cache and for the counts.
    let before = Reads::so_far()?;
    for batch in &batches {
        fetch(&store, &plan, batch)?;
    }
    let (after, keys) = (Reads::so_far()?, (batches.len() * super::USERS_PER_BATCH) as f64);
    figures.set("cold_preads_per_key", (after.calls - before.calls) as f64 / keys);
    figures.set("cold_kib_per_key", (after.bytes - before.bytes) as f64 / 1024.0 / keys);

    let snapshot = folder.path().join("account.parquet");
    write_snapshot(&snapshot, rows)?;
    let mut duckdb = DuckDb::start(&snapshot)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for batch in &batches {
        ours.push(micros(|| fetch(&store, &plan, batch))?.0);
        if let Some(duckdb) = &mut duckdb {
            let (micros, found) = duckdb.ask(&batch.names)?;
            theirs.push(micros);
            if found != batch.names.len() {
                return Err(format!("DuckDB found {found} of {} keys", batch.names.len()).into());
            }
        }
    }
    let ours = median(&mut ours);
    figures.set("cold_us", ours);
    if duckdb.is_some() {
        let theirs = median(&mut theirs);
        figures.set("duckdb_us", theirs);
        figures.set("duckdb_vs_cold", theirs / ours);
    }
    Ok(())
}

fn fetch(store: &Store, plan: &Plan, batch: &Batch) -> Outcome<f64> {
    let fetched = store.fetch(plan, &entities(&batch.names), NOW_MS)?;
    let stats = fetched.stats;
    if stats.cold_hits != stats.unique_keys {
        return Err(format!("{} of {} keys came from the cold tier", stats.cold_hits, stats.unique_keys).into());
    }
    sum(&Answer::of(fetched))
}

/// A generation of which every row is cold.
fn build(dir: &Path, rows: usize) -> Outcome<()> {
    let view = account_view();
    let all_cold = Placement { cold_before_ms: Some(i64::MAX), ..Placement::default() };
    let limits = WriterLimits::default();
    let mut writer = GenerationWriter::create(dir, &view, TENANT, GENERATION, SNAPSHOT_MS, limits)?.place(all_cold);
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        writer.append(&account_batch(start..rows.min(start + ROWS_AT_ONCE), 0)?)?;
    }
    writer.finish()?;
    Ok(())
}

/// What this process has read so far, as the kernel counts it, page cache included.
struct Reads {
    calls: u64,
    bytes: u64,
}

impl Reads {
    fn so_far() -> Outcome<Reads> {
        let counts = std::fs::read_to_string("/proc/self/io")?;
        let count = |name: &str| -> Outcome<u64> {
            let value =
                counts.lines().find_map(|line| line.strip_prefix(name)).ok_or("/proc/self/io is not as expected")?;
            Ok(value.trim().parse()?)
        };
        Ok(Reads { calls: count("syscr:")?, bytes: count("rchar:")? })
    }
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
