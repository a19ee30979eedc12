//! Erasure: a user's right to be forgotten. A record says that everything about an entity up to a moment is erased. From then on no fetch shows
//! it, no late live row and no older snapshot brings it back; `compact_erased` (see `compact.rs`) takes its bytes out of the files.
//!
//! The record holds a hash of the entity, not its name: remembering whom to forget must not keep what was to be forgotten.

use std::collections::HashMap;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::view::TenantId;

/// Whose rows are erased: 128 bits of XXH3 stand for the entity's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Erasure {
    pub(crate) tenant: TenantId,
    pub(crate) entity: u128,
}

impl Erasure {
    pub(crate) fn of(tenant: TenantId, entity: &str) -> Erasure {
        Erasure { tenant, entity: xxh3_128(entity.as_bytes()) }
    }

    pub(crate) fn key(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.tenant.0.to_be_bytes());
        bytes[4..].copy_from_slice(&self.entity.to_be_bytes());
        bytes
    }

    pub(crate) fn of_key(key: &[u8]) -> Option<Erasure> {
        let (tenant, entity) = key.split_first_chunk::<4>()?;
        let entity = entity.try_into().ok()?;
        Some(Erasure { tenant: TenantId(u32::from_be_bytes(*tenant)), entity: u128::from_be_bytes(entity) })
    }
}

/// What is recorded of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErasureRecord {
    /// Rows up to this event time are erased, Unix milliseconds UTC.
    pub(crate) erased_ms: i64,
}

type Table = HashMap<Erasure, ErasureRecord, RandomState>;

/// All erasures of a store, in RAM. Replaced whole by each new one; they are rare.
pub(crate) struct Erasures(ArcSwap<Table>);

impl Erasures {
    pub(crate) fn new(records: impl IntoIterator<Item = (Erasure, ErasureRecord)>) -> Erasures {
        Erasures(ArcSwap::from_pointee(records.into_iter().collect()))
    }

    /// Up to which event time an entity's rows are erased.
    pub(crate) fn erased_ms(&self, tenant: TenantId, entity: &str) -> Option<i64> {
        let table = self.0.load();
        if table.is_empty() {
            return None;
        }
        table.get(&Erasure::of(tenant, entity)).map(|record| record.erased_ms)
    }

    /// The same for many entities; empty when nobody is erased.
    pub(crate) fn erased_of<'a>(&self, entities: impl Iterator<Item = (TenantId, &'a str)>) -> Vec<Option<i64>> {
        let table = self.0.load();
        if table.is_empty() {
            return Vec::new();
        }
        let erased = |(tenant, entity)| table.get(&Erasure::of(tenant, entity)).map(|record| record.erased_ms);
        entities.map(erased).collect()
    }

    /// What is recorded of an entity.
    pub(crate) fn get(&self, erasure: Erasure) -> Option<ErasureRecord> {
        self.0.load().get(&erasure).copied()
    }

    /// How many entities are erased.
    pub(crate) fn len(&self) -> usize {
        self.0.load().len()
    }

    /// True when nobody is erased.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    /// Whether anybody of a tenant is erased.
    pub(crate) fn has(&self, tenant: TenantId) -> bool {
        self.0.load().keys().any(|erasure| erasure.tenant == tenant)
    }

    /// Notes a record, over an older one of the same entity. The caller holds the lock of whoever changes meta.
    pub(crate) fn insert(&self, erasure: Erasure, record: ErasureRecord) {
        let mut table = Table::clone(&self.0.load());
        table.insert(erasure, record);
        self.0.store(table.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_and_names_stay_out_of_it() {
        let erasure = Erasure::of(TenantId(7), "ada");
        assert_eq!(Erasure::of_key(&erasure.key()), Some(erasure));
        assert_eq!(Erasure::of_key(&erasure.key()[1..]), None);
        assert!(!erasure.key().windows(3).any(|bytes| bytes == b"ada"));
        // The hash is on disk: it must never change.
        assert_eq!(erasure.entity, 0x93FF_3B2C_3682_A669_691D_4463_952C_802F);
    }

    #[test]
    fn the_latest_erasure_of_an_entity_counts() {
        let erasures = Erasures::new([]);
        let ada = Erasure::of(TenantId(1), "ada");
        assert_eq!(erasures.erased_of([(TenantId(1), "ada")].into_iter()), []);
        for erased_ms in [5, 9] {
            erasures.insert(ada, ErasureRecord { erased_ms });
        }
        let asked = [(TenantId(1), "ada"), (TenantId(2), "ada"), (TenantId(1), "bob")];
        assert_eq!(erasures.erased_of(asked.into_iter()), [Some(9), None, None]);
        assert_eq!(erasures.erased_ms(TenantId(1), "ada"), Some(9));
        assert!(erasures.has(TenantId(1)) && !erasures.has(TenantId(2)));
    }
}
