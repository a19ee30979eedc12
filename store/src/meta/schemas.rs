//! The records of the schemas that live rows have, without which they could not be read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::live::StoredSchemas;
use crate::manifest::StoredSchema;
use crate::meta::{SCHEMA, encode, numbered_key, numbers, read};
use crate::plan::View;
use crate::schema;
use crate::warm::Warm;

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

    pub(super) fn decode(found_key: &[u8], bytes: &[u8]) -> Result<(u32, SchemaRecord), String> {
        let (view, fingerprint) = numbers(found_key)?;
        let name = format!("the schema record {fingerprint:08x} of view id {view}");
        let record: SchemaRecord = read(bytes, &name)?;
        if schema::fingerprint(&record.schema.features) != fingerprint || record.view_id != view {
            return Err(format!("{name} holds another schema"));
        }
        Ok((fingerprint, record))
    }
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
