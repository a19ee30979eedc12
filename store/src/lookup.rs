//! Finding the rows of a batch: the hot tier first, then one read of the warm tier for all that it does not know.

use std::sync::Arc;

use crate::Error;
use crate::batch::Batch;
use crate::fetched::{FetchStats, Tier};
use crate::fill::Filling;
use crate::hot::{Found, Hot};
use crate::plan::Plan;
use crate::warm::Warm;

/// Most row bytes that one fetch may return, repeats included: what a caller's columns could take at worst.
pub const MAX_FETCH_BYTES: usize = 1 << 30;

/// What was found under each key of a batch, by the key's position.
pub(crate) type FoundRows = Vec<(Found, Tier)>;

/// Looks every key up once. What the warm tier answers, absence included, is handed to the hot tier.
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
        let mut filling = Filling::new();
        for (&position, value) in misses.iter().zip(values) {
            let value = value.map_err(|error| Error::damaged(warm.path(), error.into_string()))?;
            let row: Found = value.map(|bytes| Arc::from(&*bytes));
            if hot.is_on() {
                filling.push((batch.key(position).into(), row.clone()));
            }
            if let Some(row) = row {
                stats.warm_hits += 1;
                stats.bytes_read += row.len() as u64;
                found[position] = (Some(row), Tier::Warm);
            }
        }
        hot.fill(filling);
    }
    stats.unique_keys = batch.len() as u64;
    stats.not_found = stats.unique_keys - stats.hot_hits - stats.warm_hits;
    Ok(found)
}

/// Refuses a request whose answer would be larger than [`MAX_FETCH_BYTES`].
pub(crate) fn check_bytes(batch: &Batch<'_>, found: &FoundRows) -> Result<(), Error> {
    let views = found.chunks(batch.unique.max(1));
    let bytes_of = |(row, _): &(Found, Tier)| row.as_ref().map_or(0, |row| row.len());
    let bytes: usize =
        views.flat_map(|view| batch.positions.iter().map(|&position| bytes_of(&view[position as usize]))).sum();
    if bytes > MAX_FETCH_BYTES {
        let entities = batch.positions.len();
        return Err(Error::FixRequest(format!(
            "{entities} entities have {bytes} bytes of rows, one fetch returns at most {MAX_FETCH_BYTES}: ask in parts"
        )));
    }
    Ok(())
}
