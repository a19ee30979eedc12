//! What a fetch costs beside the least it could cost, and beside what people use instead.
//!
//! A batch is 100 random users of two views: a profile of 30 features and a history of 20 orders of 5 features; one user in twenty has live
//! rows, newer than the snapshot. A fetch ends when all
//! values, statuses and times are in Arrow arrays and have been summed. Every baseline runs in the same process, in turns with the store,
//! batch by batch, on the same users and with the same allocator, and must produce the same arrays; figures are ratios of medians.
//! What needs a server has it on the other core.
//!
//! LARDER_BENCH_USERS sets the number of users (1,000,000; 20,000 makes a quick run of about a minute), LARDER_BENCH_BATCHES the number of
//! batches (1,000), LARDER_BENCH_COLD_ROWS the rows of the cold snapshot (ten per user). A baseline whose program is missing is named and
//! left out. The result goes to target/bench/fetch.json of the checkout.

mod store;
mod multiget;
mod hashmap;
mod redis;
mod rows;
mod stock;
mod lean;
mod resp;
mod threads;
mod memory;
mod grid;
mod cold;
mod duckdb;

use larder_benches::{Batch, Figures, Outcome, all_cores, only_core, setting, uniform_batches};

use crate::redis::Redis;
use crate::store::Shop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Users in one batch.
const USERS_PER_BATCH: usize = 100;
/// The core of this process while a server runs on the other.
const OUR_CORE: usize = 0;

fn main() -> Outcome<()> {
    if let Some(outcome) = memory::as_child() {
        return outcome;
    }
    let users = setting("LARDER_BENCH_USERS", 1_000_000)?.max(10 * USERS_PER_BATCH);
    let count = setting("LARDER_BENCH_BATCHES", 1000)?;
    let cold_rows = setting("LARDER_BENCH_COLD_ROWS", 10 * users)?;
    let mut figures = Figures::new("fetch");
    figures.set("users", users as f64);
    figures.set("batches", count as f64);

    let shop = Shop::build(users)?;
    let batches = uniform_batches(count, users, USERS_PER_BATCH, 1);
    let mut redis = Redis::start(&shop)?;
    only_core(OUR_CORE)?;
    warm(&shop, &batches, redis.as_mut(), &mut figures)?;
    hot(&shop, &batches, redis.as_mut(), &mut figures)?;
    drop(redis);
    all_cores()?;
    memory::measure(&shop, &mut figures)?;
    drop(shop);
    grid::measure(users, count, &mut figures)?;
    cold::measure(cold_rows, count, &mut figures)?;
    figures.write()
}

/// Everything in the block cache, no hot tier.
fn warm(shop: &Shop, batches: &[Batch], redis: Option<&mut Redis>, figures: &mut Figures) -> Outcome<()> {
    let reader = shop.open_warm()?;
    multiget::measure(shop, &reader, batches, figures)?;
    match redis {
        Some(redis) => redis.measure_hashes(&reader, "warm", batches, figures),
        None => Ok(()),
    }
}

/// Everything in the hot tier.
fn hot(shop: &Shop, batches: &[Batch], redis: Option<&mut Redis>, figures: &mut Figures) -> Outcome<()> {
    let reader = shop.open_hot()?;
    hashmap::measure(shop, &reader, batches, figures)?;
    if let Some(redis) = redis {
        redis.measure_hashes(&reader, "hot", batches, figures)?;
        redis.measure_packed(&reader, batches, figures)?;
    }
    all_cores()?;
    threads::measure(shop, &reader, figures)
}
