//! The store's single truth: one record per view and tenant that names its live and its previous generation. What no record names does
//! not exist; opening a store deletes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::generation::{Generation, Generations, Pair};
use crate::manifest::Manifest;
use crate::plan::View;
use crate::schema;
use crate::view::TenantId;
use crate::warm::{KeyAndValue, Warm};

const FORMAT: u32 = 1;

/// The record of one view and tenant. Written whole, in one synced batch: a swap has happened when it is durable and not before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetaRecord {
    pub(crate) format: u32,
    pub(crate) live: Manifest,
    pub(crate) previous: Option<Manifest>,
    /// The greatest generation number ever made live, so that no number is used twice.
    pub(crate) newest_generation: u32,
}

impl MetaRecord {
    pub(crate) fn new(live: Manifest, previous: Option<Manifest>, newest_generation: u32) -> MetaRecord {
        MetaRecord { format: FORMAT, live, previous, newest_generation }
    }

    pub(crate) fn generations(&self) -> impl Iterator<Item = &Manifest> {
        std::iter::once(&self.live).chain(&self.previous)
    }

    pub(crate) fn write(&self, warm: &Warm) -> Result<(), Error> {
        let key = key(self.live.view_id, self.live.tenant);
        let bytes = serde_json::to_vec(self)
            .map_err(|e| Error::disk("write the meta record of", warm.path())(std::io::Error::other(e)))?;
        warm.write_meta(&key, &bytes)
    }

    /// Reads the record of a view and tenant, if there is one.
    pub(crate) fn read(warm: &Warm, view: u16, tenant: TenantId) -> Result<Option<MetaRecord>, Error> {
        let key = key(view, tenant);
        let decode = |bytes: Vec<u8>| MetaRecord::decode(&key, &bytes);
        let record = warm.read_meta(&key)?.map(decode).transpose();
        record.map_err(|reason| Error::damaged(warm.path(), reason))
    }

    fn read_all(warm: &Warm) -> Result<Vec<MetaRecord>, Error> {
        let records = warm.read_all_meta()?;
        let decode = |(key, bytes): &KeyAndValue| {
            MetaRecord::decode(key, bytes).map_err(|reason| Error::damaged(warm.path(), reason))
        };
        records.iter().map(decode).collect()
    }

    pub(crate) fn decode(found_key: &[u8], bytes: &[u8]) -> Result<MetaRecord, String> {
        let name = match found_key.split_first_chunk::<2>() {
            Some((view, tenant)) if tenant.len() == 4 => {
                let tenant = tenant.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte));
                format!("the meta record of view id {} and tenant {tenant}", u16::from_be_bytes(*view))
            }
            _ => return Err(format!("a meta record has a key of {} bytes, not 6", found_key.len())),
        };
        let record: MetaRecord = serde_json::from_slice(bytes).map_err(|e| format!("{name} is not readable: {e}"))?;
        if record.format != FORMAT {
            return Err(format!("{name} has format {}, this program reads {FORMAT}", record.format));
        }
        for manifest in record.generations() {
            let generation = manifest.generation;
            if found_key != key(manifest.view_id, manifest.tenant) {
                return Err(format!("{name} holds generation {generation} of something else"));
            }
            manifest.check().map_err(|reason| format!("{name}, generation {generation}: {reason}"))?;
        }
        Ok(record)
    }
}

fn key(view: u16, tenant: TenantId) -> [u8; 6] {
    let mut bytes = [0; 6];
    bytes[..2].copy_from_slice(&view.to_be_bytes());
    bytes[2..].copy_from_slice(&tenant.0.to_be_bytes());
    bytes
}

/// Brings a store's records and files into line at the start: drops files that no record names (a publish that was cut short, or a drop
/// that did not happen), and refuses to go on when a record names files that are not there or rows the declared views cannot read.
pub(crate) fn recover(warm: &Arc<Warm>, views: &[Arc<View>]) -> Result<Generations, Error> {
    let records = MetaRecord::read_all(warm)?;
    let named: BTreeSet<_> = records.iter().flat_map(MetaRecord::generations).map(Manifest::id).collect();
    let present = warm.base_entities()?;
    for id in present.keys().filter(|id| !named.contains(id)) {
        tracing::info!(view = id.view, generation = id.generation, "dropping a generation that was never made live");
        warm.drop_generation(*id)?;
    }
    let mut generations = Generations::default();
    for record in records {
        for manifest in record.generations() {
            let (view, generation) = (&manifest.view, manifest.generation);
            let found = present.get(&manifest.id()).copied().unwrap_or(0);
            if found != manifest.entities {
                let reason = format!(
                    "generation {generation} of view {view} has {found} entities in its files and {} in its record",
                    manifest.entities
                );
                return Err(Error::damaged(warm.path(), reason));
            }
            check_declared(manifest, views)?;
        }
        generations.insert(Pair {
            live: Generation::new(record.live, warm),
            previous: record.previous.map(|manifest| Generation::new(manifest, warm)),
        });
    }
    Ok(generations)
}

