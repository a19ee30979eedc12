//! From a sorted Parquet snapshot to a linked generation, beside RocksDB's own SstFileWriter that is handed the finished keys and values
//! of the same rows. One thread writes in each (the load reads on another), with the same options and files of the same size.

use std::fs::{self, File};
use std::path::Path;

use larder_benches::{Figures, NOW_MS, Outcome, TENANT, account_batch, account_view, median, micros};
use larder_ingest::{BuildRequest, build};
use larder_store::{Store, StoreConfig};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DB, DBCompressionType, DataBlockIndexType, IteratorMode, Options,
    SstFileWriter,
};

/// Rows made at a time.
const ROWS_AT_ONCE: usize = 8192;
/// Bytes at which a file is closed, as the store's writer does by default.
const FILE_BYTES: u64 = 256 << 20;

/// Keys with their values.
pub(crate) type Rows = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Sets `load_vs_sst_writer`, the share of the raw writer's speed that a whole load reaches.
pub(crate) fn measure(rows: usize, rounds: usize, figures: &mut Figures) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let snapshot = folder.path().join("account.parquet");
    write_snapshot(&snapshot, rows)?;
    let (path, cold_path) = (folder.path().join("store"), folder.path().join("cold"));
    let config = StoreConfig { path, cold_path, hot_capacity_mib: 0, ..StoreConfig::default() };
    let store = Store::open(&config, &[account_view()])?;
    let out = folder.path().join("generation");
    let mut generation = 0;
    let mut load = || -> Outcome<()> {
        generation += 1;
        let (view, sources) = (account_view(), vec![snapshot.clone().into()]);
        build(&BuildRequest::new(&view, TENANT, sources, out.clone(), generation, NOW_MS), &mut |_| ())?;
        store.publish(&out)?;
        Ok(())
    };
    load()?;
    fs::remove_dir_all(&out)?;
    let stored = stored_rows(&config.path)?;
    if stored.len() != rows {
        return Err(format!("{} keys are stored of {rows} rows", stored.len()).into());
    }
    let bytes: usize = stored.iter().map(|(key, value)| key.len() + value.len()).sum();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(micros(&mut load)?.0);
        theirs.push(micros(|| write_raw(&raw, &stored))?.0);
        fs::remove_dir_all(&out)?;
        fs::remove_dir_all(&raw)?;
        fs::create_dir(&raw)?;
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    figures.set("stored_bytes_per_row", bytes as f64 / rows as f64);
    figures.set("load_mb_per_s", bytes as f64 / ours);
    figures.set("sst_writer_mb_per_s", bytes as f64 / theirs);
    figures.set("load_vs_sst_writer", theirs / ours);
    Ok(())
}

/// A snapshot as a job would leave it: sorted by key, Snappy, everything else by default.
fn write_snapshot(path: &Path, rows: usize) -> Outcome<()> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, account_view().arrow_schema(), Some(properties))?;
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        writer.write(&account_batch(start..rows.min(start + ROWS_AT_ONCE), 0)?)?;
    }
    writer.close()?;
    Ok(())
}

/// What the store wrote, read back through a bare handle.
pub(crate) fn stored_rows(store: &Path) -> Outcome<Rows> {
    let base = [ColumnFamilyDescriptor::new("base", Options::default())];
    let db = DB::open_cf_descriptors_read_only(&Options::default(), store, base, false)?;
    let base = db.cf_handle("base").ok_or("the store has no base family")?;
    Ok(db.iterator_cf(base, IteratorMode::Start).collect::<Result<_, _>>()?)
}

fn write_raw(folder: &Path, rows: &Rows) -> Outcome<()> {
    let options = options();
    let mut rows = rows.iter().peekable();
    for file in 1.. {
        if rows.peek().is_none() {
            break;
        }
        let mut writer = SstFileWriter::create(&options);
        writer.open(folder.join(format!("{file:06}.sst")))?;
        while writer.file_size() < FILE_BYTES
            && let Some((key, value)) = rows.next()
        {
            writer.put(key, value)?;
        }
        writer.finish()?;
    }
    Ok(())
}

/// The options of the store's base family.
fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(8 << 10);
    table.set_format_version(6);
    table.set_bloom_filter(10.0, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(0.75);
    table.set_cache_index_and_filter_blocks(false);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    options
}
