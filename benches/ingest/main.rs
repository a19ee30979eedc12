//! What it costs to bring a snapshot in, beside the least it could cost, and what readers feel of it.
//!
//! LARDER_BENCH_ROWS sets the rows of one snapshot (1,000,000; 100,000 makes a quick run of under a minute), LARDER_BENCH_ROUNDS how often
//! loading is measured (7), LARDER_BENCH_SWAPS the number of swaps (20; 5 of smaller snapshots), LARDER_BENCH_UNSORTED_ROWS the rows of the
//! snapshot that is larger than memory (20,000,000, with 3 GB of disk; 20 times LARDER_BENCH_ROWS where that is given). The result goes to
//! target/bench/ingest.json of the checkout.

mod load;
mod swap;
mod unsorted;

use larder_benches::{Figures, Outcome, setting};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Builds of the unsorted snapshot, on one core and on all.
const UNSORTED_ROUNDS: usize = 3;
/// Rows of a snapshot, unless told otherwise.
const FULL_ROWS: usize = 1_000_000;

fn main() -> Outcome<()> {
    if let Some(outcome) = unsorted::as_child() {
        return outcome;
    }
    let rows = setting("LARDER_BENCH_ROWS", FULL_ROWS)?.max(1000);
    let rounds = setting("LARDER_BENCH_ROUNDS", 7)?.max(1);
    let swaps = setting("LARDER_BENCH_SWAPS", if rows < FULL_ROWS { 5 } else { 20 })?.max(1);
    let mut figures = Figures::new("ingest");
    figures.set("rows", rows as f64);
    load::measure(rows, rounds, &mut figures)?;
    swap::measure(rows, swaps, &mut figures)?;
    let unsorted = setting("LARDER_BENCH_UNSORTED_ROWS", 20 * rows)?.max(1000);
    unsorted::measure(unsorted, UNSORTED_ROUNDS, &mut figures)?;
    figures.write()
}