/// Refuses a declaration that the stored rows contradict. Views that are no longer declared keep their rows, unread.
fn check_declared(manifest: &Manifest, views: &[Arc<View>]) -> Result<(), Error> {
    let renumbered = |view: &&Arc<View>| view.config.name == manifest.view && view.config.id != manifest.view_id;
    if let Some(view) = views.iter().find(renumbered) {
        let allowed = format!("its stored rows have id {}; a view keeps its id", manifest.view_id);
        return Err(Error::config(format!("view {}: id", manifest.view), view.config.id, allowed));
    }
    let Some(view) = views.iter().find(|view| view.config.id == manifest.view_id) else {
        return Ok(());
    };
    if view.config.name != manifest.view {
        let allowed = format!("this id belongs to the stored view {}, take another", manifest.view);
        let key = format!("view {}: id", view.config.name);
        return Err(Error::config(key, view.config.id, allowed));
    }
    match schema::cannot_serve(&manifest.schema, &view.config) {
        Some(reason) => {
            let key = format!("view {}", manifest.view);
            let found = format!("a declaration that generation {} contradicts", manifest.generation);
            Err(Error::config(key, found, reason))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{publish_points, view};
    use crate::{Store, StoreConfig};

    #[test]
    fn a_meta_record_that_is_not_as_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let open = || Store::open(&config, &[view()]);
        let store = open().unwrap();
        publish_points(&store, folder.path(), 1, 1);
        publish_points(&store, folder.path(), 1, 2);
        drop(store);
        let key = key(1, TenantId(1));
        let good = Warm::open(&config).unwrap().read_meta(&key).unwrap().unwrap();
        let check = |key: &[u8], record: &[u8], expected: &str| {
            Warm::open(&config).unwrap().write_meta(key, record).unwrap();
            let message = open().err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(message.contains(&config.path.display().to_string()), "{message}");
        };
        let edited = |from: &str, to: &str| {
            let text = String::from_utf8(good.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            text.replacen(from, to, 1).into_bytes()
        };
        let name = "the meta record of view id 1 and tenant 1";
        check(&key, b"\xFF garbage", &format!("{name} is not readable"));
        check(&key, &good[..good.len() / 2], &format!("{name} is not readable"));
        check(&key, &edited("\"format\":1", "\"format\":7"), &format!("{name} has format 7, this program reads 1"));
        check(&key, &edited("\"rows\":2", "\"rows\":3"), &format!("{name}, generation 2: checksum"));
        // Records that are whole but do not fit what is there.
        let mut record: MetaRecord = serde_json::from_slice(&good).unwrap();
        record.previous = record.previous.take().map(|mut manifest| {
            manifest.generation = 9;
            manifest.checksum = manifest.computed_checksum();
            manifest
        });
        let absent = serde_json::to_vec(&record).unwrap();
        check(&key, &absent, "generation 9 of view view has 0 entities in its files and 2 in its record");
    }

    #[test]
    fn a_record_under_the_wrong_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[view()]).unwrap();
        publish_points(&store, folder.path(), 1, 1);
        drop(store);
        let good = Warm::open(&config).unwrap().read_meta(&key(1, TenantId(1))).unwrap().unwrap();
        for (wrong, expected) in [
            (key(1, TenantId(2)).as_slice(), "tenant 2 holds generation 1 of something else"),
            (b"abc", "a meta record has a key of 3 bytes, not 6"),
        ] {
            Warm::open(&config).unwrap().write_meta(wrong, &good).unwrap();
            let message = Store::open(&config, &[view()]).err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
            Warm::open(&config).unwrap().delete_meta(wrong).unwrap();
        }
    }
}
