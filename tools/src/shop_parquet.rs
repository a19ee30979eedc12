//! The sample shop as the two Parquet files a data platform would drop: profile.parquet and orders.parquet.
//!
//! Zstandard, several row groups, times as UTC milliseconds. The files are streams: users are drawn a chunk at a time, by several CPUs, and written in
//! order, so that memory does not grow with the shop. The rows are not sorted for Larder: orders stand in chunks of users in no order, each
//! chunk by the time its orders were placed, so that ingest has its real work to do. The same shop gives the same bytes, whatever the machine.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, Result, anyhow};
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};

use crate::files::hexadecimal;
use crate::shop::{Customer, Order, Shop, distractor};

/// Users drawn at once.
const USERS_PER_CHUNK: usize = 4_096;
/// The most rows of a row group: of a small shop, and of one with so many rows that the file's own index would grow too long.
const MOST_ROWS_PER_GROUP: usize = 65_536;
const MOST_ROWS_PER_LARGE_GROUP: usize = 262_144;
const LARGE_ROWS: usize = 16_000_000;
const ROW_GROUPS_AT_LEAST: usize = 4;
/// Threads that draw; more would wait for the one that writes. Each may be so many chunks of some 6 MB ahead of it.
const MOST_WORKERS: usize = 8;
const CHUNKS_AHEAD: usize = 2;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Writes profile.parquet, one row per user, by their numbers. `progress` is told the users that are done.
pub(crate) fn write_profiles(shop: &Shop, path: &Path, progress: impl FnMut(u64)) -> Result<Written> {
    let batch = |places: std::ops::Range<usize>| {
        profile_batch(&places.map(|index| shop.customer(index)).collect::<Vec<_>>(), shop.distractors)
    };
    write(path, shop.users, shop.users, batch, progress)
}

/// Writes orders.parquet, one row per order. `progress` is told the users that are done; `expected` rows are about what comes.
pub(crate) fn write_orders(shop: &Shop, path: &Path, expected: usize, progress: impl FnMut(u64)) -> Result<Written> {
    let batch = |places: std::ops::Range<usize>| {
        let mut orders: Vec<Order> = places.flat_map(|place| shop.customer(shop.shuffled(place)).orders).collect();
        orders.sort_by_key(|order| (order.placed_at, order.order_id));
        order_batch(&orders)
    };
    write(path, shop.users, expected, batch, progress)
}

fn write(
    path: &Path,
    users: usize,
    expected_rows: usize,
    to_batch: impl Fn(std::ops::Range<usize>) -> Result<RecordBatch> + Sync,
    mut progress: impl FnMut(u64),
) -> Result<Written> {
    let most = if expected_rows < LARGE_ROWS { MOST_ROWS_PER_GROUP } else { MOST_ROWS_PER_LARGE_GROUP };
    // One more than is wanted, since what is expected may be too much.
    let rows_per_group = expected_rows.div_ceil(ROW_GROUPS_AT_LEAST + 1).clamp(1, most);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(rows_per_group))
        .build();
    let told = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let summed = Summed { file, digest: Sha256::new(), bytes: 0 };
    let mut writer = ArrowWriter::try_new(summed, to_batch(0..0)?.schema(), Some(properties))?;
    let mut rows = 0;
    in_order(users, &to_batch, |batch, done| {
        rows += batch.num_rows() as u64;
        writer.write(&batch).with_context(told)?;
        progress(done as u64);
        Ok(())
    })?;
    let Summed { digest, bytes, .. } = writer.into_inner().with_context(told)?;
    Ok(Written { rows, bytes, sha256: hexadecimal(&digest.finalize()) })
}

/// Makes the batches of all chunks on several CPUs and takes them in their order. Whoever is ahead waits.
fn in_order(
    users: usize,
    make: &(impl Fn(std::ops::Range<usize>) -> Result<RecordBatch> + Sync),
    mut take: impl FnMut(RecordBatch, usize) -> Result<()>,
) -> Result<()> {
    let chunks = users.div_ceil(USERS_PER_CHUNK);
    let range = |chunk: usize| chunk * USERS_PER_CHUNK..users.min((chunk + 1) * USERS_PER_CHUNK);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS).min(chunks.max(1));
    thread::scope(|scope| {
        let mut lanes: Vec<Receiver<Result<RecordBatch>>> = Vec::new();
        for worker in 0..workers {
            let (made, lane) = sync_channel(CHUNKS_AHEAD);
            scope.spawn(move || {
                for chunk in (worker..chunks).step_by(workers) {
                    // Nobody takes any more once writing has failed.
                    if made.send(make(range(chunk))).is_err() {
                        return;
                    }
                }
            });
            lanes.push(lane);
        }
        for chunk in 0..chunks {
            let batch = lanes[chunk % workers].recv().map_err(|_| anyhow!("a thread that draws users has failed"))?;
            take(batch?, range(chunk).end)?;
        }
        Ok(())
    })
}

