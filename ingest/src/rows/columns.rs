//! Rows as columns that the store takes. What does not fit the views' declarations is refused here, by row and column and with what is expected;
//! feature values are never part of a message.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::Float32Type;
use larder_store::{FeatureConfig, FeatureType, MAX_AHEAD_MS, MAX_ENTITY_BYTES, ViewConfig, ViewKind, WriteKind};

use crate::rows::{Changes, Row, Value, WrongRow};

/// Integers that every double up to them can tell apart, and every float.
const EXACT_IN_DOUBLE: u64 = 1 << 53;
const EXACT_IN_FLOAT: u64 = 1 << 24;

/// The changes that rows of any views are, in their order as far as it matters. `now_ms` bounds event times.
///
/// # Errors
/// Names the first row that does not fit its view, and says how.
pub fn changes(rows: Vec<Row>, views: &[ViewConfig], now_ms: i64) -> Result<Vec<Changes>, WrongRow> {
    // Of one view rows and deletions stay in order, since of equal event times the last one written stands.
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut latest: HashMap<u16, usize> = HashMap::new();
    for (number, row) in rows.into_iter().enumerate() {
        let view = find_view(views, number, &row.view)?;
        let kind = if row.delete { WriteKind::Delete } else { WriteKind::Upsert };
        let same = latest.get(&view.id).copied().filter(|at| parts[*at].kind == kind);
        let at = same.unwrap_or(parts.len());
        if same.is_none() {
            parts.push(Part::new(view, kind));
            latest.insert(view.id, at);
        }
        parts[at].add(number, row, now_ms)?;
    }
    parts.into_iter().map(Part::changes).collect()
}

fn find_view<'a>(views: &'a [ViewConfig], number: usize, name: &str) -> Result<&'a ViewConfig, WrongRow> {
    views.iter().find(|view| view.name == name).ok_or_else(|| {
        let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
        wrong(number, format!("view \"{name}\" is not declared; declared are {}", names.join(", ")))
    })
}

fn wrong(number: usize, reason: impl Into<String>) -> WrongRow {
    WrongRow { number, reason: reason.into() }
}

/// Rows, or deletions, of one view, one after the other.
struct Part<'a> {
    view: &'a ViewConfig,
    kind: WriteKind,
    /// The features that its rows may name: of a deletion only what tells an element.
    features: Vec<&'a FeatureConfig>,
    /// Their positions, by present and former names.
    names: HashMap<&'a str, usize>,
    rows: Vec<Placed>,
}

/// A row whose values have found their features.
struct Placed {
    number: usize,
    entity: String,
    event_time_ms: i64,
    /// As many as there are features.
    values: Vec<Option<Value>>,
}

