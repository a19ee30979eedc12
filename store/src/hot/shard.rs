//! One shard of the hot tier: a table that readers look into, and beside it moka, which decides what may stay.
//!
//! A look-up waits for RAM again and again: for the table, then for the row. Those of a batch do not depend on one another, so they take
//! each of these steps together, and the processor waits for many at a time.

use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::hot::row::{HotRow, generation, slot};

/// Most rows of a shard of whose use moka has yet to hear.
const MAX_NOTED_USES: usize = 4096;

/// Rows that are put in or taken out while readers of the shard wait: so few that they spin and need not sleep.
const ROWS_AT_ONCE: usize = 4;

/// Keys that are looked up together.
const KEYS_AT_ONCE: usize = 32;

/// Stripes of each shard's keys whose last write is noted. More of them mean fewer inserts dropped for a neighbour's write.
const STRIPES_PER_SHARD: usize = 4096;

/// A key with its hash.
pub(crate) type HashedKey<'k> = (&'k [u8], u64);

/// An entry of the table.
struct Held {
    row: HotRow,
    /// What had come into the shard, in KiB, when moka last heard of the row.
    used_at: AtomicU32,
}

/// The rows of a shard: what readers look into.
type Table = RwLock<HashTable<Held>>;

/// An independent part of the hot tier.
pub(crate) struct Shard {
    table: Arc<Table>,
    /// Knows the same rows by their slots, and drops those that must go.
    policy: Cache<u64, HotRow, BuildHasherDefault<SlotHasher>>,
    /// Bytes of the rows in the table.
    bytes: Arc<AtomicU64>,
    /// Slots of the rows of whose use moka has yet to hear.
    used: Mutex<Vec<u64>>,
    /// The capacity is a number of rows, so each of them counts as much as any other.
    counts_entries: bool,
    /// What has come in, counted as the capacity is, and how many KiB more may before moka must hear of a use: a sixteenth of what is held.
    came_in: AtomicU64,
    patience: AtomicU32,
    /// The clock at the last write of each stripe. Held while the table changes, except for what the policy drops.
    last_writes: Mutex<Box<[u64]>>,
}

