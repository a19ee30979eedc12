//! A row as a JSON object, one on a line or in a message:
//! `{"view": "profile", "entity": "u0000042", "event_time_ms": 1795157941000, "features": {"name": "Ada"}, "delete": false}`.

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::rows::{Row, Value};

/// A line, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    view: Option<String>,
    entity: String,
    #[serde(default)]
    event_time_ms: Option<i64>,
    #[serde(default)]
    features: Map<String, Json>,
    #[serde(default)]
    delete: bool,
}

impl Row {
    /// Reads a row that names its view and its event time, or is of these.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_json(text: &[u8], view: &str, event_time_ms: i64) -> Result<Row, String> {
        let line: Line = serde_json::from_slice(text).map_err(|error| told(&error.to_string()))?;
        let view = line.view.unwrap_or_else(|| view.to_owned());
        let named = |(name, json): (String, Json)| {
            let read = value(json);
            let wrong = || format!("feature \"{name}\": an object, or a number too large for 64 bits");
            read.ok_or_else(wrong).map(|value| (name, value))
        };
        Ok(Row {
            view,
            entity: line.entity,
            event_time_ms: line.event_time_ms.unwrap_or(event_time_ms),
            features: line.features.into_iter().map(named).collect::<Result<_, _>>()?,
            delete: line.delete,
        })
    }
}

/// What serde says of a wrong line, without the value that it found.
fn told(error: &str) -> String {
    let (found, expected) = error.rsplit_once(", expected ").unwrap_or((error, ""));
    let kind = found.strip_prefix("invalid type: ").and_then(|found| found.split(' ').next());
    kind.map_or_else(|| error.to_owned(), |kind| format!("found {kind}; expected {expected}"))
}

/// The value, which may be null, unless no feature can have it.
fn value(json: Json) -> Option<Option<Value>> {
    Some(Some(match json {
        Json::Null => return Some(None),
        Json::Bool(flag) => Value::Bool(flag),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Int(integer),
            None if number.is_u64() => return None,
            None => Value::Double(number.as_f64()?),
        },
        Json::String(text) => Value::Text(text),
        Json::Array(values) => Value::List(values.into_iter().map(value).collect::<Option<_>>()?),
        Json::Object(_) => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_row() {
        let text = br#"{"entity": "ada", "event_time_ms": 5, "features": {"name": "Ada", "points": 3, "rate": 0.5, "gone": null, "v": [1, 2.5]}}"#;
        let row = Row::from_json(text, "profile", 9).unwrap();
        let list = vec![Some(Value::Int(1)), Some(Value::Double(2.5))];
        let features = [
            ("gone", None),
            ("name", Some(Value::Text("Ada".to_owned()))),
            ("points", Some(Value::Int(3))),
            ("rate", Some(Value::Double(0.5))),
            ("v", Some(Value::List(list))),
        ];
        let features = features.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let (view, entity) = ("profile".to_owned(), "ada".to_owned());
        assert_eq!(row, Row { view, entity, event_time_ms: 5, features, delete: false });
        let gone = Row::from_json(br#"{"view": "orders", "entity": "ada", "delete": true}"#, "profile", 9).unwrap();
        assert_eq!((gone.view.as_str(), gone.event_time_ms, gone.delete), ("orders", 9, true));
    }

    #[test]
    fn what_is_no_row_is_told() {
        for (text, says) in [
            (r#"{"entity": "ada", "colour": "red"}"#, "unknown field `colour`"),
            (r#"{"view": "profile"}"#, "missing field `entity`"),
            (r#"{"entity": "ada", "features": {"name": {"first": "Ada"}}}"#, "feature \"name\": an object"),
            (r#"{"entity": "ada", "features": {"n": 18446744073709551615}}"#, "feature \"n\""),
            (r#"{"entity": ["a secret"]}"#, "found sequence; expected a string"),
            (r#"{"entity": "ada", "event_time_ms": "a secret, expected"}"#, "found string; expected i64"),
            ("not json", "expected"),
        ] {
            let message = Row::from_json(text.as_bytes(), "profile", 9).unwrap_err();
            assert!(message.contains(says) && !message.contains("secret"), "{message:?} does not say {says:?}");
        }
        // As deep as bytes can say it, and no stack ends.
        let deep = format!(r#"{{"entity": "ada", "features": {{"v": {}"#, "[".repeat(100_000));
        assert!(Row::from_json(deep.as_bytes(), "profile", 9).is_err());
    }
}