/// A file, and the checksum of what goes into it.
struct Summed {
    file: File,
    digest: Sha256,
    bytes: u64,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn profile_batch(customers: &[Customer], distractors: usize) -> Result<RecordBatch> {
    let users = || customers.iter().map(|customer| &customer.user);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("user_id", strings(users().map(|user| Some(user.id.as_str()))), false),
        ("updated_at", times(users().map(|user| Some(user.updated_at))), false),
        ("name", strings(users().map(|user| Some(user.name.as_str()))), true),
        ("city", strings(users().map(|user| user.city)), true),
        ("tier", strings(users().map(|user| Some(user.tier))), true),
        ("language", strings(users().map(|user| user.language)), true),
        ("signup_at", times(users().map(|user| Some(user.signup_at))), true),
        ("loyalty_points", Arc::new(Int64Array::from_iter_values(users().map(|user| user.loyalty_points))), true),
        ("store_credit", Arc::new(Float64Array::from_iter_values(users().map(|user| user.store_credit))), true),
        ("is_business", Arc::new(BooleanArray::from_iter(users().map(|user| Some(user.is_business)))), true),
    ];
    let mut columns: Vec<(String, ArrayRef, bool)> =
        columns.into_iter().map(|(name, column, nullable)| (name.to_owned(), column, nullable)).collect();
    for number in 1..=distractors {
        let values = customers.iter().map(|customer| Some(Shop::distractor_value(customer.index(), number)));
        columns.push((distractor(number), strings(values), true));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

fn order_batch(orders: &[Order]) -> Result<RecordBatch> {
    let keys = orders.iter().map(|order| Some(order.user_id()));
    let ids = orders.iter().map(|order| Some(order.order_id.to_string()));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("user_id", Arc::new(StringArray::from_iter(keys)) as ArrayRef, false),
        ("updated_at", times(orders.iter().map(|order| Some(order.updated_at))), false),
        ("order_id", Arc::new(StringArray::from_iter(ids)), false),
        ("item", strings(orders.iter().map(|order| Some(order.item))), true),
        ("quantity", Arc::new(Int32Array::from_iter_values(orders.iter().map(|order| order.quantity))), true),
        ("total", Arc::new(Float64Array::from_iter_values(orders.iter().map(|order| order.total))), true),
        ("status", strings(orders.iter().map(|order| Some(order.status))), true),
        ("payment_status", strings(orders.iter().map(|order| Some(order.payment_status))), true),
        ("return_status", strings(orders.iter().map(|order| Some(order.return_status))), true),
        ("carrier", strings(orders.iter().map(|order| order.carrier)), true),
        ("tracking", strings(orders.iter().map(|order| order.tracking.as_deref())), true),
        ("placed_at", times(orders.iter().map(|order| Some(order.placed_at))), true),
        ("shipped_at", times(orders.iter().map(|order| order.shipped_at)), true),
        ("expected_at", times(orders.iter().map(|order| order.expected_at)), true),
        ("delivered_at", times(orders.iter().map(|order| order.delivered_at)), true),
    ])?)
}

fn strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter(values).with_timezone("UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::sha256_file;
    use crate::shop_locale::ENGLISH;

    const NOW_MS: i64 = 1_790_000_000_000;

    #[test]
    fn every_chunk_is_taken_once_and_in_order() {
        let numbers = |range: std::ops::Range<usize>| -> Result<RecordBatch> {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(range.map(|number| number as i64)));
            Ok(RecordBatch::try_from_iter([("number", numbers)])?)
        };
        let (users, mut taken, mut last) = (9 * USERS_PER_CHUNK + 17, 0, 0);
        let check = |batch: RecordBatch, done: usize| {
            let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone();
            assert_eq!(column.value(0), taken as i64);
            taken += batch.num_rows();
            assert_eq!(taken, done);
            last = done;
            Ok(())
        };
        in_order(users, &numbers, check).unwrap();
        assert_eq!((taken, last), (users, users));
    }

    #[test]
    fn an_error_on_either_side_ends_it() {
        let failing = |range: std::ops::Range<usize>| match range.start {
            0 => Ok(RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1])) as ArrayRef)])?),
            _ => Err(anyhow!("no more users")),
        };
        let error = in_order(99 * USERS_PER_CHUNK, &failing, |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "no more users");
        let error = in_order(99 * USERS_PER_CHUNK, &failing, |_, _| Err(anyhow!("the disk is full"))).unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
    }

    #[test]
    fn what_is_told_of_a_file_is_what_lies_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.parquet");
        let shop = Shop::new(1, 700, NOW_MS, &ENGLISH).unwrap();
        let mut told = Vec::new();
        let written = write_orders(&shop, &path, 3_773, |done| told.push(done)).unwrap();
        assert_eq!(told, [700]);
        assert_eq!(written.rows, (0..700).map(|index| shop.customer(index).orders.len() as u64).sum::<u64>());
        assert_eq!(written.bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(written.sha256, sha256_file(&path).unwrap());
    }
}