impl Shard {
    pub(crate) fn new(capacity: u64, counts_entries: bool) -> Shard {
        let (table, bytes) = (Arc::<Table>::default(), Arc::new(AtomicU64::new(0)));
        let policy = {
            let (table, bytes) = (Arc::clone(&table), Arc::clone(&bytes));
            Cache::builder()
                .max_capacity(capacity)
                .eviction_policy(EvictionPolicy::lru())
                .weigher(move |_, row: &HotRow| if counts_entries { 1 } else { row.weight() })
                .eviction_listener(move |_, row: HotRow, _| {
                    let mut table = write(&table);
                    if let Ok(entry) = table.find_entry(row.slot(), |held| held.row.is_same(&row)) {
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

    /// What is held about a key. Unlike a look-up it is no use of the row: what may stay is decided as if nobody had looked.
    pub(crate) fn peek(&self, key: &[u8], key_hash: u64) -> Option<HotRow> {
        let table = self.read();
        table.find(slot(generation(key), key_hash), |held| held.row.key() == key).map(|held| held.row.clone())
    }

    /// Looks up those of `keys` whose numbers are `wanted`, and puts what is held about them in the same places of `found`.
    pub(crate) fn get_all(&self, keys: &[HashedKey<'_>], wanted: &[u32], found: &mut [Option<HotRow>]) {
        for wanted in wanted.chunks(KEYS_AT_ONCE) {
            let table = self.read();
            let mut candidates = [None; KEYS_AT_ONCE];
            for (candidate, index) in candidates.iter_mut().zip(wanted) {
                let (key, hash) = keys[*index as usize];
                let generation = generation(key);
                *candidate = table.find(slot(generation, hash), |held| held.row.may_be(hash, generation));
            }
            let near = candidates.iter().flatten().fold(0, |near, held| near ^ held.row.first_byte());
            std::hint::black_box(near);
            for (candidate, index) in candidates.into_iter().zip(wanted) {
                let (key, hash) = keys[*index as usize];
                let is_it = |held: &Held| held.row.key() == key;
                let held = candidate
                    .filter(|held| is_it(held))
                    // Two keys of one hash: so rare that it may be slow.
                    .or_else(|| candidate.and_then(|_| table.find(slot(generation(key), hash), is_it)));
                if let Some(held) = held {
                    self.hear_of_use(held);
                    found[*index as usize] = Some(held.row.clone());
                }
            }
        }
    }

    /// Puts rows in, each in place of an older one of the same key. The policy is told after the table, so that what it drops is always found.
    pub(crate) fn insert(&self, rows: Vec<HotRow>) {
        let used = mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in used {
            self.policy.get(&slot);
        }
        for part in rows.chunks(ROWS_AT_ONCE) {
            let mut table = write(&self.table);
            for row in part {
                let share = if self.counts_entries { 1024 } else { u64::from(row.weight()) };
                self.came_in.fetch_add(share, Ordering::Relaxed);
                self.bytes.fetch_add(u64::from(row.weight()), Ordering::Relaxed);
                let new = Held { row: row.clone(), used_at: AtomicU32::new(self.came_in_kib()) };
                match table.find_mut(row.slot(), |held| held.row.key() == row.key()) {
                    Some(held) => {
                        self.bytes.fetch_sub(u64::from(held.row.weight()), Ordering::Relaxed);
                        *held = new;
                    }
                    None => {
                        table.insert_unique(row.slot(), new, |held| held.row.slot());
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

    /// Notes that a row was used, if moka must hear of it, for when the next rows come in. Telling it here would make this reader work off what
    /// writers have queued. Never waits: a use that cannot be noted now is noted the next time.
    fn hear_of_use(&self, held: &Held) {
        let came_in = self.came_in_kib();
        let since = came_in.wrapping_sub(held.used_at.load(Ordering::Relaxed));
        if since > self.patience.load(Ordering::Relaxed)
            && let Ok(mut used) = self.used.try_lock()
            && used.len() < MAX_NOTED_USES
        {
            used.push(held.row.slot());
            held.used_at.store(came_in, Ordering::Relaxed);
        }
    }

    /// What has come in so far. Begins anew when it is 4 TiB; only differences count.
    #[inline]
    fn came_in_kib(&self) -> u32 {
        (self.came_in.load(Ordering::Relaxed) >> 10) as u32
    }

    /// Drops the entries of keys.
    pub(crate) fn forget(&self, keys: &[HashedKey<'_>]) {
        // Or the row could leave the table between the two steps of an insert, and stay with the policy alone.
        let _no_insert = self.last_writes();
        let mut forgotten = Vec::with_capacity(keys.len());
        for part in keys.chunks(ROWS_AT_ONCE) {
            let mut table = write(&self.table);
            for (key, hash) in part {
                let entry = table.find_entry(slot(generation(key), *hash), |held| held.row.key() == *key);
                forgotten.extend(entry.ok().map(|entry| entry.remove().0.row));
            }
        }
        for row in forgotten {
            self.bytes.fetch_sub(u64::from(row.weight()), Ordering::Relaxed);
            self.policy.invalidate(&row.slot());
        }
    }

    /// The entries whose keys start with `prefix`, in no order.
    pub(crate) fn entries(&self, prefix: &[u8]) -> Vec<HotRow> {
        let table = self.read();
        table.iter().map(|held| &held.row).filter(|row| row.key().starts_with(prefix)).cloned().collect()
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.read().len()
    }

    /// Bytes of the entries, bookkeeping included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Applies what readers and writers have queued, evictions included.
    pub(crate) fn settle(&self) {
        self.policy.run_pending_tasks();
    }

    /// The clock at the last write of each stripe; nothing comes in or is forgotten while it is held.
    pub(crate) fn last_writes(&self) -> MutexGuard<'_, Box<[u64]>> {
        // Whoever panicked with the lock held left times that are at most too late.
        self.last_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn read(&self) -> RwLockReadGuard<'_, HashTable<Held>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(table: &Table) -> RwLockWriteGuard<'_, HashTable<Held>> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}

/// The stripe of a key.
pub(crate) fn stripe(key_hash: u64) -> usize {
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
