//! The hot tier: the rows of the last requests in RAM, snapshot and live changes combined, least recently used out first. Absent keys are
//! held too, so that asking again for an unknown entity costs no read.
//!
//! No entry is ever stale. Its key includes the generation, and a generation's rows never change. What can change is what was written live,
//! and against that stands a clock: a fetch reads it before it reads the database, a write moves it on after its commit and before
//! its acknowledgement, notes the new time on each key's stripe and drops the key's entries. What a fetch wants to insert is dropped
//! when its key's stripe has been written since. Time to live and erasure are not this tier's business; they are checked at every read.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::config::StoreConfig;
use crate::fill::Filler;

/// What the store knows about a key: its value, or that there is none.
pub(crate) type Found = Option<Arc<[u8]>>;

/// Bookkeeping of one entry beside key and row: cache node, reference counts, allocator overhead.
const ENTRY_OVERHEAD_BYTES: usize = 192;

/// Stripes of each shard's keys whose last write is noted. More of them mean fewer inserts dropped for a neighbour's write.
const STRIPES_PER_SHARD: usize = 4096;

/// A row on its way into the hot tier.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The key of the base family, generation included.
    pub(crate) key: Box<[u8]>,
    /// [`key_hash`](crate::key::key_hash) of the same view, tenant and entity.
    pub(crate) hash: u64,
    pub(crate) found: Found,
}

/// Entries read from the database at one time.
#[derive(Debug)]
pub(crate) struct Filling {
    /// The clock before the read.
    pub(crate) read_at: Clock,
    pub(crate) entries: Vec<Entry>,
}

/// A moment in the order of live writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clock(u64);

/// The hot tier: the caches, and the thread that fills them.
pub(crate) struct Hot {
    shards: Arc<Shards>,
    filler: Filler,
}

impl Hot {
    /// Starts an empty hot tier. Fails when its thread cannot be started.
    pub(crate) fn start(config: &StoreConfig, views: usize) -> io::Result<Hot> {
        let shards = Arc::new(Shards::new(config, views));
        let filler = Filler::start(&shards)?;
        Ok(Hot { shards, filler })
    }

    /// The caches themselves, for threads that put rows in when they arrive.
    pub(crate) fn shards(&self) -> Arc<Shards> {
        Arc::clone(&self.shards)
    }

    /// The present time of the tier's clock, to be read before the database is.
    pub(crate) fn clock(&self) -> Clock {
        self.shards.clock()
    }

    /// What is held about `key`; `None` when nothing is.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], hash: u64) -> Option<Found> {
        self.shards.get(key, hash)
    }

    /// False when the hot tier is turned off, so that filling it would be in vain.
    pub(crate) fn is_on(&self) -> bool {
        !self.shards.shards.is_empty()
    }

    /// Hands over what the database answered; it is held some time later, or never when the tier has fallen behind.
    pub(crate) fn fill(&self, filling: Filling) {
        if !filling.entries.is_empty() {
            self.filler.fill(filling);
        }
    }

    /// Inserts at once, on the calling thread: for publishers and importers, who have time.
    pub(crate) fn insert_all(&self, filling: Filling) {
        self.shards.insert_all(filling);
        self.shards.settle();
    }

    /// See [`Shards::note_written`].
    pub(crate) fn note_written(&self, hashes: impl Iterator<Item = u64>) {
        self.shards.note_written(hashes);
    }

    /// Drops an entry.
    pub(crate) fn forget(&self, key: &[u8], hash: u64) {
        self.shards.forget(key, hash);
    }

    /// What stops inserts for a test.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> &crate::never_stale::Gate {
        &self.shards.gate
    }

    /// All keys held that start with `prefix`, in no order.
    pub(crate) fn keys(&self, prefix: &[u8]) -> Vec<Arc<Box<[u8]>>> {
        self.filler.settle();
        let shards = self.shards.shards.iter();
        let keys = shards.flat_map(|shard| shard.cache.iter()).map(|(key, _)| key);
        keys.filter(|key| key.starts_with(prefix)).collect()
    }

    /// Entries and bytes held, bookkeeping included, as of the last maintenance.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.shards.entries(), self.shards.bytes())
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
    clock: AtomicU64,
    /// Bytes held, where the caches count entries and do not know.
    counted: Option<Arc<AtomicU64>>,
    #[cfg(test)]
    gate: crate::never_stale::Gate,
}

