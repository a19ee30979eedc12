//! Keys of the base family: view u16, tenant u32, generation u32 (all big-endian), then the entity, escaped and terminated.
//!
//! The encoding keeps order (keys compare as their parts do, entities by bytes), so a generation is one contiguous range, and it is
//! self-delimiting, so no entity is a prefix of another's key and parts may follow the entity in other families.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::fast::{FixedState, RandomState};

use crate::TenantId;

/// Longest entity, in bytes of UTF-8.
pub const MAX_ENTITY_BYTES: usize = 256;

/// Bytes before the entity.
pub(crate) const PREFIX_BYTES: usize = 10;

/// A zero byte inside an entity is followed by this byte, which is greater than the end mark.
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
const END: [u8; 2] = [0x00, 0x00];

/// One generation of one view of one tenant: the unit that is built, published and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GenerationId {
    pub(crate) view: u16,
    pub(crate) tenant: TenantId,
    pub(crate) generation: u32,
}

impl GenerationId {
    /// The bytes that start each key of this generation and no other key.
    pub(crate) fn prefix(self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[..2].copy_from_slice(&self.view.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.tenant.0.to_be_bytes());
        bytes[6..].copy_from_slice(&self.generation.to_be_bytes());
        bytes
    }

    /// Bytes greater than every key of this generation and smaller than every key of the next: no UTF-8 text starts with 0xFF.
    pub(crate) fn end(self) -> [u8; PREFIX_BYTES + 1] {
        let mut bytes = [0xFF; PREFIX_BYTES + 1];
        bytes[..PREFIX_BYTES].copy_from_slice(&self.prefix());
        bytes
    }

    /// The generation that a key belongs to; `None` when the bytes are too short to be a key.
    pub(crate) fn of_key(key: &[u8]) -> Option<GenerationId> {
        let (view, rest) = key.split_first_chunk::<2>()?;
        let (tenant, rest) = rest.split_first_chunk::<4>()?;
        let (generation, _) = rest.split_first_chunk::<4>()?;
        Some(GenerationId {
            view: u16::from_be_bytes(*view),
            tenant: TenantId(u32::from_be_bytes(*tenant)),
            generation: u32::from_be_bytes(*generation),
        })
    }
}

/// Bytes before the entity in a key of the live family.
pub(crate) const LIVE_PREFIX_BYTES: usize = 6;

/// The bytes that start each live key of a view and tenant and no other: live rows belong to no generation.
pub(crate) fn live_prefix(view: u16, tenant: TenantId) -> [u8; LIVE_PREFIX_BYTES] {
    let mut bytes = [0; LIVE_PREFIX_BYTES];
    bytes[..2].copy_from_slice(&view.to_be_bytes());
    bytes[2..].copy_from_slice(&tenant.0.to_be_bytes());
    bytes
}

/// Bytes greater than every live key of a view and tenant and smaller than every key of the next.
pub(crate) fn live_end(view: u16, tenant: TenantId) -> [u8; LIVE_PREFIX_BYTES + 1] {
    let mut bytes = [0xFF; LIVE_PREFIX_BYTES + 1];
    bytes[..LIVE_PREFIX_BYTES].copy_from_slice(&live_prefix(view, tenant));
    bytes
}

/// Says why nothing can be stored under an entity.
pub(crate) fn check_entity(entity: &str) -> Result<(), String> {
    match entity.len() {
        1..=MAX_ENTITY_BYTES => Ok(()),
        length => Err(format!("an entity of {length} bytes, allowed are 1 to {MAX_ENTITY_BYTES}")),
    }
}

/// Appends the entity part of a key.
pub(crate) fn push_entity(key: &mut Vec<u8>, entity: &[u8]) {
    if entity.contains(&0) {
        for &byte in entity {
            match byte {
                0 => key.extend_from_slice(&ESCAPED_ZERO),
                _ => key.push(byte),
            }
        }
    } else {
        key.extend_from_slice(entity);
    }
    key.extend_from_slice(&END);
}

