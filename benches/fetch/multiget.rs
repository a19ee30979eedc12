//! The least a warm fetch could cost: RocksDB's own batched MultiGet of the same keys from the same files, with a block cache as large,
//! and nothing decoded.

use std::hint::black_box;
use std::path::Path;

use larder_benches::{Batch, Figures, GENERATION, Outcome, TENANT, in_turns, name};
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, Options};

use crate::store::{BLOCK_CACHE_MIB, Reader, Shop};

/// Sets `warm_vs_multiget`.
pub(crate) fn measure(shop: &Shop, reader: &Reader, batches: &[Batch], figures: &mut Figures) -> Outcome<()> {
    let db = open(&shop.path())?;
    let base = db.cf_handle("base").ok_or("the store has no base family")?;
    let multiget = |keys: &[Vec<u8>]| -> Outcome<usize> {
        let mut found = 0;
        for value in db.batched_multi_get_cf(base, keys, true) {
            found += usize::from(black_box(value?).is_some_and(|value| !value.is_empty()));
        }
        Ok(found)
    };
    // Every block once through the cache, so that neither side reads from disk.
    for start in (0..shop.users).step_by(super::USERS_PER_BATCH) {
        let names: Vec<_> = (start..shop.users.min(start + super::USERS_PER_BATCH)).map(name).collect();
        multiget(&keys(&names))?;
    }
    let batches: Vec<_> = batches.iter().map(|batch| (batch, keys(&batch.names))).collect();
    let (ours, theirs) = in_turns(
        &batches,
        |(batch, _)| {
            black_box(reader.fetch_and_sum(batch)?);
            Ok(2 * batch.names.len())
        },
        |(_, keys)| multiget(keys),
    )?;
    figures.set("warm_us", ours);
    figures.set("multiget_us", theirs);
    figures.set("warm_vs_multiget", ours / theirs);
    Ok(())
}

/// The keys of both views, sorted: view, tenant, generation, entity, two zero bytes.
fn keys(names: &[String]) -> Vec<Vec<u8>> {
    let mut keys = Vec::with_capacity(2 * names.len());
    for view in [1u16, 2] {
        let prefix = [&view.to_be_bytes()[..], &TENANT.0.to_be_bytes(), &GENERATION.to_be_bytes()].concat();
        keys.extend(names.iter().map(|name| [&prefix[..], name.as_bytes(), &[0, 0]].concat()));
    }
    keys.sort_unstable();
    keys
}

/// The store's own files through a bare read-only handle.
fn open(path: &Path) -> Outcome<DB> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_hyper_clock_cache((BLOCK_CACHE_MIB as usize) << 20, 0));
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    let base = [ColumnFamilyDescriptor::new("base", options.clone())];
    Ok(DB::open_cf_descriptors_read_only(&Options::default(), path, base, false)?)
}
