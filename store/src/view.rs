//! How a view is declared: its name, keys, time to live and typed features. A view is one kind of row about one kind of entity; the
//! declaration is read from the configuration, checked here once, and never guessed from data.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Most features one view may declare.
pub const MAX_FEATURES: usize = 1024;
/// Most former names one feature may declare.
pub const MAX_FORMER_NAMES: usize = 16;
/// Longest name of a view or feature, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Largest `n` of a `last_n` view.
pub const MAX_N: u32 = 1000;

/// The tenant that a row belongs to. Part of every key and every cache key, so that no request reaches another tenant's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub u32);

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many rows a view keeps for one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewKind {
    /// One row: the one with the newest event time.
    Latest,
    /// The newest `n` elements, newest first; equal event times are ordered by element key, the greater first.
    LastN,
}

/// The type of a feature, in the store and in the Arrow columns that a fetch returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureType {
    /// True or false.
    Bool,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// UTF-8 text.
    Utf8,
    /// A point in time, Unix milliseconds UTC.
    Timestamp,
    /// A list of 32-bit floats without nulls, such as an embedding.
    ListF32,
}

impl FeatureType {
    /// The Arrow type of this feature's column.
    pub fn arrow_type(self) -> DataType {
        match self {
            FeatureType::Bool => DataType::Boolean,
            FeatureType::I32 => DataType::Int32,
            FeatureType::I64 => DataType::Int64,
            FeatureType::F32 => DataType::Float32,
            FeatureType::F64 => DataType::Float64,
            FeatureType::Utf8 => DataType::Utf8,
            FeatureType::Timestamp => timestamp_type(),
            FeatureType::ListF32 => DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true))),
        }
    }
}

impl fmt::Display for FeatureType {
    /// The name used in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FeatureType::Bool => "bool",
            FeatureType::I32 => "i32",
            FeatureType::I64 => "i64",
            FeatureType::F32 => "f32",
            FeatureType::F64 => "f64",
            FeatureType::Utf8 => "utf8",
            FeatureType::Timestamp => "timestamp",
            FeatureType::ListF32 => "list_f32",
        })
    }
}

pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// One declared feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureConfig {
    /// Unique within the view; the name of the column in snapshots.
    pub name: String,
    /// The feature's type. While rows of another type are kept it may only widen, i32 to i64 or f64 and f32 to f64: a changed meaning
    /// wants a new name.
    #[serde(rename = "type")]
    pub data_type: FeatureType,
    /// What the feature was called before, the latest first. Rows and snapshots that know it only by such a name are read all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_names: Vec<String>,
}

impl FeatureConfig {
    /// A feature that has always had this name.
    pub fn new(name: impl Into<String>, data_type: FeatureType) -> FeatureConfig {
        FeatureConfig { name: name.into(), data_type, former_names: Vec::new() }
    }
}

/// One declared view (`[[view]]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// Unique name, used in `view:feature` references.
    pub name: String,
    /// Unique number, written into every key. It must not change once rows are published.
    pub id: u16,
    /// One row or the newest `n` elements per entity.
    pub kind: ViewKind,
    /// The snapshot's column that names the entity.
    pub entity_key: String,
    /// The snapshot's column that says when a row became true.
    pub event_time: String,
    /// Seconds after its event time at which a row (an element of a `last_n` view) stops being visible. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// `last_n` only: how many elements are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// `last_n` only: the feature that identifies an element. A newer row with the same value replaces the older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element_key: Option<String>,
    /// The features, in the order of their columns.
    pub features: Vec<FeatureConfig>,
}

