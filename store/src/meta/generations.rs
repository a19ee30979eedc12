//! The record of the generations of one view and tenant.

use std::collections::BTreeMap;

use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::manifest::{Manifest, ManifestFile};
use crate::meta::{FORMAT, encode, generations_key, numbers, read};
use crate::view::TenantId;
use crate::warm::Warm;

/// The record of one view and tenant. Written whole, in one synced batch: a swap has happened when it is durable and not before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetaRecord {
    pub(crate) format: u32,
    pub(crate) live: Manifest,
    pub(crate) previous: Option<Manifest>,
    /// The greatest generation number ever made live, so that no number is used twice.
    pub(crate) newest_generation: u32,
    /// Live rows up to this time may have been pruned, because both generations cover them: no older snapshot may follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pruned_to_ms: Option<i64>,
    /// Entities whose rows were taken out of a generation's files after an erasure, by generation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) erased_entities: BTreeMap<u32, u64>,
    /// Cold files that were rewritten after an erasure: by generation, all its cold files as they are now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) rewritten_cold: BTreeMap<u32, Vec<ManifestFile>>,
}

impl MetaRecord {
    pub(crate) fn new(live: Manifest, previous: Option<Manifest>, old: Option<&MetaRecord>) -> MetaRecord {
        let newest_generation = old.map_or(0, |old| old.newest_generation).max(live.generation);
        let pruned_to_ms = old.and_then(|old| old.pruned_to_ms);
        let mut erased_entities = old.map(|old| old.erased_entities.clone()).unwrap_or_default();
        let kept = |generation: &u32| {
            *generation == live.generation || previous.as_ref().is_some_and(|kept| kept.generation == *generation)
        };
        erased_entities.retain(|generation, _| kept(generation));
        let mut rewritten_cold = old.map(|old| old.rewritten_cold.clone()).unwrap_or_default();
        rewritten_cold.retain(|generation, _| kept(generation));
        MetaRecord { format: FORMAT, live, previous, newest_generation, pruned_to_ms, erased_entities, rewritten_cold }
    }

    /// Notes that the files of a generation hold so many entities less.
    pub(crate) fn note_erased(&mut self, generation: u32, entities: u64) {
        *self.erased_entities.entry(generation).or_default() += entities;
    }

    /// The cold files of a generation.
    pub(crate) fn cold_files<'a>(&'a self, manifest: &'a Manifest) -> &'a [ManifestFile] {
        self.rewritten_cold.get(&manifest.generation).unwrap_or(&manifest.cold)
    }

    /// The entities that a generation's SST files hold.
    pub(crate) fn stored_entities(&self, manifest: &Manifest) -> u64 {
        manifest.warm_entities().saturating_sub(self.erased_entities.get(&manifest.generation).copied().unwrap_or(0))
    }

    /// Adds the record to a batch, to be written with what it speaks of.
    pub(crate) fn add_to(&self, warm: &Warm, batch: &mut WriteBatch) -> Result<(), Error> {
        warm.put_meta(batch, &generations_key(self.live.view_id, self.live.tenant), &encode(warm, self)?)
    }

    pub(crate) fn generations(&self) -> impl Iterator<Item = &Manifest> {
        std::iter::once(&self.live).chain(&self.previous)
    }

    pub(crate) fn write(&self, warm: &Warm) -> Result<(), Error> {
        warm.write_meta(&generations_key(self.live.view_id, self.live.tenant), &encode(warm, self)?)
    }

    /// Reads the record of a view and tenant, if there is one.
    pub(crate) fn read(warm: &Warm, view: u16, tenant: TenantId) -> Result<Option<MetaRecord>, Error> {
        let key = generations_key(view, tenant);
        let decode = |bytes: Vec<u8>| MetaRecord::decode(&key, &bytes);
        let record = warm.read_meta(&key)?.map(decode).transpose();
        record.map_err(|reason| Error::damaged(warm.path(), reason))
    }

    pub(super) fn decode(found_key: &[u8], bytes: &[u8]) -> Result<MetaRecord, String> {
        let (view, tenant) = numbers(found_key)?;
        let name = format!("the meta record of view id {view} and tenant {tenant}");
        let record: MetaRecord = read(bytes, &name)?;
        if record.format != FORMAT {
            return Err(format!("{name} has format {}, this program reads {FORMAT}", record.format));
        }
        for manifest in record.generations() {
            let generation = manifest.generation;
            if found_key != generations_key(manifest.view_id, manifest.tenant) {
                return Err(format!("{name} holds generation {generation} of something else"));
            }
            manifest.check().map_err(|reason| format!("{name}, generation {generation}: {reason}"))?;
        }
        Ok(record)
    }
}
