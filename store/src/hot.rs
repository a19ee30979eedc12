//! The hot tier: the rows of the last requests in RAM, snapshot and live changes combined, least recently used out first. Absent keys are
//! held too, so that asking again for an unknown entity costs no read.
//!
//! Rows are read from a table of our own; moka decides which of them may stay. Asking moka at every hit would cost more than all the rest of
//! a hot fetch, because it records each hit in a channel that all readers share and works the channel off on their time. So it hears of a
//! row's use only when so much has come in since it last did that the row might be pushed out: where nothing comes in, the order of
//! use means nothing.
//!
//! No entry is ever stale. Its key includes the generation, and a generation's rows never change. What can change is what was written live,
//! and against that stands a clock: a fetch reads it before it reads the database, a write moves it on after its commit and before
//! its acknowledgement, notes the new time on each key's stripe and drops the key's entries. What a fetch wants to insert is dropped
//! when its key's stripe has been written since. Time to live and erasure are not this tier's business; they are checked at every read.

mod fill;
pub(crate) mod row;
mod shard;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::StoreConfig;
use crate::hot::fill::Filler;
use crate::hot::row::HotRow;
use crate::hot::shard::{HashedKey, Shard, stripe};

/// Rows read from the database at one time.
#[derive(Debug)]
pub(crate) struct Filling {
    /// The clock before the read.
    pub(crate) read_at: Clock,
    pub(crate) rows: Vec<HotRow>,
}

/// A moment in the order of live writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clock(u64);

/// The hot tier: the shards, and the thread that fills them.
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

    /// The shards themselves, for threads that put rows in when they arrive.
    pub(crate) fn shards(&self) -> Arc<Shards> {
        Arc::clone(&self.shards)
    }

    /// The present time of the tier's clock, to be read before the database is.
    pub(crate) fn clock(&self) -> Clock {
        self.shards.clock()
    }

    /// What is held about each of the keys; `None` where nothing is.
    pub(crate) fn get_all(&self, keys: &[HashedKey<'_>]) -> Vec<Option<HotRow>> {
        self.shards.get_all(keys)
    }

    /// What is held about a key, without counting as a use of it.
    pub(crate) fn peek(&self, key: &[u8], key_hash: u64) -> Option<HotRow> {
        self.shards.shard(key_hash)?.peek(key, key_hash)
    }

    /// False when the hot tier is turned off, so that filling it would be in vain.
    pub(crate) fn is_on(&self) -> bool {
        !self.shards.shards.is_empty()
    }

    /// Hands over what the database answered; it is held some time later, or never when the tier has fallen behind.
    pub(crate) fn fill(&self, filling: Filling) {
        if !filling.rows.is_empty() {
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
    pub(crate) fn forget(&self, key: &[u8], key_hash: u64) {
        self.shards.forget(key, key_hash);
    }

    /// Drops the entries of many keys.
    pub(crate) fn forget_all(&self, rows: &[HotRow]) {
        self.shards.forget_all(rows);
    }

    /// What stops inserts for a test.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> &crate::never_stale::Gate {
        &self.shards.gate
    }

    /// All entries whose keys start with `prefix`, in no order.
    pub(crate) fn entries(&self, prefix: &[u8]) -> Vec<HotRow> {
        self.filler.settle();
        self.shards.shards.iter().flat_map(|shard| shard.entries(prefix)).collect()
    }

    /// What is held after all that was handed over has entered and all that is too much has left.
    pub(crate) fn usage(&self) -> HotUsage {
        self.filler.settle();
        self.shards.settle();
        self.size()
    }

    /// What is held as of the last maintenance.
    pub(crate) fn size(&self) -> HotUsage {
        let (most_entries, most_bytes) = if self.shards.counts_entries {
            (Some(self.shards.capacity), None)
        } else {
            (None, Some(self.shards.capacity))
        };
        HotUsage { entries: self.shards.entries(), bytes: self.shards.bytes(), most_entries, most_bytes }
    }
}

/// What the hot tier holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotUsage {
    /// Rows and known absences.
    pub entries: u64,
    /// Bytes of keys, rows and bookkeeping.
    pub bytes: u64,
    /// How many entries it may hold, where they are counted (`hot_capacity_requests`).
    pub most_entries: Option<u64>,
    /// How many bytes it may hold, where those are (`hot_capacity_mib`).
    pub most_bytes: Option<u64>,
}

