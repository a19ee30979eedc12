//! A message that is an Avro record: behind `0x00` and the four bytes of its schema's id, as Confluent's serializers write it, or behind `0xC3 0x01` and
//! the eight bytes of its schema's fingerprint, Avro's single-object encoding.
//!
//! Messages of one schema that follow each other are decoded into one batch. A message that cannot be decoded leaves its decoder with a row half
//! done, so that decoder is thrown away, and made again for the next message.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow_avro::reader::{Decoder, DecoderMode, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};

use crate::change_stream::avro_schemas::{AvroSchemas, SchemaName};
use crate::change_stream::message::Unread;

/// Messages that a decoder may take before it gives its batch; more than are ever written together.
const MAX_ROWS: usize = 1 << 20;
/// Decoders that are kept, one for each schema.
const MAX_DECODERS: usize = 256;

/// What reads the Avro messages of a stream.
#[derive(Debug)]
pub(crate) struct Avro {
    schemas: AvroSchemas,
    decoders: HashMap<SchemaName, Decoder>,
}

impl Avro {
    pub(crate) fn new(schemas: AvroSchemas) -> Avro {
        Avro { schemas, decoders: HashMap::new() }
    }

    /// The rows of the messages, in their order; each batch has those of one schema.
    pub(crate) fn batches(&mut self, messages: &[&[u8]]) -> Result<Vec<RecordBatch>, Unread> {
        let framed: Vec<_> = messages.iter().map(|message| unframe(message)).collect::<Result<_, _>>()?;
        framed.chunk_by(|a, b| a.0 == b.0).map(|run| self.batch(run[0].0, run)).collect()
    }

    fn batch(&mut self, name: SchemaName, run: &[(SchemaName, &[u8])]) -> Result<RecordBatch, Unread> {
        let mut decoder = match self.decoders.remove(&name) {
            Some(decoder) => decoder,
            None => decoder(name, self.schemas.find(name)?)?,
        };
        let decoding = || {
            for (_, record) in run {
                let used =
                    decoder.decode(record).map_err(|error| format!("it cannot be decoded by {name}: {error}"))?;
                if used != record.len() {
                    let more = record.len() - used;
                    return Err(format!("{more} bytes follow the record: it was not written by {name}"));
                }
            }
            let batch = decoder.flush().map_err(|error| format!("it cannot be decoded by {name}: {error}"))?;
            batch.ok_or_else(|| "it holds no record".to_owned())
        };
        // Decoders of foreign formats have panicked on bytes that nobody sends in earnest.
        let outcome = catch_unwind(AssertUnwindSafe(decoding));
        let batch = outcome.unwrap_or_else(|_| Err(format!("it contradicts {name}"))).map_err(Unread::Wrong)?;
        if self.decoders.len() >= MAX_DECODERS {
            self.decoders.clear();
        }
        self.decoders.insert(name, decoder);
        Ok(batch)
    }
}

/// The name of a message's schema, and its record.
fn unframe(message: &[u8]) -> Result<(SchemaName, &[u8]), Unread> {
    match message {
        [0x00, a, b, c, d, record @ ..] => Ok((SchemaName::Id(u32::from_be_bytes([*a, *b, *c, *d])), record)),
        [0xC3, 0x01, a, b, c, d, e, f, g, h, record @ ..] => {
            Ok((SchemaName::Fingerprint(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h])), record))
        }
        _ => Err(Unread::wrong(
            "it begins neither with 0x00 and a schema's id nor with 0xC3 0x01 and a fingerprint, as Avro messages do",
        )),
    }
}

