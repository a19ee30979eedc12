//! The store's single truth: one record per view and tenant that names its live and its previous generation, one per schema that live rows may
//! have, one per erased entity. What no record names does not exist; opening a store deletes it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::SystemTime;

use rocksdb::WriteBatch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cold::ColdFolder;
use crate::erasure::{Erasure, ErasureRecord};
use crate::generation::{Generation, Generations, Pair};
use crate::live::StoredSchemas;
use crate::manifest::{Manifest, ManifestFile, StoredSchema};
use crate::plan::View;
use crate::schema;
use crate::view::TenantId;
use crate::warm::Warm;

const FORMAT: u32 = 1;

/// First byte of a record's key: what the record is about.
const GENERATIONS: u8 = b'g';
const SCHEMA: u8 = b's';
const ERASURE: u8 = b'e';
const NAME: u8 = b'n';

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
    fn stored_entities(&self, manifest: &Manifest) -> u64 {
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

    fn decode(found_key: &[u8], bytes: &[u8]) -> Result<MetaRecord, String> {
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

/// A schema under which live rows were or are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchemaRecord {
    pub(crate) view: String,
    pub(crate) view_id: u16,
    pub(crate) schema: StoredSchema,
}

impl SchemaRecord {
    fn of(view: &View) -> SchemaRecord {
        let config = &view.config;
        let schema = StoredSchema::of(config, view.schema.fingerprint);
        SchemaRecord { view: config.name.clone(), view_id: config.id, schema }
    }

    fn decode(found_key: &[u8], bytes: &[u8]) -> Result<(u32, SchemaRecord), String> {
        let (view, fingerprint) = numbers(found_key)?;
        let name = format!("the schema record {fingerprint:08x} of view id {view}");
        let record: SchemaRecord = read(bytes, &name)?;
        if schema::fingerprint(&record.schema.features) != fingerprint || record.view_id != view {
            return Err(format!("{name} holds another schema"));
        }
        Ok((fingerprint, record))
    }
}

/// Every record of a store.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) generations: Vec<MetaRecord>,
    /// With their fingerprints.
    pub(crate) schemas: Vec<(u32, SchemaRecord)>,
    pub(crate) erasures: Vec<(Erasure, ErasureRecord)>,
    /// The store's own name, drawn when it was made: tells its cold folder from another store's.
    pub(crate) name: Option<String>,
}

impl Records {
    pub(crate) fn read(warm: &Warm) -> Result<Records, Error> {
        let mut records = Records::default();
        for (key, bytes) in warm.read_all_meta()? {
            records.decode(&key, &bytes).map_err(|reason| Error::damaged(warm.path(), reason))?;
        }
        Ok(records)
    }

    /// Takes one record in. These are bytes from disk: what is wrong with them is said, whatever they are.
    pub(crate) fn decode(&mut self, key: &[u8], bytes: &[u8]) -> Result<(), String> {
        match key.first() {
            Some(&GENERATIONS) => self.generations.push(MetaRecord::decode(key, bytes)?),
            Some(&SCHEMA) => self.schemas.push(SchemaRecord::decode(key, bytes)?),
            Some(&ERASURE) => {
                let erasure = Erasure::of_key(&key[1..]);
                let erasure = erasure.ok_or_else(|| format!("an erasure record has a key of {} bytes", key.len()))?;
                self.erasures.push((erasure, read(bytes, "an erasure record")?));
            }
            Some(&NAME) => self.name = Some(read(bytes, "the store's name")?),
            _ => return Err(format!("a meta record has an unknown key of {} bytes", key.len())),
        }
        Ok(())
    }
}

/// The store's name, which is drawn when there is none yet.
pub(crate) fn name(warm: &Warm, records: &Records) -> Result<String, Error> {
    if let Some(name) = &records.name {
        return Ok(name.clone());
    }
    let drawn = foldhash::quality::RandomState::default();
    let name = format!("{:016x}", drawn.hash_one(SystemTime::now()));
    warm.write_meta(&[NAME], &encode(warm, &name)?)?;
    Ok(name)
}

/// Makes an erasure durable.
pub(crate) fn write_erasure(warm: &Warm, erasure: Erasure, record: &ErasureRecord) -> Result<(), Error> {
    let key = [&[ERASURE][..], &erasure.key()].concat();
    warm.write_meta(&key, &encode(warm, record)?)
}

fn generations_key(view: u16, tenant: TenantId) -> [u8; 7] {
    numbered_key(GENERATIONS, view, tenant.0)
}

fn numbered_key(kind: u8, view: u16, number: u32) -> [u8; 7] {
    let mut bytes = [kind; 7];
    bytes[1..3].copy_from_slice(&view.to_be_bytes());
    bytes[3..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The two numbers of a key made by [`numbered_key`].
fn numbers(key: &[u8]) -> Result<(u16, u32), String> {
    match *key {
        [_, a, b, c, d, e, f] => Ok((u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))),
        _ => Err(format!("a meta record has a key of {} bytes, not 7", key.len())),
    }
}

fn encode(warm: &Warm, record: &impl Serialize) -> Result<Vec<u8>, Error> {
    let written = serde_json::to_vec(record);
    written.map_err(|error| Error::disk("write the meta record of", warm.path())(std::io::Error::other(error)))
}

fn read<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{name} is not readable: {error}"))
}