impl HotUsage {
    /// How much of what it may hold it holds, 0 to 1; a hot tier that is turned off is full.
    pub fn share(&self) -> f64 {
        let share = |held: u64, most: u64| if most == 0 { 1.0 } else { held as f64 / most as f64 };
        match (self.most_entries, self.most_bytes) {
            (Some(most), _) => share(self.entries, most),
            (None, Some(most)) => share(self.bytes, most),
            (None, None) => 0.0,
        }
    }
}

/// Independent parts, chosen by hash.
pub(crate) struct Shards {
    shards: Vec<Shard>,
    /// Of all shards together: entries, or bytes.
    capacity: u64,
    counts_entries: bool,
    clock: AtomicU64,
    #[cfg(test)]
    gate: crate::never_stale::Gate,
}

impl Shards {
    /// Empty shards for rows of `views` views.
    pub(crate) fn new(config: &StoreConfig, views: usize) -> Shards {
        let by_requests = config.hot_capacity_requests.map(|requests| requests * views.max(1) as u64);
        let capacity = by_requests.unwrap_or(config.hot_capacity_mib << 20);
        let count = if capacity == 0 { 0 } else { config.hot_shards as u64 };
        let shard = |_| Shard::new(capacity.div_ceil(count), by_requests.is_some());
        Shards {
            shards: (0..count).map(shard).collect(),
            capacity,
            counts_entries: by_requests.is_some(),
            clock: AtomicU64::new(0),
            #[cfg(test)]
            gate: Default::default(),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock(self.clock.load(Ordering::Acquire))
    }

    /// What is held about each of the keys; `None` where nothing is.
    pub(crate) fn get_all(&self, keys: &[HashedKey<'_>]) -> Vec<Option<HotRow>> {
        let mut found = vec![None; keys.len()];
        for (shard, wanted) in self.by_shard((0..keys.len() as u32).collect(), |index| keys[*index as usize].1) {
            shard.get_all(keys, &wanted, &mut found);
        }
        found
    }

    /// Remembers what the database answered, except what has been written since it was asked.
    pub(crate) fn insert_all(&self, filling: Filling) {
        #[cfg(test)]
        self.gate.pass();
        for (shard, mut rows) in self.by_shard(filling.rows, HotRow::key_hash) {
            let last_writes = shard.last_writes();
            rows.retain(|row| last_writes[stripe(row.key_hash())] <= filling.read_at.0);
            shard.insert(rows);
        }
    }

    /// Things by the shard of their hash.
    fn by_shard<T>(&self, things: Vec<T>, hash: impl Fn(&T) -> u64) -> impl Iterator<Item = (&Shard, Vec<T>)> {
        let mut parts: Vec<Vec<T>> = self.shards.iter().map(|_| Vec::new()).collect();
        for thing in things {
            let count = parts.len();
            if let Some(part) = parts.get_mut(hash(&thing) as u32 as usize % count.max(1)) {
                part.push(thing);
            }
        }
        self.shards.iter().zip(parts).filter(|(_, part)| !part.is_empty())
    }

    /// Sees to it that nothing read before the present moment comes in any more under these hashes. To be called after a commit; what came
    /// in before must then be dropped, under every generation that is known *after* this call, with [`forget`](Shards::forget).
    pub(crate) fn note_written(&self, hashes: impl Iterator<Item = u64>) {
        let now = self.clock.fetch_add(1, Ordering::AcqRel) + 1;
        for hash in hashes {
            let Some(shard) = self.shard(hash) else { return };
            let mut last_writes = shard.last_writes();
            let last = &mut last_writes[stripe(hash)];
            *last = now.max(*last);
        }
    }

    /// Drops an entry.
    pub(crate) fn forget(&self, key: &[u8], key_hash: u64) {
        if let Some(shard) = self.shard(key_hash) {
            shard.forget(&[(key, key_hash)]);
        }
    }

    /// Drops the entries of many keys.
    pub(crate) fn forget_all(&self, rows: &[HotRow]) {
        for (shard, rows) in self.by_shard(rows.iter().collect(), |row| row.key_hash()) {
            shard.forget(&rows.iter().map(|row| (row.key(), row.key_hash())).collect::<Vec<_>>());
        }
    }

    /// Bytes held, bookkeeping included.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::bytes).sum()
    }

    /// Entries held.
    pub(crate) fn entries(&self) -> u64 {
        self.shards.iter().map(|shard| shard.len() as u64).sum()
    }

    /// Applies what readers and writers have queued, evictions included, so that `bytes` and `entries` are within their bounds.
    pub(crate) fn settle(&self) {
        self.shards.iter().for_each(Shard::settle);
    }

    #[inline]
    fn shard(&self, key_hash: u64) -> Option<&Shard> {
        match self.shards.len() {
            0 => None,
            count => self.shards.get(key_hash as u32 as usize % count),
        }
    }
}

/// The hash of a bare key, for tests that have no view.
#[cfg(test)]
pub(crate) fn test_hash(key: &[u8]) -> u64 {
    crate::key::key_hash(0, crate::TenantId(0), key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hot::row::ENTRY_OVERHEAD_BYTES;

    fn hot(mib: u64) -> Shards {
        Shards::new(&StoreConfig { hot_capacity_mib: mib, hot_shards: 4, ..StoreConfig::default() }, 1)
    }

    fn insert(hot: &Shards, key: &[u8], row: Option<&[u8]>) {
        insert_read_at(hot, hot.clock(), key, row);
    }

    fn insert_read_at(hot: &Shards, read_at: Clock, key: &[u8], row: Option<&[u8]>) {
        hot.insert_all(Filling { read_at, rows: vec![HotRow::new(key, test_hash(key), row)] });
    }

    fn get(hot: &Shards, key: &[u8]) -> Option<Option<Vec<u8>>> {
        hot.get_all(&[(key, test_hash(key))])[0].as_ref().map(|row| row.row().map(<[u8]>::to_vec))
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
        insert(&hot, b"empty", Some(b""));
        assert_eq!(get(&hot, b"a"), Some(Some(b"row".to_vec())));
        assert_eq!(get(&hot, b"b"), Some(None));
        assert_eq!(get(&hot, b"empty"), Some(Some(Vec::new())));
        assert_eq!(get(&hot, b"c"), None);
        insert(&hot, b"a", Some(b"another row"));
        assert_eq!(get(&hot, b"a"), Some(Some(b"another row".to_vec())));
        hot.settle();
        assert_eq!((hot.entries(), get(&hot, b"a").is_some()), (3, true), "what was replaced takes nothing with it");
        let keys_and_rows = 1 + 11 + 1 + 5;
        assert_eq!(hot.bytes(), keys_and_rows + 3 * ENTRY_OVERHEAD_BYTES as u64);
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
        assert_eq!(hot.bytes(), 1 + ENTRY_OVERHEAD_BYTES as u64);
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_the_last_used() {
        let hot = hot(1);
        insert(&hot, b"first", None);
        hot.settle();
        for index in 0..20_000u32 {
            insert(&hot, &index.to_be_bytes(), Some(&[0; 100]));
            // Asked for again and again, and so never the one used least recently.
            assert!(get(&hot, b"first").is_some(), "{index}");
        }
        hot.settle();
        assert!(hot.bytes() <= 1 << 20, "{} bytes", hot.bytes());
        assert!(hot.entries() > 2000, "{} entries", hot.entries());
        assert!(get(&hot, &19_999u32.to_be_bytes()).is_some());
        assert!(get(&hot, &0u32.to_be_bytes()).is_none());
    }

    #[test]
    fn few_large_rows_do_not_push_out_the_last_used_among_many_small_ones() {
        let config = StoreConfig { hot_capacity_mib: 1, hot_shards: 1, ..StoreConfig::default() };
        let hot = Shards::new(&config, 1);
        insert(&hot, b"first", None);
        for index in 0..2000u32 {
            insert(&hot, &index.to_be_bytes(), None);
        }
        hot.settle();
        for index in 2000..2050u32 {
            assert!(get(&hot, b"first").is_some(), "{index}");
            insert(&hot, &index.to_be_bytes(), Some(&[0; 50_000]));
            hot.settle();
        }
        assert!(get(&hot, &0u32.to_be_bytes()).is_none(), "what nobody asked for has gone");
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
