//! The sample shop as the two Parquet files a data platform would drop: profile.parquet and orders.parquet.
//!
//! Zstandard, several row groups, times as UTC milliseconds. The rows are not sorted for Larder: orders stand in the
//! order they were placed, so that ingest has its real work to do. The same shop gives the same bytes.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::shop::{Order, Shop, User, distractor};

const ROWS_PER_BATCH: usize = 8_192;
const MOST_ROWS_PER_GROUP: usize = 65_536;
const ROW_GROUPS_AT_LEAST: usize = 4;

/// Writes profile.parquet, one row per user. `progress` is told the rows written so far.
pub(crate) fn write_profiles(shop: &Shop, path: &Path, progress: impl FnMut(u64)) -> Result<()> {
    // A user's number is needed for what its distractors say.
    let users: Vec<(usize, &User)> = shop.users.iter().enumerate().collect();
    write(path, &users, |users| profile_batch(users, shop.distractors), progress)
}

/// Writes orders.parquet, one row per order. `progress` is told the rows written so far.
pub(crate) fn write_orders(shop: &Shop, path: &Path, progress: impl FnMut(u64)) -> Result<()> {
    write(path, &shop.orders, |orders| order_batch(&shop.users, orders), progress)
}

fn write<Row>(
    path: &Path,
    rows: &[Row],
    to_batch: impl Fn(&[Row]) -> Result<RecordBatch>,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let rows_per_group = rows.len().div_ceil(ROW_GROUPS_AT_LEAST).clamp(1, MOST_ROWS_PER_GROUP);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(rows_per_group))
        .build();
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut writer = ArrowWriter::try_new(file, to_batch(&[])?.schema(), Some(properties))?;
    for (index, chunk) in rows.chunks(ROWS_PER_BATCH).enumerate() {
        writer.write(&to_batch(chunk)?).with_context(|| format!("cannot write {}", path.display()))?;
        progress((index * ROWS_PER_BATCH + chunk.len()) as u64);
    }
    writer.close().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn profile_batch(numbered: &[(usize, &User)], distractors: usize) -> Result<RecordBatch> {
    let users = || numbered.iter().map(|(_, user)| *user);
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
        let values = numbered.iter().map(|(user, _)| Some(Shop::distractor_value(*user, number)));
        columns.push((distractor(number), strings(values), true));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

fn order_batch(users: &[User], orders: &[Order]) -> Result<RecordBatch> {
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("user_id", strings(orders.iter().map(|order| Some(users[order.user].id.as_str()))), false),
        ("updated_at", times(orders.iter().map(|order| Some(order.updated_at))), false),
        ("order_id", strings(orders.iter().map(|order| Some(order.order_id.as_str()))), false),
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