impl ViewConfig {
    /// The canonical batch of this view: the entity (Utf8, named `entity_key`), the event time (Timestamp in ms UTC, named
    /// `event_time`), then the features in declared order. Entity and event time are never null, features may be.
    pub fn arrow_schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new(&self.entity_key, DataType::Utf8, false),
            Field::new(&self.event_time, timestamp_type(), false),
        ];
        fields.extend(
            self.features.iter().map(|feature| Field::new(&feature.name, feature.data_type.arrow_type(), true)),
        );
        Arc::new(Schema::new(fields))
    }

    /// The batch of a delta snapshot: that of [`arrow_schema`](ViewConfig::arrow_schema), and behind it a Boolean that is true of a deletion. Of a
    /// deletion only the keys are looked at; in a `last_n` view its element key is null for all elements.
    pub fn change_schema(&self) -> SchemaRef {
        let mut fields = self.arrow_schema().fields().to_vec();
        fields.push(Arc::new(Field::new("deleted", DataType::Boolean, false)));
        Arc::new(Schema::new(fields))
    }

    /// The batch of a deletion: the entity, the event time, and for `last_n` the element key, null for all elements.
    pub fn deletion_schema(&self) -> SchemaRef {
        let columns = self.arrow_schema();
        let element = self.element_key.as_ref().and_then(|name| columns.index_of(name).ok());
        let fields: Vec<_> = [0, 1].into_iter().chain(element).map(|index| columns.field(index).clone()).collect();
        Arc::new(Schema::new(fields))
    }

    /// Checks the declaration.
    ///
    /// # Errors
    /// [`Error::FixConfig`] names the view, the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        check_name("view.name", &self.name)?;
        let at = |setting: &str| format!("view {}: {setting}", self.name);
        for (setting, column) in [("entity_key", &self.entity_key), ("event_time", &self.event_time)] {
            if column.is_empty() {
                return Err(Error::config(at(setting), "\"\"", "must name a column"));
            }
        }
        if self.ttl_s == Some(0) {
            let allowed = "must be at least 1; leave it out for rows that never expire";
            return Err(Error::config(at("ttl_s"), 0, allowed));
        }
        if self.features.is_empty() || self.features.len() > MAX_FEATURES {
            let allowed = format!("a view has 1 to {MAX_FEATURES} features");
            let found = format!("{} features", self.features.len());
            return Err(Error::config(at("features"), found, allowed));
        }
        self.validate_names()?;
        self.validate_kind()
    }

    /// No name may mean two things, former names included: rows are still kept under them.
    fn validate_names(&self) -> Result<(), Error> {
        let at = |setting: &str| format!("view {}: {setting}", self.name);
        let mut taken = HashSet::from([self.entity_key.as_str()]);
        if !taken.insert(&self.event_time) {
            let allowed = "must be another column than entity_key";
            return Err(Error::config(at("event_time"), &self.event_time, allowed));
        }
        for feature in &self.features {
            if feature.former_names.len() > MAX_FORMER_NAMES {
                let found = format!("{} names", feature.former_names.len());
                let allowed = format!("a feature has at most {MAX_FORMER_NAMES} former names");
                return Err(Error::config(at(&format!("former_names of {}", feature.name)), found, allowed));
            }
            let former = feature.former_names.iter().map(|name| ("former_names", name));
            for (setting, name) in std::iter::once(("feature name", &feature.name)).chain(former) {
                check_name(&at(setting), name)?;
                if !taken.insert(name) {
                    let allowed = "must be unique among the features, their former names, entity_key and event_time";
                    return Err(Error::config(at(setting), name, allowed));
                }
            }
        }
        Ok(())
    }

    fn validate_kind(&self) -> Result<(), Error> {
        let at = |setting: &str| format!("view {}: {setting}", self.name);
        match self.kind {
            ViewKind::Latest => {
                if let Some(n) = self.n {
                    return Err(Error::config(at("n"), n, "only a last_n view has n"));
                }
                match &self.element_key {
                    Some(key) => {
                        let allowed = "only a last_n view has element_key";
                        Err(Error::config(at("element_key"), key, allowed))
                    }
                    None => Ok(()),
                }
            }
            ViewKind::LastN => {
                if !self.n.is_some_and(|n| (1..=MAX_N).contains(&n)) {
                    let found = self.n.map_or("nothing".to_string(), |n| n.to_string());
                    let allowed = format!("a last_n view needs n between 1 and {MAX_N}");
                    return Err(Error::config(at("n"), found, allowed));
                }
                let key = self.element_key.as_deref().unwrap_or("nothing");
                let identifies = |t| matches!(t, FeatureType::Utf8 | FeatureType::I32 | FeatureType::I64);
                if !self.features.iter().any(|feature| feature.name == key && identifies(feature.data_type)) {
                    let allowed = "a last_n view needs the name of a feature of type utf8, i32 or i64";
                    return Err(Error::config(at("element_key"), key, allowed));
                }
                Ok(())
            }
        }
    }

    /// The time to live in milliseconds.
    pub(crate) fn ttl_ms(&self) -> Option<i64> {
        let ms = self.ttl_s?.saturating_mul(1000);
        Some(i64::try_from(ms).unwrap_or(i64::MAX))
    }
}