/// Brings a store's records and files into line at the start: drops files that no record names (a publish that was cut short, or a drop
/// that did not happen), and refuses to go on when a record names files that are not there or rows the declared views cannot read.
pub(crate) fn recover(
    warm: &Arc<Warm>,
    folder: &ColdFolder,
    views: &[Arc<View>],
    records: Vec<MetaRecord>,
) -> Result<Generations, Error> {
    let named: BTreeSet<_> = records.iter().flat_map(MetaRecord::generations).map(Manifest::id).collect();
    warm.finish_compactions()?;
    let present = warm.base_entities()?;
    for id in present.keys().filter(|id| !named.contains(id)) {
        tracing::info!(view = id.view, generation = id.generation, "dropping a generation that was never made live");
        warm.drop_generation(*id)?;
    }
    let place = |record: &MetaRecord, manifest: &Manifest| -> Vec<_> {
        record.cold_files(manifest).iter().map(|file| folder.place(manifest, &file.name)).collect()
    };
    let named_cold: HashSet<_> =
        records.iter().flat_map(|record| record.generations().flat_map(|manifest| place(record, manifest))).collect();
    folder.delete_unnamed(&named_cold)?;
    let mut generations = Generations::default();
    for record in records {
        for manifest in record.generations() {
            let (view, generation) = (&manifest.view, manifest.generation);
            let found = present.get(&manifest.id()).copied().unwrap_or(0);
            let expected = record.stored_entities(manifest);
            if found != expected {
                let reason = format!(
                    "generation {generation} of view {view} has {found} entities in its files and {expected} in its record"
                );
                return Err(Error::damaged(warm.path(), reason));
            }
            check_declared(manifest, views)?;
            if let Some(view) = views.iter().find(|view| view.config.id == manifest.view_id) {
                view.know(&manifest.schema.features);
            }
        }
        let open = |manifest: &Manifest| {
            let cold = folder.open_parts(manifest, record.cold_files(manifest))?;
            Ok::<_, Error>(Generation::new(manifest.clone(), cold, warm))
        };
        let previous = record.previous.as_ref().map(open).transpose()?;
        generations.insert(Pair { live: open(&record.live)?, previous, incoming: None });
    }
    Ok(generations)
}

/// Brings the schemas of live rows into line with the declared views: refuses a declaration that stored live rows contradict, forgets schemas that
/// no row has, and remembers the declared ones, so that the rows to come stay readable when the declaration changes.
pub(crate) fn recover_schemas(
    warm: &Warm,
    views: &[Arc<View>],
    records: &[(u32, SchemaRecord)],
    stored: &StoredSchemas,
) -> Result<(), Error> {
    for (fingerprint, record) in records {
        let view = views.iter().find(|view| view.config.id == record.view_id);
        if !stored.contains(&(record.view_id, *fingerprint)) {
            // A view that is not declared keeps its records: whether it has rows was not asked.
            if view.is_some_and(|view| view.schema.fingerprint != *fingerprint) {
                warm.delete_meta(&numbered_key(SCHEMA, record.view_id, *fingerprint))?;
            }
            continue;
        }
        let Some(view) = view else { continue };
        if let Some(reason) = schema::cannot_serve(&record.schema, &view.config) {
            let key = format!("view {}", view.config.name);
            return Err(Error::config(key, "a declaration that stored live rows contradict", reason));
        }
        view.know(&record.schema.features);
    }
    for view in views {
        let fingerprint = view.schema.fingerprint;
        if !records.iter().any(|(known, record)| *known == fingerprint && record.view_id == view.config.id) {
            let key = numbered_key(SCHEMA, view.config.id, fingerprint);
            warm.write_meta(&key, &encode(warm, &SchemaRecord::of(view))?)?;
        }
    }
    Ok(())
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
        let key = generations_key(1, TenantId(1));
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
        let good = Warm::open(&config).unwrap().read_meta(&generations_key(1, TenantId(1))).unwrap().unwrap();
        for (wrong, expected) in [
            (generations_key(1, TenantId(2)).as_slice(), "tenant 2 holds generation 1 of something else"),
            (b"gbc", "a meta record has a key of 3 bytes, not 7"),
            (b"xbc", "a meta record has an unknown key of 3 bytes"),
            (b"sbcdefg", "is not readable"),
            (b"ebc", "an erasure record has a key of 3 bytes"),
        ] {
            Warm::open(&config).unwrap().write_meta(wrong, &good).unwrap();
            let message = Store::open(&config, &[view()]).err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
            Warm::open(&config).unwrap().delete_meta(wrong).unwrap();
        }
    }
}
