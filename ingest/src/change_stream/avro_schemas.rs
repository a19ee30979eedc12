//! The Avro schemas of a stream: files, known by their ids and by their fingerprints, and what a schema registry says of other ids.
//!
//! A schema decides how much a few bytes may become, so it is looked at before it is used: items that take no bytes could be without end.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm};
use serde_json::Value as Json;

use crate::Error;
use crate::change_stream::message::Unread;
use crate::change_stream::registry::Registry;

/// Largest file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Largest value of a `fixed` type; a null among them takes as much.
const MAX_FIXED_BYTES: u64 = 1 << 16;
/// Schemas of the registry that are remembered, unknown ones included.
const MAX_REMEMBERED: usize = 1_024;
/// How long an id that the registry does not know is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// How a message names its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SchemaName {
    /// By the id that a registry gave it.
    Id(u32),
    /// By the CRC-64-AVRO of its canonical form.
    Fingerprint(u64),
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaName::Id(id) => write!(f, "schema {id}"),
            SchemaName::Fingerprint(fingerprint) => write!(f, "the schema of fingerprint {fingerprint:016x}"),
        }
    }
}

/// Every schema that is known so far.
#[derive(Debug)]
pub(crate) struct AvroSchemas {
    files: HashMap<SchemaName, AvroSchema>,
    registry: Option<Registry>,
    /// What the registry said.
    remembered: HashMap<u32, Remembered>,
}

#[derive(Debug)]
enum Remembered {
    Schema(AvroSchema),
    Wrong { why: String, at: Instant },
}

impl AvroSchemas {
    /// Reads the files; the registry is asked when a message names an id that is none of theirs.
    pub(crate) fn open(files: &BTreeMap<String, PathBuf>, registry: &str) -> Result<AvroSchemas, Error> {
        let mut known = HashMap::new();
        for (id, path) in files {
            let refused = |reason: String| Error::source(path, reason);
            let id = id.parse().map_err(|_| refused(format!("\"{id}\" is no id of a schema")))?;
            let schema = checked(&read(path)?).map_err(refused)?;
            let fingerprint = schema.fingerprint(FingerprintAlgorithm::Rabin);
            match fingerprint.map_err(|error| refused(format!("it is no Avro schema: {error}")))? {
                Fingerprint::Rabin(fingerprint) => known.insert(SchemaName::Fingerprint(fingerprint), schema.clone()),
                other => return Err(refused(format!("it has a fingerprint of another kind, {other:?}"))),
            };
            known.insert(SchemaName::Id(id), schema);
        }
        let registry = if registry.is_empty() { None } else { Some(Registry::new(registry)?) };
        Ok(AvroSchemas { files: known, registry, remembered: HashMap::new() })
    }

    /// The schema of that name.
    pub(crate) fn find(&mut self, name: SchemaName) -> Result<AvroSchema, Unread> {
        if let Some(schema) = self.files.get(&name) {
            return Ok(schema.clone());
        }
        match (name, &self.registry) {
            (SchemaName::Id(id), Some(_)) => self.ask(id),
            _ => {
                let (mut ids, more) = (Vec::new(), "name its file in schemas");
                ids.extend(
                    self.files.keys().filter_map(|name| if let SchemaName::Id(id) = name { Some(*id) } else { None }),
                );
                ids.sort_unstable();
                Err(Unread::Wrong(format!("{name} is not known; known are the ids {ids:?}: {more}")))
            }
        }
    }