/// A decoder of bare records of one schema.
fn decoder(name: SchemaName, schema: AvroSchema) -> Result<Decoder, Unread> {
    let build = || {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(0), schema)?;
        ReaderBuilder::new()
            .with_writer_schema_store(store)
            .with_decoder_mode(DecoderMode::UnframedDatum)
            .with_batch_size(MAX_ROWS)
            .build_decoder()
    };
    let built = catch_unwind(AssertUnwindSafe(build));
    let refused = |reason: String| Unread::Wrong(format!("{name} cannot be used: {reason}"));
    built.map_err(|_| refused("it contradicts itself".to_owned()))?.map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int64Type, TimestampMillisecondType};

    use super::*;

    pub(crate) const SCHEMA: &str = r#"{"type": "record", "name": "Points", "fields": [
        {"name": "user", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "points", "type": ["null", "long"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;

    fn long(value: i64, bytes: &mut Vec<u8>) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }

    /// A record by the Avro specification, byte by byte.
    pub(crate) fn record(user: &str, at: i64, points: Option<i64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        long(user.len() as i64, &mut bytes);
        bytes.extend(user.as_bytes());
        long(at, &mut bytes);
        long(i64::from(points.is_some()), &mut bytes);
        points.into_iter().for_each(|points| long(points, &mut bytes));
        long(0, &mut bytes);
        bytes
    }

    pub(crate) fn framed(id: u32, record: &[u8]) -> Vec<u8> {
        [&[0][..], &id.to_be_bytes(), record].concat()
    }

    pub(crate) fn avro(schemas: &[(u32, &str)]) -> Avro {
        let folder = tempfile::tempdir().unwrap();
        let file = |(id, text): &(u32, &str)| {
            let path = folder.path().join(format!("{id}.avsc"));
            std::fs::write(&path, text).unwrap();
            (id.to_string(), path)
        };
        Avro::new(AvroSchemas::open(&schemas.iter().map(file).collect(), "").unwrap())
    }

    fn read(avro: &mut Avro, messages: &[Vec<u8>]) -> Result<Vec<RecordBatch>, Unread> {
        avro.batches(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn records_of_one_schema_are_one_batch() {
        let renamed = SCHEMA.replace("\"points\"", "\"score\"");
        let mut avro = avro(&[(7, SCHEMA), (8, &renamed)]);
        let fingerprint = AvroSchema::new(SCHEMA.to_owned()).fingerprint(FingerprintAlgorithm::Rabin).unwrap();
        let Fingerprint::Rabin(fingerprint) = fingerprint else { panic!("{fingerprint:?}") };
        let single = [&[0xC3, 0x01][..], &fingerprint.to_le_bytes(), &record("dan", 4, Some(4))].concat();
        let messages = [
            framed(7, &record("ada", 1, Some(-1))),
            framed(7, &record("bob", 2, None)),
            framed(8, &record("cleo", 3, Some(3))),
            single,
        ];
        for _ in 0..2 {
            let batches = read(&mut avro, &messages).unwrap();
            assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 1, 1]);
            assert_eq!(batches[0]["user"].as_string::<i32>().value(1), "bob");
            assert_eq!(batches[0]["at"].as_primitive::<TimestampMillisecondType>().values(), &[1, 2]);
            let points = batches[0]["points"].as_primitive::<Int64Type>();
            assert_eq!((points.value(0), points.is_null(1)), (-1, true));
            assert!(batches[1].column_by_name("score").is_some());
        }
    }

    #[test]
    fn a_wrong_record_leaves_nothing_behind() {
        let mut avro = avro(&[(7, SCHEMA)]);
        let good = framed(7, &record("ada", 1, Some(5)));
        let more = [good.clone(), vec![0]].concat();
        for (bad, says) in [
            (good[..good.len() - 2].to_vec(), "cannot be decoded by schema 7"),
            (more, "1 bytes follow the record"),
            (framed(9, &record("ada", 1, None)), "schema 9 is not known"),
            (framed(7, &[]), "schema 7"),
            (b"{}".to_vec(), "begins neither with 0x00"),
            (vec![], "begins neither with 0x00"),
            (vec![0xC3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0], "fingerprint 0000000000000000 is not known"),
        ] {
            let Unread::Wrong(message) = read(&mut avro, &[good.clone(), bad]).unwrap_err() else { panic!("{says}") };
            assert!(message.contains(says), "{message:?} does not say {says:?}");
            let batches = read(&mut avro, std::slice::from_ref(&good)).unwrap();
            assert_eq!(batches[0].num_rows(), 1);
        }
    }

    #[test]
    fn every_changed_byte_is_refused_or_read_and_nothing_panics() {
        let mut avro = avro(&[(7, SCHEMA)]);
        let good = framed(7, &record("ada", 1, Some(5)));
        for at in 5..good.len() {
            for value in 0..=u8::MAX {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(batches) = read(&mut avro, &[bytes]) {
                    assert_eq!(batches[0].num_rows(), 1);
                }
            }
        }
    }
}
