//! Finding the rows of a batch: the hot tier first, then one read of the warm tier for all that it does not know.

use std::sync::Arc;

use crate::Error;
use crate::batch::Batch;
use crate::fetched::{FetchStats, Tier};
use crate::hot::{Found, Hot};
use crate::plan::Plan;
use crate::warm::Warm;

/// What was found under each key of a batch, by the key's position.
pub(crate) type FoundRows = Vec<(Found, Tier)>;

/// Looks every key up once. What the warm tier answers, absence included, the hot tier remembers.
pub(crate) fn look_up(
    plan: &Plan,
    batch: &Batch<'_>,
    hot: &Hot,
    warm: &Warm,
    stats: &mut FetchStats,
) -> Result<FoundRows, Error> {
    let mut found = vec![(None, Tier::None); batch.len()];
    let mut misses = Vec::new();
    for position in batch.sorted_positions(plan) {
        match hot.get(batch.key(position)) {
            Some(Some(row)) => {
                stats.hot_hits += 1;
                found[position] = (Some(row), Tier::Hot);
            }
            Some(None) => stats.hot_negatives += 1,
            None => misses.push(position),
        }
    }
    if !misses.is_empty() {
        let values = warm.read(misses.iter().map(|&position| batch.key(position)))?;
        for (&position, value) in misses.iter().zip(values) {
            let value = value.map_err(|error| Error::damaged(warm.path(), error.into_string()))?;
            let row: Found = value.map(|bytes| Arc::from(&*bytes));
            hot.insert(batch.key(position), row.clone());
            if let Some(row) = row {
                stats.warm_hits += 1;
                stats.bytes_read += row.len() as u64;
                found[position] = (Some(row), Tier::Warm);
            }
        }
    }
    stats.unique_keys = batch.len() as u64;
    stats.not_found = stats.unique_keys - stats.hot_hits - stats.warm_hits;
    Ok(found)
}