impl<'a> Part<'a> {
    fn new(view: &'a ViewConfig, kind: WriteKind) -> Part<'a> {
        let element = |feature: &&FeatureConfig| Some(&feature.name) == view.element_key.as_ref();
        let features: Vec<_> = match kind {
            WriteKind::Upsert => view.features.iter().collect(),
            WriteKind::Delete => view.features.iter().filter(element).collect(),
        };
        let named = |(at, feature): (usize, &&'a FeatureConfig)| {
            let feature: &'a FeatureConfig = feature;
            names_of(feature).map(move |name| (name.as_str(), at))
        };
        let names = features.iter().enumerate().flat_map(named).collect();
        Part { view, kind, features, names, rows: Vec::new() }
    }

    /// Checks everything of a row but its values.
    fn add(&mut self, number: usize, row: Row, now_ms: i64) -> Result<(), WrongRow> {
        let view = self.view;
        let length = row.entity.len();
        if !(1..=MAX_ENTITY_BYTES).contains(&length) {
            let name = &view.entity_key;
            let reason = format!("entity ({name}) has {length} bytes; 1 to {MAX_ENTITY_BYTES} are allowed");
            return Err(wrong(number, reason));
        }
        let time = row.event_time_ms;
        if time > now_ms.saturating_add(MAX_AHEAD_MS) {
            let expected = "milliseconds since 1970 are expected";
            let reason = format!("event_time_ms = {time} is more than a day ahead of now, {now_ms}; {expected}");
            return Err(wrong(number, reason));
        }
        let mut values = vec![None; self.features.len()];
        let mut named: Vec<Option<String>> = vec![None; self.features.len()];
        for (name, value) in row.features {
            let Some(&feature) = self.names.get(name.as_str()) else {
                return Err(wrong(number, self.unknown(&name)));
            };
            if let Some(other) = &named[feature] {
                let view = &view.name;
                let reason = format!("view {view}: \"{other}\" and \"{name}\" are the same feature; give one");
                return Err(wrong(number, reason));
            }
            values[feature] = value;
            named[feature] = Some(name);
        }
        self.rows.push(Placed { number, entity: row.entity, event_time_ms: time, values });
        Ok(())
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<&str> = self.features.iter().map(|feature| feature.name.as_str()).collect();
        let view = &self.view.name;
        match (self.kind, names.join(", ").as_str()) {
            (WriteKind::Upsert, names) => format!("view {view} has no feature \"{name}\"; it has {names}"),
            (WriteKind::Delete, "") => {
                format!("a deletion in view {view} names no features, and this names \"{name}\"")
            }
            (WriteKind::Delete, key) => {
                format!("a deletion in view {view} names the element by {key} or nothing, and this names \"{name}\"")
            }
        }
    }

    fn changes(mut self) -> Result<Changes, WrongRow> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.features.len() + 2);
        columns.push(Arc::new(StringArray::from_iter_values(self.rows.iter().map(|row| &row.entity))));
        let times = TimestampMillisecondArray::from_iter_values(self.rows.iter().map(|row| row.event_time_ms));
        columns.push(Arc::new(times.with_timezone("UTC")));
        for (at, feature) in std::mem::take(&mut self.features).into_iter().enumerate() {
            let column = Column { view: self.view, feature, at, must: self.must_have(feature) };
            columns.push(column.build(&mut self.rows)?);
        }
        let schema = match self.kind {
            WriteKind::Upsert => self.view.arrow_schema(),
            WriteKind::Delete => self.view.deletion_schema(),
        };
        let first = self.rows.first().map_or(0, |row| row.number);
        let rows = RecordBatch::try_new(schema, columns)
            .map_err(|error| wrong(first, format!("the rows of view {} are no columns: {error}", self.view.name)))?;
        Ok(Changes { view: self.view.name.clone(), kind: self.kind, rows })
    }

    /// A history's element must be told from others.
    fn must_have(&self, feature: &FeatureConfig) -> bool {
        self.kind == WriteKind::Upsert
            && self.view.kind == ViewKind::LastN
            && self.view.element_key.as_ref() == Some(&feature.name)
    }
}

/// What a feature may be called.
fn names_of(feature: &FeatureConfig) -> impl Iterator<Item = &String> {
    std::iter::once(&feature.name).chain(&feature.former_names)
}

/// One feature of a part.
struct Column<'a> {
    view: &'a ViewConfig,
    feature: &'a FeatureConfig,
    /// Its place among the values of a row.
    at: usize,
    /// Null is refused.
    must: bool,
}

