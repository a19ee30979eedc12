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

use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::config::StoreConfig;
use crate::fill::Filler;
use crate::key::GenerationId;

/// Bookkeeping of one entry beside key and row, in the table, in moka and in the allocator; measured.
const ENTRY_OVERHEAD_BYTES: usize = 320;

/// Most rows of a shard of whose use moka has yet to hear.
const MAX_NOTED_USES: usize = 4096;

/// Rows that are put in or taken out while readers of the shard wait: so few that they spin and need not sleep.
const ROWS_AT_ONCE: usize = 4;

/// Stripes of each shard's keys whose last write is noted. More of them mean fewer inserts dropped for a neighbour's write.
const STRIPES_PER_SHARD: usize = 4096;

/// A key, and what the store knows of it: its row, or that there is none.
#[derive(Debug)]
pub(crate) struct HotRow {
    /// [`key_hash`](crate::key::key_hash) of the key's view, tenant and entity.
    key_hash: u64,
    /// What had come into the shard, in KiB, when moka last heard of the row.
    used_at: AtomicU32,
    key_bytes: u32,
    absent: bool,
    /// The key of the base family, generation included, and then the row.
    bytes: Box<[u8]>,
}

impl HotRow {
    pub(crate) fn new(key: &[u8], key_hash: u64, row: Option<&[u8]>) -> Arc<HotRow> {
        let mut bytes = Vec::with_capacity(key.len() + row.map_or(0, <[u8]>::len));
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(row.unwrap_or_default());
        Arc::new(HotRow {
            key_hash,
            used_at: AtomicU32::new(0),
            key_bytes: key.len() as u32,
            absent: row.is_none(),
            bytes: bytes.into_boxed_slice(),
        })
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes as usize]
    }

    /// The row; `None` when the key is known to have none.
    #[inline]
    pub(crate) fn row(&self) -> Option<&[u8]> {
        (!self.absent).then(|| self.bytes_of_row())
    }

    /// The row's bytes, none when there is no row.
    #[inline]
    pub(crate) fn bytes_of_row(&self) -> &[u8] {
        &self.bytes[self.key_bytes as usize..]
    }

    /// Bytes of key and row.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
    }

    fn slot(&self) -> u64 {
        slot(self.key(), self.key_hash)
    }
}

