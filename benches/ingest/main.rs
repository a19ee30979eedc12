//! What it costs to bring rows in, snapshots and live ones, beside the least it could cost; how soon they are seen, and what readers feel of it.
//!
//! LARDER_BENCH_ROWS sets the rows of one snapshot (1,000,000; 100,000 makes a quick run of under two minutes), LARDER_BENCH_ROUNDS how often
//! loading is measured (7), LARDER_BENCH_SWAPS the number of swaps (20; 5 of smaller snapshots), LARDER_BENCH_UNSORTED_ROWS the rows of the
//! snapshot that is larger than memory (20,000,000, with 3 GB of disk; 20 times LARDER_BENCH_ROWS where that is given), LARDER_BENCH_SECONDS the
//! length of a run of live rows (5; 1 of smaller snapshots), LARDER_BENCH_RATE the questions a second beside them (50). LARDER_BENCH_ONLY=node leaves
//! out what needs no node. The result goes to target/bench/ingest.json of the checkout.

mod load;
mod swap;
mod unsorted;

mod desk;
mod visible;
mod writer;
mod durable;
mod beside;
mod fresh;

use std::time::Duration;

use larder_benches::{Figures, LOAD_CORE, Outcome, larder, only_core, setting};

use crate::desk::Desk;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Builds of the unsorted snapshot, on one core and on all.
const UNSORTED_ROUNDS: usize = 3;
/// Rows of a snapshot, unless told otherwise.
const FULL_ROWS: usize = 1_000_000;

fn main() -> Outcome<()> {
    if let Some(outcome) = unsorted::as_child().or_else(writer::as_child) {
        return outcome;
    }
    // Better said now than after an hour.
    larder()?;
    let rows = setting("LARDER_BENCH_ROWS", FULL_ROWS)?.max(1000);
    let rounds = setting("LARDER_BENCH_ROUNDS", 7)?.max(1);
    let swaps = setting("LARDER_BENCH_SWAPS", if rows < FULL_ROWS { 5 } else { 20 })?.max(1);
    let mut figures = Figures::new("ingest");
    figures.set("rows", rows as f64);
    if std::env::var_os("LARDER_BENCH_ONLY").is_none_or(|only| only != "node") {
        load::measure(rows, rounds, &mut figures)?;
        swap::measure(rows, swaps, &mut figures)?;
        let unsorted = setting("LARDER_BENCH_UNSORTED_ROWS", 20 * rows)?.max(1000);
        unsorted::measure(unsorted, UNSORTED_ROUNDS, &mut figures)?;
    }
    on_a_node(rows, &mut figures)?;
    figures.write()
}

/// What is measured on a node that serves, which has a core of its own.
fn on_a_node(rows: usize, figures: &mut Figures) -> Outcome<()> {
    let seconds = setting("LARDER_BENCH_SECONDS", if rows < FULL_ROWS { 1 } else { 5 })?.max(1);
    let rounds = if rows < FULL_ROWS { 2 } else { 5 };
    let duration = Duration::from_secs(seconds as u64);
    let questions = setting("LARDER_BENCH_RATE", 50)?.max(1);
    only_core(LOAD_CORE)?;
    let desk = Desk::open()?;
    let upserts = durable::measure(&desk, rounds, duration, figures)?;
    fresh::measure(&desk, upserts / 2.0, rounds, duration, figures)?;
    beside::measure(&desk, [upserts / 2.0, questions as f64], rounds, 2 * duration, figures)?;
    visible::measure(&desk, rows, rounds, figures)
}
