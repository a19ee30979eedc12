//! How RocksDB keeps the rows of each family.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DataBlockIndexType, Options};

use crate::config::StoreConfig;
use crate::delta;

/// Changes of one key that may pile up in RAM before a write merges them.
const MAX_UNMERGED: usize = 16;

/// Options of the base family, for its SST files and for reading them: small blocks with a hash index inside, a bloom filter, index and
/// filter blocks always in RAM. Without a cache they are for writing only.
pub(crate) fn base_options(cache: Option<&Cache>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(8 << 10);
    table.set_format_version(6);
    table.set_bloom_filter(10.0, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(0.75);
    table.set_cache_index_and_filter_blocks(false);
    if let Some(cache) = cache {
        table.set_block_cache(cache);
    }
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    // Generations are written sorted and dropped whole: there is nothing to compact.
    options.set_disable_auto_compactions(true);
    options
}

/// Options of the live family: changes are merged as they are read and as files are compacted.
pub(super) fn live_options(cache: &Cache, config: &StoreConfig) -> Options {
    let mut options = base_options(Some(cache));
    options.set_disable_auto_compactions(false);
    options.set_merge_operator_associative("larder-live-1", |_, existing, operands| {
        delta::merge(existing.into_iter().chain(operands.iter()))
    });
    options.set_max_successive_merges(MAX_UNMERGED);
    options.set_write_buffer_size((config.live_buffer_mib as usize) << 20);
    // The filter in RAM asks only for keys that are there; those in the memtable are found faster with a filter of its own.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options
}
