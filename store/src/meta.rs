//! The store's single truth: one record per view and tenant that names its live and its previous generation, one per schema that live rows may
//! have, one per erased entity, one per stream of changes. What no record names does not exist; opening a store deletes it.

mod generations;
mod recovery;
mod schemas;

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use rocksdb::WriteBatch;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::erasure::{Erasure, ErasureRecord};
use crate::view::TenantId;
use crate::warm::Warm;

pub(crate) use generations::MetaRecord;
pub(crate) use recovery::{recover, recover_shard};
pub(crate) use schemas::{SchemaRecord, recover_schemas};

const FORMAT: u32 = 1;

/// First byte of a record's key: what the record is about.
const GENERATIONS: u8 = b'g';
const SCHEMA: u8 = b's';
const ERASURE: u8 = b'e';
const NAME: u8 = b'n';
const STREAM: u8 = b'p';
const FORMER_NAMES: u8 = b'f';

/// Former names of a store that are kept.
const MAX_FORMER_NAMES: usize = 32;

/// Every record of a store.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) generations: Vec<MetaRecord>,
    /// With their fingerprints.
    pub(crate) schemas: Vec<(u32, SchemaRecord)>,
    pub(crate) erasures: Vec<(Erasure, ErasureRecord)>,
    /// How far each stream of changes has been written.
    pub(crate) streams: Vec<(String, u64)>,
    /// The store's own name, drawn when it was made or restored: tells its cold folder and its backups from another store's.
    pub(crate) name: Option<String>,
    /// The names of the stores that it was restored from, the latest last.
    pub(crate) former_names: Vec<String>,
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
            Some(&STREAM) => {
                let name = std::str::from_utf8(&key[1..]);
                let name = name.map_err(|_| "the position of a stream has a key that is no text".to_owned())?;
                self.streams.push((name.to_owned(), read(bytes, "the position of a stream")?));
            }
            Some(&NAME) => self.name = Some(read(bytes, "the store's name")?),
            Some(&FORMER_NAMES) => self.former_names = read(bytes, "the store's former names")?,
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
    let name = draw_name();
    warm.write_meta(&[NAME], &encode(warm, &name)?)?;
    Ok(name)
}

/// Gives a store another name and records the one it had: from now on it is a store of its own and not the one it was copied from.
pub(crate) fn rename(warm: &Warm) -> Result<String, Error> {
    let Records { name, mut former_names, .. } = Records::read(warm)?;
    former_names.extend(name);
    let surplus = former_names.len().saturating_sub(MAX_FORMER_NAMES);
    former_names.drain(..surplus);
    let name = draw_name();
    let mut batch = WriteBatch::default();
    warm.put_meta(&mut batch, &[NAME], &encode(warm, &name)?)?;
    warm.put_meta(&mut batch, &[FORMER_NAMES], &encode(warm, &former_names)?)?;
    warm.write_synced(batch)?;
    Ok(name)
}

fn draw_name() -> String {
    // The operating system's randomness: copies of one store may be restored at the same moment.
    format!("{:016x}", RandomState::new().hash_one(SystemTime::now()))
}

/// Makes an erasure durable.
pub(crate) fn write_erasure(warm: &Warm, erasure: Erasure, record: &ErasureRecord) -> Result<(), Error> {
    let key = [&[ERASURE][..], &erasure.key()].concat();
    warm.write_meta(&key, &encode(warm, record)?)
}

/// Adds a stream's position to the batch of the rows that came from before it.
pub(crate) fn put_stream(warm: &Warm, batch: &mut WriteBatch, stream: &str, position: u64) -> Result<(), Error> {
    let key = [&[STREAM][..], stream.as_bytes()].concat();
    warm.put_meta(batch, &key, &encode(warm, &position)?)
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
