//! Durable upserts a second: rows that a node has acknowledged, and so synced, over its streams of rows; beside RocksDB by itself that is handed the
//! keys and values of the same rows, one synced write for each, and many in one synced write. In turns, because a disk is not the same all the
//! time, with the time of a sync measured beside them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_benches::{Figures, Outcome, median};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use crate::desk::Desk;
use crate::load::{Rows, stored_rows};
use crate::writer::{Orders, Writer};

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
    let mut found: [Vec<f64>; 5] = Default::default();
    for _ in 0..rounds {
        let measured = [
            Writer::start(desk.address(), &single)?.finish()?,
            Writer::start(desk.address(), &batched)?.finish()?,
            synced_rows_s(&folder, &rows, 1, duration)?,
            synced_rows_s(&folder, &rows, GROUP, duration)?,
            sync_ms(&folder)?,
        ];
        found.iter_mut().zip(measured).for_each(|(all, one)| all.push(one));
    }
    let [upserts, batched, one_by_one, grouped, sync] = found.map(|mut all| median(&mut all));
    figures.set("fsync_ms", sync);
    figures.set("upserts_s_durable", upserts);
    figures.set("upserts_s_durable_batched", batched);
    figures.set("rocksdb_synced_rows_s", one_by_one);
    figures.set("rocksdb_group_commit_rows_s", grouped);
    figures.set("upserts_vs_synced_rows", upserts / one_by_one);
    figures.set("upserts_vs_group_commit", upserts / grouped);
    figures.set("upserts_batched_vs_group_commit", batched / grouped);
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
