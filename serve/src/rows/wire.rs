//! The rows of a message, and refusals inside a stream. What rows may hold is the business of `larder_ingest::changes`.

use larder_ingest::{Row, Value, changes};
use larder_store::ViewConfig;

use crate::error::Refusal;
use crate::rows::Batch;
use crate::v1;
use crate::v1::value::Kind;

/// The batch of a message's rows.
pub(super) fn batch(rows: Vec<v1::Row>, views: &[ViewConfig], now_ms: i64) -> Result<Batch, Refusal> {
    if rows.is_empty() {
        return Err(Refusal::Invalid("rows is empty; a batch has at least one".to_owned()));
    }
    let changes = changes(rows.into_iter().map(row).collect(), views, now_ms);
    Ok(Batch { changes: changes.map_err(|wrong| Refusal::Invalid(wrong.to_string()))? })
}

/// A refusal inside a stream, where it must not end the stream.
pub(super) fn failure(sequence: u64, refusal: &Refusal) -> v1::WriteRowsReply {
    let retry_after_ms = refusal.retry_after().map_or(0, |retry| u32::try_from(retry.as_millis()).unwrap_or(u32::MAX));
    let failure = v1::Failure {
        request_id: String::new(),
        code: refusal.code().0 as i32,
        message: refusal.to_string(),
        retry_after_ms,
    };
    v1::WriteRowsReply { sequence, failure: Some(failure), ..v1::WriteRowsReply::default() }
}

fn row(row: v1::Row) -> Row {
    let v1::Row { view, entity, event_time_ms, features, delete } = row;
    let features = features.into_iter().map(|(name, feature)| (name, value(feature))).collect();
    Row { view, entity, event_time_ms, features, delete }
}

fn value(value: v1::Value) -> Option<Value> {
    Some(match value.kind? {
        Kind::BoolValue(flag) => Value::Bool(flag),
        Kind::IntValue(integer) => Value::Int(integer),
        Kind::DoubleValue(number) => Value::Double(number),
        Kind::StringValue(text) => Value::Text(text),
        Kind::TimestampMs(time) => Value::TimestampMs(time),
        Kind::List(list) => Value::List(list.values.into_iter().map(self::value).collect()),
    })
}

#[cfg(test)]
mod tests {
    use larder_store::{FeatureConfig, FeatureType, ViewKind};

    use super::*;

    fn profile() -> ViewConfig {
        ViewConfig {
            name: "profile".to_owned(),
            id: 1,
            kind: ViewKind::Latest,
            entity_key: "user_id".to_owned(),
            event_time: "updated_at".to_owned(),
            ttl_s: None,
            n: None,
            element_key: None,
            features: vec![FeatureConfig::new("vector", FeatureType::ListF32)],
        }
    }

    #[test]
    fn a_message_becomes_a_batch_or_is_refused_by_row() {
        let number = |kind| v1::Value { kind };
        let list = vec![number(Some(Kind::DoubleValue(0.5))), number(Some(Kind::IntValue(2)))];
        let vector = |kind| [("vector".to_owned(), number(Some(kind)))].into();
        let good = v1::Row {
            view: "profile".to_owned(),
            entity: "ada".to_owned(),
            event_time_ms: 5,
            features: vector(Kind::List(v1::ValueList { values: list })),
            delete: false,
        };
        let bad = v1::Row { features: vector(Kind::BoolValue(true)), ..good.clone() };
        assert_eq!(batch(vec![good.clone(), good.clone()], &[profile()], 9).unwrap().rows(), 2);
        let refusal = batch(vec![good, bad], &[profile()], 9).unwrap_err();
        assert_eq!(refusal.code().1, "invalid");
        assert!(refusal.to_string().starts_with("rows[1]: view profile, feature \"vector\""), "{refusal}");
        assert!(batch(Vec::new(), &[profile()], 9).unwrap_err().to_string().contains("at least one"));
    }
}
