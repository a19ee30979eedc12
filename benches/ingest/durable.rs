//! Durable upserts a second: rows that a node has acknowledged, and so synced, over its streams of rows; beside RocksDB by itself that is handed the
//! keys and values of the same rows, one synced write for each, and many in one synced write. In turns, because a disk is not the same all the
//! time, with the time of a sync measured beside them; where the machine was too crowded for a wait to say anything, no ratio is written.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_benches::{Figures, MAX_CROWDING, Outcome, Watch, median};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use crate::desk::Desk;
use crate::load::{Rows, stored_rows};
use crate::writer::{Orders, WARM_UP, Writer};

/// Streams of many writers that send one row at a time, each with as many on their way as the node reads ahead.
pub(crate) const STREAMS: usize = 32;
/// Streams of few consumers that send many rows at a time.
const BATCHING_STREAMS: usize = 4;
const ROWS_PER_BATCH: usize = 100;
/// Rows that are on their way to the node at most, where they come one by one: RocksDB by itself gets as many in one write.
const GROUP: usize = 512;
/// Bytes of a sync that is timed by itself, and how many of them.
const SYNCED_BYTES: usize = 4096;
const SYNCS: usize = 100;
/// How the keys of profiles begin: the view's number.
const PROFILE_KEY: [u8; 2] = [0, 1];

/// Sets `upserts_s_durable` and returns it.
pub(crate) fn measure(desk: &Desk, rounds: usize, duration: Duration, figures: &mut Figures) -> Outcome<f64> {
    let rows: Rows = stored_rows(&desk.store())?.into_iter().filter(|(key, _)| key.starts_with(&PROFILE_KEY)).collect();
    let single = Orders { streams: STREAMS, rows_per_request: 1, rate: 0.0, duration };
    let batched = Orders { streams: BATCHING_STREAMS, rows_per_request: ROWS_PER_BATCH, ..single };
    let folder = desk.folder().join("synced");
    let (mut upserts, mut of_batches, mut cpu_us, mut busy) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    let (mut one_by_one, mut grouped, mut syncs, mut crowded) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..rounds {
        let before = desk.cpu()?;
        let wrote = Writer::start(desk.address(), &single)?.finish()?;
        let used = desk.cpu()?.since(&before, &[""]);
        upserts.push(wrote.rows_s);
        // The writer's warm-up and its end are in the time and not among the rows that it tells: a little too much.
        cpu_us.push(used.as_secs_f64() * 1e6 / (wrote.rows_s * (duration + WARM_UP).as_secs_f64()));
        busy = busy.max(wrote.crowding.ran + wrote.crowding.waited);
        of_batches.push(Writer::start(desk.address(), &batched)?.finish()?.rows_s);
        let watch = Watch::start()?;
        one_by_one.push(synced_rows_s(&folder, &rows, 1, duration)?);
        grouped.push(synced_rows_s(&folder, &rows, GROUP, duration)?);
        syncs.push(sync_ms(&folder)?);
        crowded = crowded.max(watch.crowding()?.waited);
    }
    let (upserts, of_batches) = (median(&mut upserts), median(&mut of_batches));
    let (one_by_one, grouped) = (median(&mut one_by_one), median(&mut grouped));
    figures.set("upserts_s_durable", upserts);
    figures.set("upserts_s_durable_batched", of_batches);
    figures.set("upsert_cpu_us", median(&mut cpu_us));
    figures.set("upserts_writer_busy", busy);
    figures.set("fsync_ms", median(&mut syncs));
    figures.set("rocksdb_synced_rows_s", one_by_one);
    figures.set("rocksdb_group_commit_rows_s", grouped);
    figures.set("synced_crowding", crowded);
    if crowded > MAX_CROWDING {
        eprintln!(
            "  void: RocksDB by itself waited for a processor {:.0} % of the time, at most {:.0} % is a quiet machine; \
             no ratio to it is written",
            100.0 * crowded,
            100.0 * MAX_CROWDING
        );
        return Ok(upserts);
    }
    figures.set("upserts_vs_synced_rows", upserts / one_by_one);
    figures.set("upserts_vs_group_commit", upserts / grouped);
    figures.set("upserts_batched_vs_group_commit", of_batches / grouped);
    Ok(upserts)
}

/// Rows a second of RocksDB with its own defaults, so many in one synced write.
fn synced_rows_s(folder: &Path, rows: &Rows, group: usize, duration: Duration) -> Outcome<f64> {
    let _ = fs::remove_dir_all(folder);
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, folder)?;
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    let (began, mut written) = (Instant::now(), 0);
    let mut rows = rows.iter().cycle();
    while began.elapsed() < duration {
        let mut batch = WriteBatch::default();
        for (key, value) in rows.by_ref().take(group) {
            batch.put(key, value);
        }
        db.write_opt(batch, &synced)?;
        written += group;
    }
    Ok(written as f64 / began.elapsed().as_secs_f64())
}

/// Median milliseconds of a sync of a file that has grown by a page.
fn sync_ms(folder: &Path) -> Outcome<f64> {
    let path = folder.with_extension("sync");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[1; SYNCED_BYTES])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path)?;
    Ok(median(&mut times))
}
