//! Figures that nobody counts by the way: they are asked for when somebody looks, and set as gauges.

use std::time::Instant;

use rocksdb::statistics::Ticker;

use crate::hot::HotUsage;
use crate::metrics;
use crate::store::Store;

/// RocksDB's properties, by the names they have in our metrics. Those of a family are added up over all of them.
const PROPERTIES: [(&str, &str); 10] = [
    ("block_cache_bytes", "rocksdb.block-cache-usage"),
    ("block_cache_pinned_bytes", "rocksdb.block-cache-pinned-usage"),
    ("table_readers_bytes", "rocksdb.estimate-table-readers-mem"),
    ("memtable_bytes", "rocksdb.cur-size-all-mem-tables"),
    ("file_bytes", "rocksdb.live-sst-files-size"),
    ("pending_compaction_bytes", "rocksdb.estimate-pending-compaction-bytes"),
    ("running_compactions", "rocksdb.num-running-compactions"),
    ("running_flushes", "rocksdb.num-running-flushes"),
    ("write_stopped", "rocksdb.is-write-stopped"),
    ("background_errors", "rocksdb.background-errors"),
];

const COUNTS: [(&str, Ticker); 6] = [
    ("block_cache_hits", Ticker::BlockCacheHit),
    ("block_cache_misses", Ticker::BlockCacheMiss),
    ("filter_saved_reads", Ticker::BloomFilterUseful),
    ("stalled_us", Ticker::StallMicros),
    ("compaction_read_bytes", Ticker::CompactReadBytes),
    ("compaction_written_bytes", Ticker::CompactWriteBytes),
];

impl Store {
    /// Brings the gauges up to date: RocksDB's figures and what the tiers hold. Cheap enough for every scrape, too dear for every fetch.
    pub fn observe(&self) {
        let inner = &*self.0;
        for (name, property) in PROPERTIES {
            metrics::set_database_figure(name, inner.warm.property(property) as f64);
        }
        for (name, ticker) in COUNTS {
            metrics::set_database_count(name, inner.warm.count(ticker));
        }
        inner.cold.pool.breaker().observe(Instant::now());
        let HotUsage { entries, bytes, .. } = inner.hot.size();
        let generations = inner.generations.load();
        let cold = generations.all().flat_map(|generation| &generation.cold);
        metrics::set_usage(entries, bytes, cold.map(|part| part.file.resident_bytes()).sum());
    }
}