impl Column<'_> {
    fn build(&self, rows: &mut [Placed]) -> Result<ArrayRef, WrongRow> {
        Ok(match self.feature.data_type {
            FeatureType::Bool => {
                Arc::new(BooleanArray::from(self.values(rows, "a bool_value", |value| boolean(&value))?))
            }
            FeatureType::I32 => {
                Arc::new(Int32Array::from(self.values(rows, "an int_value of 32 bits", |value| i32_of(&value))?))
            }
            FeatureType::I64 => Arc::new(Int64Array::from(self.values(rows, "an int_value", |value| i64_of(&value))?)),
            FeatureType::F32 => {
                Arc::new(Float32Array::from(
                    self.values(rows, "a double_value in the range of 32 bits", |value| f32_of(&value))?,
                ))
            }
            FeatureType::F64 => {
                Arc::new(Float64Array::from(self.values(rows, "a double_value", |value| f64_of(&value))?))
            }
            FeatureType::Utf8 => Arc::new(StringArray::from(self.values(rows, "a string_value", text)?)),
            FeatureType::Timestamp => {
                let times = self.values(rows, "a timestamp_ms", |value| time(&value))?;
                Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC"))
            }
            FeatureType::ListF32 => {
                let lists =
                    self.values(rows, "a list of double_values in the range of 32 bits, none of them null", list)?;
                Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))
            }
        })
    }

    /// The values of a column; what is left out is null.
    fn values<T>(
        &self,
        rows: &mut [Placed],
        expected: &str,
        read: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<Option<T>>, WrongRow> {
        let Column { view, feature, at, must } = self;
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            let column = || format!("view {}, feature \"{}\" ({})", view.name, feature.name, feature.data_type);
            values.push(match row.values[*at].take() {
                Some(value) => {
                    let found = value.name();
                    let reason = || wrong(row.number, format!("{}: found {found}; {expected} is expected", column()));
                    Some(read(value).ok_or_else(reason)?)
                }
                None if *must => {
                    return Err(wrong(row.number, format!("{} is null; it tells the element from others", column())));
                }
                None => None,
            });
        }
        Ok(values)
    }
}

fn boolean(value: &Value) -> Option<bool> {
    if let Value::Bool(value) = value { Some(*value) } else { None }
}

fn i64_of(value: &Value) -> Option<i64> {
    if let Value::Int(value) = value { Some(*value) } else { None }
}

fn i32_of(value: &Value) -> Option<i32> {
    i64_of(value).and_then(|value| value.try_into().ok())
}

fn f64_of(value: &Value) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::Int(value) if value.unsigned_abs() <= EXACT_IN_DOUBLE => Some(*value as f64),
        _ => None,
    }
}

