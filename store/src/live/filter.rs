//! Which entities have live rows, in a few megabytes of RAM: most have none, and a fetch need not ask RocksDB to learn that.
//!
//! A Bloom filter of three bits within one 64-bit word, so that a question costs one cache line. It never says "no" of a key that was
//! written; with 16 bits per key it says "maybe" of one in a hundred others. Nothing is ever taken out: pruning builds a new one.

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of key hashes that may hold more than was put in.
#[derive(Debug)]
pub(crate) struct LiveFilter {
    words: Box<[AtomicU64]>,
}

impl LiveFilter {
    /// An empty filter of `mib` MiB.
    pub(crate) fn new(mib: u64) -> LiveFilter {
        LiveFilter { words: (0..(mib << 20) / 8).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Its size in MiB.
    pub(crate) fn mib(&self) -> u64 {
        (self.words.len() as u64 * 8) >> 20
    }

    /// Puts a key in. Whoever sees the key's row afterwards also sees it here.
    pub(crate) fn insert(&self, hash: u64) {
        let (word, bits) = self.place(hash);
        word.fetch_or(bits, Ordering::AcqRel);
    }

    /// False only when the key was never put in.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        let (word, bits) = self.place(hash);
        word.load(Ordering::Acquire) & bits == bits
    }

    #[inline]
    fn place(&self, hash: u64) -> (&AtomicU64, u64) {
        // The upper half chooses the word, eighteen bits of the lower half the bits.
        let word = ((hash >> 32) * self.words.len() as u64) >> 32;
        let bits = 1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 12 & 63);
        (&self.words[word as usize], bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TenantId;
    use crate::key::key_hash;

    #[test]
    fn what_was_put_in_is_found_and_little_else() {
        let filter = LiveFilter::new(1);
        let hash = |index: u32| key_hash(1, TenantId(1), format!("user_{index:08}").as_bytes());
        // 16 bits per key.
        let keys = (1 << 20) * 8 / 16;
        (0..keys).for_each(|index| filter.insert(hash(index)));
        assert!((0..keys).all(|index| filter.may_contain(hash(index))));
        let wrong = (keys..2 * keys).filter(|index| filter.may_contain(hash(*index))).count();
        assert!(wrong < keys as usize / 40, "{wrong} of {keys} absent keys");
        assert!((0..1000).all(|index| !LiveFilter::new(1).may_contain(hash(index))));
    }
}
