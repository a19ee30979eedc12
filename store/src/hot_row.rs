//! An entry of the hot tier: a key, and what the store knows of it.

use std::sync::Arc;

use crate::key::GenerationId;

/// Bookkeeping of one entry beside key and row, in the table, in moka and in the allocator; measured.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 320;

/// A key with its row, or with the knowledge that it has none. A clone is one more handle to the same bytes.
#[derive(Debug, Clone)]
pub(crate) struct HotRow {
    /// The key of the base family, generation included, and then the row: in one piece with their count of handles, so that a look-up goes to one
    /// place in RAM after the table.
    bytes: Arc<[u8]>,
    /// [`key_hash`](crate::key::key_hash) of the key's view, tenant and entity.
    key_hash: u64,
    generation: u32,
    key_bytes: u16,
    absent: bool,
}

impl HotRow {
    pub(crate) fn new(key: &[u8], key_hash: u64, row: Option<&[u8]>) -> HotRow {
        let length = key.len() + row.map_or(0, <[u8]>::len);
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        let (to_key, to_row) = Arc::make_mut(&mut bytes).split_at_mut(key.len());
        to_key.copy_from_slice(key);
        to_row.copy_from_slice(row.unwrap_or_default());
        HotRow {
            bytes,
            key_hash,
            generation: generation(key),
            // A key is at most twice the longest entity and some.
            key_bytes: key.len() as u16,
            absent: row.is_none(),
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..usize::from(self.key_bytes)]
    }

    pub(crate) fn key_hash(&self) -> u64 {
        self.key_hash
    }

    /// The row; `None` when the key is known to have none.
    #[inline]
    pub(crate) fn row(&self) -> Option<&[u8]> {
        (!self.absent).then(|| self.bytes_of_row())
    }

    /// The row's bytes, none when there is no row.
    #[inline]
    pub(crate) fn bytes_of_row(&self) -> &[u8] {
        &self.bytes[usize::from(self.key_bytes)..]
    }

    /// Bytes of key and row.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What the entry takes of the tier's bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
    }

    /// Where the entry stands in its shard.
    pub(crate) fn slot(&self) -> u64 {
        slot(self.generation, self.key_hash)
    }

    /// Whether this can be the entry of a key with such a hash and generation. Nearly always it is: asked without looking at the key.
    #[inline]
    pub(crate) fn may_be(&self, key_hash: u64, generation: u32) -> bool {
        self.key_hash == key_hash && self.generation == generation
    }

    /// Whether both are handles to the same bytes.
    pub(crate) fn is_same(&self, other: &HotRow) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes)
    }

    /// The first byte of the key. Reading it brings the count of handles and the start of the key near.
    #[inline]
    pub(crate) fn first_byte(&self) -> u8 {
        self.bytes.first().copied().unwrap_or(0)
    }
}

/// The generation of a key; 0 of bytes that are no key.
#[inline]
pub(crate) fn generation(key: &[u8]) -> u32 {
    GenerationId::of_key(key).map_or(0, |id| id.generation)
}

/// A hash of the whole key, generation included.
#[inline]
pub(crate) fn slot(generation: u32, key_hash: u64) -> u64 {
    (key_hash ^ u64::from(generation)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
}