/// A hash of the whole key, generation included.
#[inline]
fn slot(key: &[u8], key_hash: u64) -> u64 {
    let generation = GenerationId::of_key(key).map_or(0, |id| id.generation);
    (key_hash ^ u64::from(generation)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
}

/// Rows read from the database at one time.
#[derive(Debug)]
pub(crate) struct Filling {
    /// The clock before the read.
    pub(crate) read_at: Clock,
    pub(crate) rows: Vec<Arc<HotRow>>,
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

    /// What is held about `key`; `None` when nothing is.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], key_hash: u64) -> Option<Arc<HotRow>> {
        self.shards.get(key, key_hash)
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
    pub(crate) fn forget_all(&self, rows: &[Arc<HotRow>]) {
        self.shards.forget_all(rows);
    }

    /// What stops inserts for a test.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> &crate::never_stale::Gate {
        &self.shards.gate
    }

    /// All entries whose keys start with `prefix`, in no order.
    pub(crate) fn entries(&self, prefix: &[u8]) -> Vec<Arc<HotRow>> {
        self.filler.settle();
        let shards = self.shards.shards.iter();
        let held = |shard: &Shard| -> Vec<_> {
            shard.read().iter().filter(|row| row.key().starts_with(prefix)).cloned().collect()
        };
        shards.flat_map(held).collect()
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

/// Independent parts, chosen by hash.
pub(crate) struct Shards {
    shards: Vec<Shard>,
    clock: AtomicU64,
    #[cfg(test)]
    gate: crate::never_stale::Gate,
}

/// The rows of a shard: what readers look into.
type Table = RwLock<HashTable<Arc<HotRow>>>;

struct Shard {
    table: Arc<Table>,
    /// Knows the same rows by their slots, and drops those that must go.
    policy: Cache<u64, Arc<HotRow>, BuildHasherDefault<SlotHasher>>,
    /// Bytes of the rows in the table.
    bytes: Arc<AtomicU64>,
    /// Rows of whose use moka has yet to hear.
    used: Mutex<Vec<Arc<HotRow>>>,
    /// The capacity is a number of rows, so each of them counts as much as any other.
    counts_entries: bool,
    /// What has come in, counted as the capacity is, and how many KiB more may before moka must hear of a use: a sixteenth of what is held.
    came_in: AtomicU64,
    patience: AtomicU32,
    /// The clock at the last write of each stripe. Held while the table changes, except for what the policy drops.
    last_writes: Mutex<Box<[u64]>>,
}

impl Shard {
    fn new(capacity: u64, counts_entries: bool) -> Shard {
        let (table, bytes) = (Arc::<Table>::default(), Arc::new(AtomicU64::new(0)));
        let policy = {
            let (table, bytes) = (Arc::clone(&table), Arc::clone(&bytes));
            Cache::builder()
                .max_capacity(capacity)
                .eviction_policy(EvictionPolicy::lru())
                .weigher(move |_, row: &Arc<HotRow>| if counts_entries { 1 } else { row.weight() })
                .eviction_listener(move |_, row: Arc<HotRow>, _| {
                    let mut table = write(&table);
                    if let Ok(entry) = table.find_entry(row.slot(), |held| Arc::ptr_eq(held, &row)) {
                        entry.remove();
                        bytes.fetch_sub(u64::from(row.weight()), Ordering::Relaxed);
                    }
                })
                .build_with_hasher(BuildHasherDefault::default())
        };
        Shard {
            table,
            policy,
            bytes,
            counts_entries,
            came_in: AtomicU64::new(0),
            patience: AtomicU32::new(0),
            used: Mutex::default(),
            last_writes: Mutex::new(vec![0; STRIPES_PER_SHARD].into()),
        }
    }

    /// Puts rows in, each in place of an older one of the same key. The policy is told after the table, so that what it drops is always found.
    fn insert(&self, rows: Vec<Arc<HotRow>>) {
        let used = mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        for row in used {
            self.policy.get(&row.slot());
        }
        for part in rows.chunks(ROWS_AT_ONCE) {
            let mut table = write(&self.table);
            for row in part {
                let share = if self.counts_entries { 1024 } else { u64::from(row.weight()) };
                self.came_in.fetch_add(share, Ordering::Relaxed);
                row.used_at.store(self.came_in_kib(), Ordering::Relaxed);
                self.bytes.fetch_add(u64::from(row.weight()), Ordering::Relaxed);
                match table.find_mut(row.slot(), |held| held.key() == row.key()) {
                    Some(held) => {
                        self.bytes.fetch_sub(u64::from(held.weight()), Ordering::Relaxed);
                        *held = Arc::clone(row);
                    }
                    None => {
                        table.insert_unique(row.slot(), Arc::clone(row), |held| held.slot());
                    }
                }
            }
            let held_kib =
                if self.counts_entries { table.len() as u64 } else { self.bytes.load(Ordering::Relaxed) >> 10 };
            self.patience.store((held_kib / 16) as u32, Ordering::Relaxed);
        }
        for row in rows {
            self.policy.insert(row.slot(), row);
        }
    }

    /// Notes that a row was used, for moka to hear of before the next rows come in. Telling it here would make this reader work off what
    /// writers have queued. Never waits: a use that cannot be noted now is noted the next time.
    fn note_used(&self, row: &Arc<HotRow>, came_in_kib: u32) {
        if let Ok(mut used) = self.used.try_lock()
            && used.len() < MAX_NOTED_USES
        {
            used.push(Arc::clone(row));
            row.used_at.store(came_in_kib, Ordering::Relaxed);
        }
    }

    /// What has come in so far. Begins anew when it is 4 TiB; only differences count.
    #[inline]
    fn came_in_kib(&self) -> u32 {
        (self.came_in.load(Ordering::Relaxed) >> 10) as u32
    }

    fn forget(&self, keys: &[(&[u8], u64)]) {
        // Or the row could leave the table between the two steps of an insert, and stay with the policy alone.
        let _no_insert = self.lock();
        let mut forgotten = Vec::with_capacity(keys.len());
        for part in keys.chunks(ROWS_AT_ONCE) {
            let mut table = write(&self.table);
            for (key, slot) in part {
                let entry = table.find_entry(*slot, |held| held.key() == *key);
                forgotten.extend(entry.ok().map(|entry| entry.remove().0));
            }
        }
        for row in forgotten {
            self.bytes.fetch_sub(u64::from(row.weight()), Ordering::Relaxed);
            self.policy.invalidate(&row.slot());
        }
    }

    #[inline]
    fn read(&self) -> RwLockReadGuard<'_, HashTable<Arc<HotRow>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Box<[u64]>> {
        // Whoever panicked with the lock held left times that are at most too late.
        self.last_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(table: &Table) -> RwLockWriteGuard<'_, HashTable<Arc<HotRow>>> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}

fn stripe(key_hash: u64) -> usize {
    (key_hash >> 32) as usize % STRIPES_PER_SHARD
}

/// A slot is a hash already.
#[derive(Debug, Default)]
struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, slot: u64) {
        self.0 = slot;
    }
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
            clock: AtomicU64::new(0),
            #[cfg(test)]
            gate: Default::default(),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock(self.clock.load(Ordering::Acquire))
    }

    /// What is held about `key`; `None` when nothing is.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], key_hash: u64) -> Option<Arc<HotRow>> {
        let shard = self.shard(key_hash)?;
        let slot = slot(key, key_hash);
        let row = Arc::clone(shard.read().find(slot, |held| held.key() == key)?);
        let came_in = shard.came_in_kib();
        let since = came_in.wrapping_sub(row.used_at.load(Ordering::Relaxed));
        if since > shard.patience.load(Ordering::Relaxed) {
            shard.note_used(&row, came_in);
        }
        Some(row)
    }

    /// Remembers what the database answered, except what has been written since it was asked.
    pub(crate) fn insert_all(&self, filling: Filling) {
        #[cfg(test)]
        self.gate.pass();
        for (shard, mut rows) in self.by_shard(filling.rows, |row| row.key_hash) {
            let last_writes = shard.lock();
            rows.retain(|row| last_writes[stripe(row.key_hash)] <= filling.read_at.0);
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
            let mut last_writes = shard.lock();
            let last = &mut last_writes[stripe(hash)];
            *last = now.max(*last);
        }
    }

    /// Drops an entry.
    pub(crate) fn forget(&self, key: &[u8], key_hash: u64) {
        if let Some(shard) = self.shard(key_hash) {
            shard.forget(&[(key, slot(key, key_hash))]);
        }
    }

    /// Drops the entries of many keys.
    pub(crate) fn forget_all(&self, rows: &[Arc<HotRow>]) {
        for (shard, rows) in self.by_shard(rows.iter().collect(), |row| row.key_hash) {
            shard.forget(&rows.iter().map(|row| (row.key(), row.slot())).collect::<Vec<_>>());
        }
    }

    /// Bytes held, bookkeeping included.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Entries held.
    pub(crate) fn entries(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().len() as u64).sum()
    }

    /// Applies what readers and writers have queued, evictions included, so that `bytes` and `entries` are within their bounds.
    pub(crate) fn settle(&self) {
        self.shards.iter().for_each(|shard| shard.policy.run_pending_tasks());
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
        hot.get(key, test_hash(key)).map(|row| row.row().map(<[u8]>::to_vec))
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