    fn ask(&mut self, id: u32) -> Result<AvroSchema, Unread> {
        let now = Instant::now();
        match self.remembered.get(&id) {
            Some(Remembered::Schema(schema)) => return Ok(schema.clone()),
            Some(Remembered::Wrong { why, at }) if now.duration_since(*at) < UNKNOWN_FOR => {
                return Err(Unread::Wrong(why.clone()));
            }
            _ => {}
        }
        let Some(registry) = &self.registry else { return Err(Unread::wrong("there is no schema registry")) };
        let text = registry.schema(id);
        let schema = text.and_then(|text| checked(&text).map_err(|why| Unread::Wrong(format!("schema {id}: {why}"))));
        let remember = match &schema {
            Ok(schema) => Remembered::Schema(schema.clone()),
            Err(Unread::Wrong(why)) => Remembered::Wrong { why: why.clone(), at: now },
            Err(Unread::Later(_)) => return schema,
        };
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(id, remember);
        schema
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::metadata(path).map_err(Error::disk("read", path))?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(Error::source(path, format!("{bytes} bytes; a schema has at most {MAX_FILE_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(Error::disk("read", path))
}

/// A schema of a record, without types of which a few bytes could be any number of values.
fn checked(text: &str) -> Result<AvroSchema, String> {
    let schema: Json = serde_json::from_str(text).map_err(|error| format!("it is no Avro schema: {error}"))?;
    if schema.get("type").and_then(Json::as_str) != Some("record") {
        return Err("it is the schema of no record; a row is one".to_owned());
    }
    takes_bytes(&schema, &mut HashMap::new())?;
    Ok(AvroSchema::new(text.to_owned()))
}

/// Whether a value of a type takes bytes; or what is wrong with the type. `named` says so of the types with a name that came before.
fn takes_bytes(schema: &Json, named: &mut HashMap<String, bool>) -> Result<bool, String> {
    match schema {
        Json::String(name) => Ok(name != "null" && named.get(name).copied().unwrap_or(true)),
        // The branch of a union takes a byte.
        Json::Array(branches) => {
            branches.iter().try_for_each(|branch| takes_bytes(branch, named).map(drop)).map(|()| true)
        }
        Json::Object(object) => {
            let inner = |key: &str| object.get(key).unwrap_or(&Json::Null);
            let kind = inner("type");
            let takes = match kind.as_str() {
                Some("array") if !takes_bytes(inner("items"), named)? => {
                    return Err("items of an array that take no bytes could be without end".to_owned());
                }
                Some("map") => takes_bytes(inner("values"), named).map(|_| true)?,
                Some("fixed") => match inner("size").as_u64() {
                    Some(size) if size <= MAX_FIXED_BYTES => size > 0,
                    _ => return Err(format!("a fixed type has at most {MAX_FIXED_BYTES} bytes")),
                },
                Some("record") => {
                    // What refers to a record within itself takes bytes somewhere, or there would be no value of it.
                    named.extend(names_of(object).map(|name| (name, true)));
                    let fields = inner("fields").as_array().map_or(&[][..], Vec::as_slice);
                    let mut any = false;
                    for field in fields {
                        any |= takes_bytes(field.get("type").unwrap_or(&Json::Null), named)?;
                    }
                    any
                }
                _ => takes_bytes(kind, named)?,
            };
            named.extend(names_of(object).map(|name| (name, takes)));
            Ok(takes)
        }
        _ => Ok(true),
    }
}

/// A type's name, by itself and in its namespace.
fn names_of(object: &serde_json::Map<String, Json>) -> impl Iterator<Item = String> {
    let text = |key: &str| object.get(key).and_then(Json::as_str).map(str::to_owned);
    let name = text("name");
    let full = name.as_ref().zip(text("namespace")).map(|(name, space)| format!("{space}.{name}"));
    name.into_iter().chain(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_field(field: &str) -> Result<AvroSchema, String> {
        checked(&format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "f", "type": {field}}}]}}"#))
    }

    #[test]
    fn items_without_bytes_are_refused_wherever_they_are() {
        for field in [
            r#"{"type": "array", "items": "null"}"#,
            r#"{"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}"#,
            r#"["null", {"type": "array", "items": {"type": "record", "name": "E", "fields": []}}]"#,
            r#"{"type": "map", "values": {"type": "array", "items": {"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}}}"#,
            r#"{"type": "record", "name": "O", "fields": [
                {"name": "e", "type": {"type": "record", "namespace": "a", "name": "E", "fields": []}},
                {"name": "l", "type": {"type": "array", "items": "a.E"}}]}"#,
        ] {
            let message = of_field(field).unwrap_err();
            assert!(message.contains("take no bytes"), "{field}: {message}");
        }
        for field in [
            r#""null""#,
            r#"{"type": "array", "items": ["null", "long"]}"#,
            r#"{"type": "array", "items": {"type": "array", "items": "string"}}"#,
            r#"{"type": "long", "logicalType": "timestamp-millis"}"#,
            r#"{"type": "enum", "name": "T", "symbols": ["A"]}"#,
        ] {
            of_field(field).unwrap();
        }
    }

    #[test]
    fn what_is_no_schema_of_a_row_is_refused() {
        for (text, says) in [
            ("{", "no Avro schema"),
            ("\"string\"", "no record"),
            (r#"{"type": "array", "items": "string"}"#, "no record"),
        ] {
            assert!(checked(text).unwrap_err().contains(says), "{text}");
        }
        assert!(
            of_field(r#"{"type": "fixed", "name": "F", "size": 2147483647}"#).unwrap_err().contains("at most 65536")
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent.avsc");
        let message = AvroSchemas::open(&[("7".to_owned(), path)].into(), "").unwrap_err().to_string();
        assert!(message.contains("absent.avsc"), "{message}");
    }
}
