//! The hot tier: encoded rows of the last requests in RAM, bounded in bytes, least recently used out first. Absent keys are held too, so
//! that asking again for an unknown entity costs no read.
//!
//! An entry can never be stale: its key includes the generation, generations never change once published, and a generation number is
//! never used twice. Time to live is not this tier's business; it is checked from the row's event time at every read.

use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use foldhash::fast::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::config::StoreConfig;
use crate::fill::{Filler, Filling};

/// What the store knows about a key: its value, or that there is none.
pub(crate) type Found = Option<Arc<[u8]>>;

/// Bookkeeping of one entry beside key and row: cache node, reference counts, allocator overhead.
const ENTRY_OVERHEAD_BYTES: usize = 192;

type Shard = Cache<Box<[u8]>, Found, RandomState>;

/// The hot tier: the caches, and the thread that fills them.
pub(crate) struct Hot {
    shards: Arc<Shards>,
    filler: Filler,
}

impl Hot {
    /// Starts an empty hot tier. Fails when its thread cannot be started.
    pub(crate) fn start(config: &StoreConfig) -> io::Result<Hot> {
        let shards = Arc::new(Shards::new(config));
        let filler = Filler::start(&shards)?;
        Ok(Hot { shards, filler })
    }

    /// What is held about `key`; `None` when nothing is.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Found> {
        self.shards.get(key)
    }

    /// False when the hot tier is turned off, so that filling it would be in vain.
    pub(crate) fn is_on(&self) -> bool {
        !self.shards.shards.is_empty()
    }

    /// Hands over what the warm tier answered; it is held some time later, or never when the tier has fallen behind.
    pub(crate) fn fill(&self, filling: Filling) {
        if !filling.is_empty() {
            self.filler.fill(filling);
        }
    }

    /// Bytes held, bookkeeping included, as of the last maintenance.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.bytes()
    }

    /// What is held after all that was handed over has entered and all that is too much has left.
    pub(crate) fn usage(&self) -> HotUsage {
        self.filler.settle();
        self.shards.settle();
        HotUsage { entries: self.shards.entries(), bytes: self.shards.bytes() }
    }
}

/// What the hot tier holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotUsage {
    /// Rows and known absences.
    pub entries: u64,
    /// Bytes of keys, rows and bookkeeping.
    pub bytes: u64,
}

/// Independent caches, chosen by hash. One cache would make all readers meet at its channel of recorded hits.
pub(crate) struct Shards {
    shards: Vec<Shard>,
    hasher: RandomState,
}

impl Shards {
    pub(crate) fn new(config: &StoreConfig) -> Shards {
        let capacity = config.hot_capacity_mib << 20;
        let count = if capacity == 0 { 0 } else { config.hot_shards };
        let shard = |_| {
            Cache::<Box<[u8]>, Found>::builder()
                .max_capacity(capacity / count as u64)
                .eviction_policy(EvictionPolicy::lru())
                .weigher(|key, found| weight(key, found))
                .build_with_hasher(RandomState::default())
        };
        Shards { shards: (0..count).map(shard).collect(), hasher: RandomState::default() }
    }

    /// What is held about `key`; `None` when nothing is.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Found> {
        self.shard(key)?.get(key)
    }

    /// Remembers what the warm tier answered.
    pub(crate) fn insert(&self, key: Box<[u8]>, found: Found) {
        if let Some(shard) = self.shard(&key) {
            shard.insert(key, found);
        }
    }

    /// Bytes held, bookkeeping included, as of the last maintenance of each shard.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(Cache::weighted_size).sum()
    }

    /// Entries held, counted as [`bytes`](Shards::bytes) is.
    pub(crate) fn entries(&self) -> u64 {
        self.shards.iter().map(Cache::entry_count).sum()
    }

    /// Applies what readers and writers have queued, evictions included, so that `bytes` and `entries` are exact.
    pub(crate) fn settle(&self) {
        self.shards.iter().for_each(Cache::run_pending_tasks);
    }

    fn shard(&self, key: &[u8]) -> Option<&Shard> {
        match self.shards.as_slice() {
            [] => None,
            [only] => Some(only),
            shards => shards.get(self.hasher.hash_one(key) as usize % shards.len()),
        }
    }
}

fn weight(key: &[u8], found: &Found) -> u32 {
    let row = found.as_ref().map_or(0, |row| row.len());
    u32::try_from(key.len() + row + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hot(mib: u64) -> Shards {
        Shards::new(&StoreConfig { hot_capacity_mib: mib, hot_shards: 4, ..StoreConfig::default() })
    }

    #[test]
    fn rows_and_absences_are_held() {
        let hot = hot(1);
        hot.insert(b"a".as_slice().into(), Some(b"row".as_slice().into()));
        hot.insert(b"b".as_slice().into(), None);
        assert_eq!(hot.get(b"a").unwrap().as_deref(), Some(b"row".as_slice()));
        assert_eq!(hot.get(b"b"), Some(None));
        assert_eq!(hot.get(b"c"), None);
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_the_last_used() {
        let hot = hot(1);
        for index in 0..20_000u32 {
            hot.insert(index.to_be_bytes().into(), Some(vec![0; 100].into()));
        }
        hot.settle();
        assert!(hot.bytes() <= 1 << 20, "{} bytes", hot.bytes());
        assert!(hot.entries() > 2000, "{} entries", hot.entries());
        assert!(hot.get(&19_999u32.to_be_bytes()).is_some());
        assert!(hot.get(&0u32.to_be_bytes()).is_none());
    }

    #[test]
    fn capacity_zero_turns_it_off() {
        let hot = hot(0);
        hot.insert(b"a".as_slice().into(), None);
        assert_eq!(hot.get(b"a"), None);
    }
}