/// Checks that a batch has exactly the columns expected of it.
pub(crate) fn check_columns(view: &str, expected: &Schema, found: &Schema) -> Result<(), Error> {
    let same = |a: &Field, b: &Field| a.name() == b.name() && a.data_type() == b.data_type();
    let (found, expected) = (found.fields(), expected.fields());
    if let Some((a, b)) = found.iter().zip(expected).find(|(a, b)| !same(a, b)) {
        return Err(Error::FixInput(format!(
            "column {} is {}, the view {view} expects column {} of type {} there",
            a.name(),
            a.data_type(),
            b.name(),
            b.data_type()
        )));
    }
    if found.len() != expected.len() {
        let (found, expected) = (found.len(), expected.len());
        return Err(Error::FixInput(format!(
            "{found} columns, the view {view} has {expected} with entity and event time"
        )));
    }
    Ok(())
}

/// Names end up in references (`view:feature`), metrics and messages, so they are plain.
fn check_name(key: &str, name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        let allowed = format!("must be 1 to {MAX_NAME_BYTES} of the characters a-z A-Z 0-9 _ - .");
        return Err(Error::config(key, format!("{name:?}"), allowed));
    }
    Ok(())
}

/// Checks each view and that no two share a name or a number.
pub(crate) fn validate_views(views: &[ViewConfig]) -> Result<(), Error> {
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    for view in views {
        view.validate()?;
        if !names.insert(&view.name) {
            return Err(Error::config("view.name", &view.name, "must be unique"));
        }
        if !ids.insert(view.id) {
            let key = format!("view {}: id", view.name);
            return Err(Error::config(key, view.id, "must be unique"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> ViewConfig {
        serde_json::from_str(
            r#"{"name": "orders", "id": 2, "kind": "last_n", "n": 20, "element_key": "order_id", "entity_key": "user_id",
                "event_time": "updated_at", "ttl_s": 60, "features": [
                  {"name": "order_id", "type": "utf8"}, {"name": "total", "type": "f64"}, {"name": "v", "type": "list_f32"}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_declaration_reads_and_becomes_an_arrow_schema() {
        let view = orders();
        view.validate().unwrap();
        let schema = view.arrow_schema();
        let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["user_id", "updated_at", "order_id", "total", "v"]);
        assert_eq!(view.ttl_ms(), Some(60_000));
    }

    #[test]
    fn former_names_are_left_out_where_there_are_none() {
        let mut view = orders();
        assert!(!serde_json::to_string(&view).unwrap().contains("former_names"));
        view.features[1].former_names = vec!["amount".into(), "sum".into()];
        view.validate().unwrap();
        let written = serde_json::to_string(&view).unwrap();
        assert!(written.contains(r#"{"name":"total","type":"f64","former_names":["amount","sum"]}"#), "{written}");
        assert_eq!(serde_json::from_str::<ViewConfig>(&written).unwrap(), view);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |change: fn(&mut ViewConfig), expected: &str| {
            let mut view = orders();
            change(&mut view);
            let message = view.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(|v| v.n = None, "view orders: n = nothing: a last_n view needs n between 1 and 1000");
        check(|v| v.n = Some(1001), "n = 1001");
        check(|v| v.element_key = Some("total".into()), "element_key = total");
        check(|v| v.kind = ViewKind::Latest, "only a last_n view has n");
        check(|v| v.ttl_s = Some(0), "ttl_s = 0");
        check(|v| v.features.clear(), "0 features");
        check(|v| v.features[1].name = "order_id".into(), "must be unique");
        check(|v| v.features[1].name = "user_id".into(), "must be unique");
        check(|v| v.features[1].name = "a:b".into(), "\"a:b\"");
        check(|v| v.event_time = "user_id".into(), "event_time");
        let unique = "must be unique among the features, their former names, entity_key and event_time";
        for taken in ["total", "order_id", "v", "user_id", "updated_at"] {
            let mut view = orders();
            view.features[1].former_names = vec!["sum".into(), taken.into()];
            let message = view.validate().unwrap_err().to_string();
            // The name that comes second is the one that is named: a feature's own after another's former one.
            let setting = if taken == "v" { "feature name" } else { "former_names" };
            assert_eq!(message, format!("view orders: {setting} = {taken}: {unique}"));
        }
        check(|v| v.features[1].former_names = vec!["a".into(), "a".into()], "former_names = a: must be unique");
        check(|v| v.features[1].former_names = vec!["a:b".into()], "former_names = \"a:b\": must be 1 to 128");
        check(
            |v| v.features[1].former_names = (0..17).map(|n| format!("total{n}")).collect(),
            "view orders: former_names of total = 17 names: a feature has at most 16 former names",
        );
        let twice = validate_views(&[orders(), orders()]).unwrap_err();
        assert!(twice.to_string().contains("unique"));
    }
}