struct Shard {
    cache: Cache<Box<[u8]>, Found, RandomState>,
    /// The clock at the last write of each stripe. Held while the cache changes, never while it is read.
    last_writes: Mutex<Box<[u64]>>,
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Box<[u64]>> {
        // Whoever panicked with the lock held left times that are at most too late.
        self.last_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stripe(hash: u64) -> usize {
    (hash >> 32) as usize % STRIPES_PER_SHARD
}

impl Shards {
    /// Empty caches for rows of `views` views.
    pub(crate) fn new(config: &StoreConfig, views: usize) -> Shards {
        let by_requests = config.hot_capacity_requests.map(|requests| requests * views.max(1) as u64);
        let capacity = by_requests.unwrap_or(config.hot_capacity_mib << 20);
        let count = if capacity == 0 { 0 } else { config.hot_shards };
        let counted = by_requests.map(|_| Arc::new(AtomicU64::new(0)));
        let cache = |_| {
            let builder = Cache::<Box<[u8]>, Found>::builder()
                .max_capacity(capacity.div_ceil(count as u64))
                .eviction_policy(EvictionPolicy::lru());
            match counted.clone() {
                None => builder.weigher(|key, found| weight(key, found)),
                Some(bytes) => builder.eviction_listener(move |key, found, _| {
                    bytes.fetch_sub(u64::from(weight(&key, &found)), Ordering::Relaxed);
                }),
            }
            .build_with_hasher(RandomState::default())
        };
        let shard = |number| Shard { cache: cache(number), last_writes: Mutex::new(vec![0; STRIPES_PER_SHARD].into()) };
        Shards {
            shards: (0..count).map(shard).collect(),
            clock: AtomicU64::new(0),
            counted,
            #[cfg(test)]
            gate: Default::default(),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock(self.clock.load(Ordering::Acquire))
    }

    /// What is held about `key`; `None` when nothing is.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], hash: u64) -> Option<Found> {
        self.shard(hash)?.cache.get(key)
    }

    /// Remembers what the database answered, except what has been written since it was asked.
    pub(crate) fn insert_all(&self, filling: Filling) {
        #[cfg(test)]
        self.gate.pass();
        for Entry { key, hash, found } in filling.entries {
            let Some(shard) = self.shard(hash) else { return };
            let last_writes = shard.lock();
            if last_writes[stripe(hash)] <= filling.read_at.0 {
                if let Some(bytes) = &self.counted {
                    bytes.fetch_add(u64::from(weight(&key, &found)), Ordering::Relaxed);
                }
                shard.cache.insert(key, found);
            }
        }
    }

    /// Sees to it that nothing read before the present moment comes in any more under these hashes. To be called after a commit; what came
    /// in before must then be dropped, under every generation that is known *after* this call, with [`forget`](Shards::forget).
    pub(crate) fn note_written(&self, hashes: impl Iterator<Item = u64>) {
        let now = self.clock.fetch_add(1, Ordering::AcqRel) + 1;
        for hash in hashes {
            let Some(shard) = self.shard(hash) else { return };
            let mut last_writes = shard.lock();
            let last = &mut last_writes[stripe(hash)];
            *last = now.max(*last);
        }
    }

    /// Drops an entry.
    pub(crate) fn forget(&self, key: &[u8], hash: u64) {
        if let Some(shard) = self.shard(hash) {
            shard.cache.invalidate(key);
        }
    }

    /// Bytes held, bookkeeping included, as of the last maintenance of each shard.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.counted {
            Some(bytes) => bytes.load(Ordering::Relaxed),
            None => self.shards.iter().map(|shard| shard.cache.weighted_size()).sum(),
        }
    }

    /// Entries held, as of the last maintenance of each shard.
    pub(crate) fn entries(&self) -> u64 {
        self.shards.iter().map(|shard| shard.cache.entry_count()).sum()
    }

    /// Applies what readers and writers have queued, evictions included, so that `bytes` and `entries` are exact.
    pub(crate) fn settle(&self) {
        self.shards.iter().for_each(|shard| shard.cache.run_pending_tasks());
    }