/// The live key of the same view, tenant and entity as a base key.
pub(crate) fn live_key(base_key: &[u8]) -> Vec<u8> {
    [&base_key[..LIVE_PREFIX_BYTES], &base_key[PREFIX_BYTES..]].concat()
}

/// Drawn by each process, so that nobody outside can choose names whose hashes collide.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::default().hash_one(0));

/// One number for a view, tenant and entity, the same in every generation: chooses shard, stripe and filter bits. It lives in RAM only.
#[inline]
pub(crate) fn key_hash(view: u16, tenant: TenantId, entity: &[u8]) -> u64 {
    FixedState::with_seed(*SEED ^ (u64::from(view) << 32 | u64::from(tenant.0))).hash_one(entity)
}

/// The entity whose part of a key this is; `None` when it is not one.
pub(crate) fn read_entity(part: &[u8]) -> Option<String> {
    let (entity, rest) = split_entity(part)?;
    String::from_utf8(entity).ok().filter(|_| rest.is_empty())
}

/// The inverse of [`push_entity`]: the entity that the bytes start with, and what follows it. `None` when they start with no entity.
pub(crate) fn split_entity(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut entity = Vec::new();
    loop {
        let zero = bytes.iter().position(|&byte| byte == 0)?;
        entity.extend_from_slice(&bytes[..zero]);
        let (mark, rest) = bytes[zero..].split_first_chunk::<2>()?;
        bytes = rest;
        match *mark {
            ESCAPED_ZERO => entity.push(0),
            END => return Some((entity, rest)),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(id: GenerationId, entity: &str) -> Vec<u8> {
        let mut bytes = id.prefix().to_vec();
        push_entity(&mut bytes, entity.as_bytes());
        bytes
    }

    fn any_id() -> impl Strategy<Value = GenerationId> {
        // Few distinct values, so that the later parts decide often.
        let edge = || prop_oneof![Just(0u32), Just(1), Just(255), Just(256), Just(u32::MAX)];
        (0u16..3, edge(), edge()).prop_map(|(view, tenant, generation)| GenerationId {
            view,
            tenant: TenantId(tenant),
            generation,
        })
    }

    proptest! {
        #[test]
        fn keys_compare_as_their_parts_do(
            a in any_id(), b in any_id(), x in "[\0\u{1}ab\u{fe}]{0,6}", y in "[\0\u{1}ab\u{fe}]{0,6}"
        ) {
            prop_assert_eq!(key(a, &x).cmp(&key(b, &y)), (a, x.as_bytes()).cmp(&(b, y.as_bytes())));
        }

        #[test]
        fn an_entity_comes_back(a in any_id(), x in "[\0\u{1}ab\u{ff}é]{0,9}", cut in 0usize..9) {
            let key = key(a, &x);
            prop_assert_eq!(read_entity(&key[PREFIX_BYTES..]), Some(x));
            prop_assert_eq!(read_entity(&key[PREFIX_BYTES..key.len().saturating_sub(1 + cut).max(PREFIX_BYTES)]), None);
        }

        #[test]
        fn no_key_is_a_prefix_of_another(a in any_id(), x in "[\0ab]{0,5}", y in "[\0ab]{0,5}") {
            prop_assert_eq!(key(a, &x).starts_with(&key(a, &y)), x == y);
        }

        #[test]
        fn an_entity_is_split_from_what_follows(x in "[\0\u{1}ab\u{fe}]{0,6}", rest in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = Vec::new();
            push_entity(&mut bytes, x.as_bytes());
            let cut = bytes[..bytes.len() - 1].to_vec();
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(split_entity(&bytes), Some((x.into_bytes(), rest.as_slice())));
            prop_assert_eq!(split_entity(&cut), None);
        }

        #[test]
        fn a_generation_is_one_range(a in any_id(), b in any_id(), x in "\\PC{0,6}") {
            let k = key(b, &x);
            prop_assert_eq!(GenerationId::of_key(&k), Some(b));
            let inside = k.as_slice() >= a.prefix().as_slice() && k.as_slice() < a.end().as_slice();
            prop_assert_eq!(inside, a == b);
        }
    }
}