fn f32_of(value: &Value) -> Option<f32> {
    match value {
        // JSON and most languages know no other floats, so the nearest is taken; one that is too large is not.
        Value::Double(value) => Some(*value as f32).filter(|float| float.is_finite() || !value.is_finite()),
        Value::Int(value) if value.unsigned_abs() <= EXACT_IN_FLOAT => Some(*value as f32),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    if let Value::Text(value) = value { Some(value) } else { None }
}

fn time(value: &Value) -> Option<i64> {
    match value {
        Value::TimestampMs(value) | Value::Int(value) => Some(*value),
        _ => None,
    }
}

fn list(value: Value) -> Option<Vec<Option<f32>>> {
    let Value::List(values) = value else { return None };
    // Of a list in which one value does not fit, none is taken.
    values.into_iter().map(|value| value.as_ref().and_then(f32_of).map(Some)).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float64Type, Int32Type};

    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn views() -> Vec<ViewConfig> {
        let mut paid = FeatureConfig::new("paid", FeatureType::F64);
        paid.former_names = vec!["total".to_owned()];
        let features = vec![
            FeatureConfig::new("order_id", FeatureType::Utf8),
            paid,
            FeatureConfig::new("items", FeatureType::I32),
            FeatureConfig::new("vector", FeatureType::ListF32),
        ];
        let orders = ViewConfig {
            name: "orders".to_owned(),
            id: 2,
            kind: ViewKind::LastN,
            entity_key: "user_id".to_owned(),
            event_time: "updated_at".to_owned(),
            ttl_s: None,
            n: Some(3),
            element_key: Some("order_id".to_owned()),
            features,
        };
        let profile = ViewConfig {
            name: "profile".to_owned(),
            id: 1,
            kind: ViewKind::Latest,
            n: None,
            element_key: None,
            features: vec![FeatureConfig::new("name", FeatureType::Utf8)],
            ..orders.clone()
        };
        vec![orders, profile]
    }

    fn row(view: &str, features: &[(&str, Value)]) -> Row {
        let features = features.iter().map(|(name, value)| ((*name).to_owned(), Some(value.clone()))).collect();
        Row { view: view.to_owned(), entity: "ada".to_owned(), event_time_ms: 5, features, delete: false }
    }

    fn text_of(value: &str) -> Value {
        Value::Text(value.to_owned())
    }

    #[test]
    fn rows_become_columns_of_their_views() {
        let list = Value::List([1.5, 2.0].map(|number| Some(Value::Double(number))).to_vec());
        let full = row("orders", &[("order_id", text_of("a")), ("total", Value::Int(7)), ("vector", list)]);
        let bare = row("orders", &[("order_id", text_of("b")), ("items", Value::Int(3))]);
        let gone = Row { delete: true, ..row("orders", &[]) };
        let name = row("profile", &[("name", text_of("Ada"))]);
        let changes = changes(vec![full, name, bare.clone(), gone, bare], &views(), NOW_MS).unwrap();
        let parts: Vec<_> = changes.iter().map(|part| (part.view.as_str(), part.kind, part.rows.num_rows())).collect();
        let (orders, delete, upsert) = ("orders", WriteKind::Delete, WriteKind::Upsert);
        assert_eq!(parts, [(orders, upsert, 2), ("profile", upsert, 1), (orders, delete, 1), (orders, upsert, 1)]);
        let rows = &changes[0].rows;
        let paid = rows["paid"].as_primitive::<Float64Type>();
        assert_eq!((paid.value(0), paid.is_null(1)), (7.0, true), "by its former name");
        assert_eq!(rows["items"].as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [None, Some(3)]);
        assert_eq!(rows["vector"].as_list::<i32>().value(0).as_primitive::<Float32Type>().values(), &[1.5, 2.0]);
        assert!(changes[2].rows.column(2).is_null(0), "all elements");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_row_and_column() {
        let good = || row("orders", &[("order_id", text_of("a"))]);
        let with = |name: &str, value: Value| row("orders", &[("order_id", text_of("a")), (name, value)]);
        let null = Value::List(vec![None]);
        for (bad, says) in [
            (row("basket", &[]), vec!["view \"basket\" is not declared", "orders, profile"]),
            (row("orders", &[]), vec!["\"order_id\" (utf8) is null", "tells the element"]),
            (with("color", text_of("red")), vec!["no feature \"color\"", "order_id, paid, items, vector"]),
            (with("items", text_of("3")), vec!["\"items\" (i32)", "found a string_value", "int_value of 32 bits"]),
            (with("items", Value::Int(1 << 31)), vec!["\"items\" (i32)", "int_value of 32 bits"]),
            (with("paid", Value::Int(i64::MAX)), vec!["\"paid\" (f64)", "a double_value is expected"]),
            (with("vector", null), vec!["\"vector\" (list_f32)", "none of them null"]),
            (Row { entity: String::new(), ..good() }, vec!["entity (user_id) has 0 bytes"]),
            (Row { entity: "x".repeat(257), ..good() }, vec!["257 bytes; 1 to 256"]),
            (Row { event_time_ms: i64::MAX, ..good() }, vec!["more than a day ahead"]),
            (Row { delete: true, ..with("items", Value::Int(1)) }, vec!["a deletion", "order_id or nothing"]),
            (row("orders", &[("total", Value::Int(1)), ("paid", Value::Int(1))]), vec!["are the same feature"]),
        ] {
            let message = changes(vec![good(), bad], &views(), NOW_MS).unwrap_err().to_string();
            assert!(message.starts_with("rows[1]: "), "{message}");
            for part in says {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
        assert_eq!(changes(Vec::new(), &views(), NOW_MS), Ok(Vec::new()));
    }
}