    #[inline]
    fn shard(&self, hash: u64) -> Option<&Shard> {
        match self.shards.len() {
            0 => None,
            count => self.shards.get(hash as u32 as usize % count),
        }
    }
}

fn weight(key: &[u8], found: &Found) -> u32 {
    let row = found.as_ref().map_or(0, |row| row.len());
    u32::try_from(key.len() + row + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

/// The hasher of the caches and the hash of a bare key, for tests that have no view.
#[cfg(test)]
pub(crate) fn test_hash(key: &[u8]) -> u64 {
    crate::key::key_hash(0, crate::TenantId(0), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hot(mib: u64) -> Shards {
        Shards::new(&StoreConfig { hot_capacity_mib: mib, hot_shards: 4, ..StoreConfig::default() }, 1)
    }

    fn insert(hot: &Shards, key: &[u8], row: Option<&[u8]>) {
        insert_read_at(hot, hot.clock(), key, row);
    }

    fn insert_read_at(hot: &Shards, read_at: Clock, key: &[u8], row: Option<&[u8]>) {
        let entry = Entry { key: key.into(), hash: test_hash(key), found: row.map(Arc::from) };
        hot.insert_all(Filling { read_at, entries: vec![entry] });
    }

    fn get(hot: &Shards, key: &[u8]) -> Option<Found> {
        hot.get(key, test_hash(key))
    }

    fn write(hot: &Shards, key: &[u8]) {
        hot.note_written([test_hash(key)].into_iter());
        hot.forget(key, test_hash(key));
    }

    #[test]
    fn rows_and_absences_are_held() {
        let hot = hot(1);
        insert(&hot, b"a", Some(b"row"));
        insert(&hot, b"b", None);
        assert_eq!(get(&hot, b"a").unwrap().as_deref(), Some(b"row".as_slice()));
        assert_eq!(get(&hot, b"b"), Some(None));
        assert_eq!(get(&hot, b"c"), None);
    }

    #[test]
    fn what_was_read_before_a_write_never_comes_in_after_it() {
        let hot = hot(1);
        for known in [Some(b"old".as_slice()), None] {
            let read_at = hot.clock();
            write(&hot, b"a");
            insert_read_at(&hot, read_at, b"a", known);
            assert_eq!(get(&hot, b"a"), None, "read before the write, inserted after it");
            insert_read_at(&hot, hot.clock(), b"a", known);
            assert!(get(&hot, b"a").is_some());
            write(&hot, b"a");
            assert_eq!(get(&hot, b"a"), None, "held when the write came");
        }
        let read_at = hot.clock();
        write(&hot, b"another key");
        insert_read_at(&hot, read_at, b"a", None);
        assert!(get(&hot, b"a").is_some(), "a write of another key is no reason to drop this one");
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_the_last_used() {
        let hot = hot(1);
        for index in 0..20_000u32 {
            insert(&hot, &index.to_be_bytes(), Some(&[0; 100]));
        }
        hot.settle();
        assert!(hot.bytes() <= 1 << 20, "{} bytes", hot.bytes());
        assert!(hot.entries() > 2000, "{} entries", hot.entries());
        assert!(get(&hot, &19_999u32.to_be_bytes()).is_some());
        assert!(get(&hot, &0u32.to_be_bytes()).is_none());
    }

    #[test]
    fn it_can_be_bounded_in_requests() {
        let config = StoreConfig { hot_capacity_requests: Some(100), hot_shards: 4, ..StoreConfig::default() };
        let hot = Shards::new(&config, 2);
        for index in 0..2000u32 {
            insert(&hot, &index.to_be_bytes(), Some(&[0; 100]));
        }
        hot.settle();
        assert_eq!(hot.entries(), 200, "a hundred requests of two views");
        assert_eq!(hot.bytes(), 200 * (4 + 100 + ENTRY_OVERHEAD_BYTES as u64));
    }

    #[test]
    fn capacity_zero_turns_it_off() {
        let hot = hot(0);
        insert(&hot, b"a", None);
        assert_eq!(get(&hot, b"a"), None);
    }
}
