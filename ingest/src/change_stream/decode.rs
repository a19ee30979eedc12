//! From messages to changes of the stream's view. Messages are read together, because that is what is fast; where one of them is wrong, each is read
//! by itself, so that none pays for another's mistake.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use larder_store::{Shard, ViewConfig};

use crate::Error;
use crate::change_stream::avro::Avro;
use crate::change_stream::avro_schemas::AvroSchemas;
use crate::change_stream::config::{Format, StreamConfig};
use crate::change_stream::message::{Message, Unread};
use crate::change_stream::{arrow_stream, flagged};
use crate::rows::{Changes, Row, changes};

/// What reads the messages of a stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    format: Reader,
    view: ViewConfig,
    deletion_column: String,
    shard: Shard,
    max_message_bytes: usize,
}

#[derive(Debug)]
enum Reader {
    Json,
    Avro(Box<Avro>),
    Arrow,
}

/// What messages were.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// In the order of the messages.
    pub(crate) changes: Vec<Changes>,
    /// Messages that are no rows of the view, by their places, and why.
    pub(crate) wrong: Vec<(usize, String)>,
    /// Rows and deletions of other shards, which are left to their nodes.
    pub(crate) foreign: u64,
}

impl Decoder {
    /// Reads the schemas that the config names.
    pub(crate) fn open(config: &StreamConfig, view: &ViewConfig, shard: Shard) -> Result<Decoder, Error> {
        let format = match config.format {
            Format::Json => Reader::Json,
            Format::Avro => {
                Reader::Avro(Box::new(Avro::new(AvroSchemas::open(&config.schemas, &config.schema_registry)?)))
            }
            Format::Arrow => Reader::Arrow,
        };
        Ok(Decoder {
            format,
            view: view.clone(),
            deletion_column: config.deletion_column.clone(),
            shard,
            max_message_bytes: config.max_message_kib << 10,
        })
    }

    /// Reads messages; or says what is needed for it and not there now.
    pub(crate) fn decode(&mut self, messages: &[Message<'_>], now_ms: i64) -> Result<Decoded, String> {
        let mut decoded = Decoded::default();
        match self.together(messages, now_ms) {
            Ok(changes) => decoded.changes = changes,
            Err(Unread::Later(what)) => return Err(what),
            Err(Unread::Wrong(_)) => {
                for (at, message) in messages.iter().enumerate() {
                    match self.together(std::slice::from_ref(message), now_ms) {
                        Ok(changes) => decoded.changes.extend(changes),
                        Err(Unread::Later(what)) => return Err(what),
                        Err(Unread::Wrong(why)) => decoded.wrong.push((at, why)),
                    }
                }
                decoded.changes = joined(decoded.changes)?;
            }
        }
        if !self.shard.is_whole() {
            for part in &mut decoded.changes {
                decoded.foreign += keep_own(part, self.shard)?;
            }
        }
        decoded.changes.retain(|part| part.rows.num_rows() > 0);
        Ok(decoded)
    }

    /// Reads all of them or none.
    fn together(&mut self, messages: &[Message<'_>], now_ms: i64) -> Result<Vec<Changes>, Unread> {
        let most = self.max_message_bytes;
        let size = |message: &Message<'_>| message.payload.map_or(0, <[u8]>::len) + message.key.map_or(0, <[u8]>::len);
        if let Some(bytes) = messages.iter().map(size).find(|bytes| *bytes > most) {
            return Err(Unread::Wrong(format!("{bytes} bytes; a message has at most {most} (max_message_kib)")));
        }
        if matches!(self.format, Reader::Json) {
            return self.rows(messages, now_ms);
        }
        let mut all = Vec::new();
        for run in messages.chunk_by(|a, b| a.payload.is_some() == b.payload.is_some()) {
            let payloads: Vec<&[u8]> = run.iter().filter_map(|message| message.payload).collect();
            if payloads.is_empty() {
                all.extend(self.rows(run, now_ms)?);
                continue;
            }
            for batch in self.batches(&payloads)? {
                let changes = flagged::changes(&batch, &self.view, &self.deletion_column, now_ms);
                all.extend(changes.map_err(Unread::Wrong)?);
            }
        }
        joined(all).map_err(Unread::Wrong)
    }

    fn batches(&mut self, payloads: &[&[u8]]) -> Result<Vec<RecordBatch>, Unread> {
        if let Reader::Avro(avro) = &mut self.format {
            return avro.batches(payloads);
        }
        let streams = payloads.iter().map(|payload| arrow_stream::batches(payload).map_err(Unread::Wrong));
        Ok(streams.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Rows of JSON, and what every format has: deletions by a key alone.
    fn rows(&self, messages: &[Message<'_>], now_ms: i64) -> Result<Vec<Changes>, Unread> {
        let rows = messages.iter().map(|message| self.row(message, now_ms).map_err(Unread::Wrong));
        let rows = rows.collect::<Result<_, _>>()?;
        changes(rows, std::slice::from_ref(&self.view), now_ms).map_err(|wrong| Unread::Wrong(wrong.reason))
    }

    fn row(&self, message: &Message<'_>, now_ms: i64) -> Result<Row, String> {
        let (view, sent_ms) = (&self.view.name, message.timestamp_ms.unwrap_or(now_ms));
        let Some(text) = message.payload else {
            let entity = entity(message.key)?.to_owned();
            return Ok(Row { view: view.clone(), entity, event_time_ms: sent_ms, features: Vec::new(), delete: true });
        };
        let row = Row::from_json(text, view, sent_ms)?;
        if row.view != *view {
            return Err(format!("it names view \"{}\", and this stream brings rows of view \"{view}\"", row.view));
        }
        Ok(row)
    }
}

/// Whom a message without a payload is about.
fn entity(key: Option<&[u8]>) -> Result<&str, String> {
    let key = key.ok_or_else(|| "it has neither key nor payload; a deletion has the entity as its key".to_owned())?;
    let text = std::str::from_utf8(key).ok().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| {
        "it has no payload, and its key is no text: a deletion has the entity as its key, in UTF-8".to_owned()
    })
}

/// The same with parts of one kind that follow each other made one.
fn joined(parts: Vec<Changes>) -> Result<Vec<Changes>, String> {
    let same = |a: &Changes, b: &Changes| a.kind == b.kind && a.view == b.view;
    if !parts.windows(2).any(|pair| same(&pair[0], &pair[1])) {
        return Ok(parts);
    }
    let join = |run: &[Changes]| {
        let rows = concat_batches(run[0].rows.schema_ref(), run.iter().map(|part| &part.rows));
        let rows = rows.map_err(|error| error.to_string())?;
        Ok(Changes { view: run[0].view.clone(), kind: run[0].kind, rows })
    };
    parts.chunk_by(same).map(join).collect()
}

/// Takes out the rows of other shards, and tells how many.
fn keep_own(part: &mut Changes, own: Shard) -> Result<u64, String> {
    let entities = part.rows.column(0).as_string::<i32>();
    let is_own: BooleanArray =
        entities.iter().map(|entity| Some(entity.is_some_and(|entity| own.holds(entity)))).collect();
    let foreign = part.rows.num_rows() - is_own.true_count();
    if foreign > 0 {
        part.rows = filter_record_batch(&part.rows, &is_own).map_err(|error| error.to_string())?;
    }
    Ok(foreign as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, StringArray, TimestampMillisecondArray};
    use arrow::datatypes::TimestampMillisecondType;
    use larder_store::WriteKind;

    use super::*;
    use crate::change_stream::arrow_stream::tests::stream;
    use crate::change_stream::config::tests::{config, orders};

    const NOW_MS: i64 = 1_000_000;

    fn message(payload: &[u8]) -> Message<'_> {
        Message { offset: 0, timestamp_ms: Some(77), key: None, payload: Some(payload) }
    }

    fn decoder(format: Format, shard: &str) -> Decoder {
        Decoder::open(&config(format), &orders(), shard.parse().unwrap()).unwrap()
    }

    fn users(decoded: &Decoded) -> Vec<(WriteKind, Vec<&str>)> {
        let mut users = Vec::new();
        for Changes { kind, rows, .. } in &decoded.changes {
            users.push((*kind, rows.column(0).as_string::<i32>().iter().flatten().collect()));
        }
        users
    }

    fn order(user: &str, order: &str) -> String {
        format!(r#"{{"entity": "{user}", "features": {{"order_id": "{order}"}}}}"#)
    }

    #[test]
    fn json_and_keys_alone_become_changes_in_their_order() {
        let (ada, bob) = (order("ada", "a"), order("bob", "b"));
        let gone = Message { key: Some(b"ada"), payload: None, ..message(b"") };
        let messages = [message(ada.as_bytes()), message(bob.as_bytes()), gone, message(ada.as_bytes())];
        let decoded = decoder(Format::Json, "0/1").decode(&messages, NOW_MS).unwrap();
        let (upsert, delete) = (WriteKind::Upsert, WriteKind::Delete);
        assert_eq!(users(&decoded), [(upsert, vec!["ada", "bob"]), (delete, vec!["ada"]), (upsert, vec!["ada"])]);
        let times = decoded.changes[1].rows.column(1).as_primitive::<TimestampMillisecondType>();
        assert_eq!(times.values(), &[77], "of the message");
        assert!(decoded.changes[1].rows.column(2).is_null(0), "all elements");
    }

    #[test]
    fn a_wrong_message_costs_no_other() {
        let (ada, bob) = (order("ada", "a"), order("bob", "b"));
        let large = order(&"x".repeat(2 << 20), "a");
        let ahead = r#"{"entity": "ada", "event_time_ms": 99999999999, "features": {"order_id": "a"}}"#;
        let other = r#"{"view": "profile", "entity": "ada"}"#;
        let no_key = Message { payload: None, ..message(b"") };
        let framed = Message { key: Some(b"\0\0\0\0\x07\x06ada"), payload: None, ..message(b"") };
        let messages = [
            message(ada.as_bytes()),
            message(b"{"),
            message(ahead.as_bytes()),
            message(bob.as_bytes()),
            message(other.as_bytes()),
            no_key,
            framed,
            message(large.as_bytes()),
            message(br#"{"entity": "ada", "features": {"paid": "much", "order_id": "c"}}"#),
        ];
        let decoded = decoder(Format::Json, "0/1").decode(&messages, NOW_MS).unwrap();
        assert_eq!(users(&decoded), [(WriteKind::Upsert, vec!["ada", "bob"])]);
        let says = [
            (1, "EOF"),
            (2, "more than a day ahead"),
            (4, "view \"profile\", and this stream brings rows of view \"orders\""),
            (5, "neither key nor payload"),
            (6, "its key is no text"),
            (7, "at most 1048576 (max_message_kib)"),
            (8, "feature \"paid\" (f64): found a string_value"),
        ];
        assert_eq!(decoded.wrong.len(), says.len(), "{:?}", decoded.wrong);
        for ((at, why), (expected, says)) in decoded.wrong.iter().zip(says) {
            assert!(*at == expected && why.contains(says), "{at}: {why:?} does not say {says:?}");
        }
    }

    #[test]
    fn columns_and_keys_alone_become_changes_in_their_order() {
        let batch = |users: &[&str], gone: &[bool]| {
            let rows = users.len();
            let times = TimestampMillisecondArray::from(vec![5; rows]).with_timezone("UTC");
            stream(&[RecordBatch::try_from_iter([
                ("user", Arc::new(StringArray::from(users.to_vec())) as ArrayRef),
                ("at", Arc::new(times)),
                ("order_id", Arc::new(StringArray::from(vec!["a"; rows]))),
                ("paid", Arc::new(Float64Array::from(vec![1.0; rows]))),
                ("delete", Arc::new(BooleanArray::from(gone.to_vec()))),
            ])
            .unwrap()])
        };
        let (first, second) = (batch(&["ada", "bob"], &[false, true]), batch(&["cleo"], &[true]));
        let gone = Message { key: Some(b"dan"), payload: None, ..message(b"") };
        let messages = [message(&first), message(&second), gone, message(b"nonsense"), message(&second)];
        let decoded = decoder(Format::Arrow, "0/1").decode(&messages, NOW_MS).unwrap();
        let (upsert, delete) = (WriteKind::Upsert, WriteKind::Delete);
        assert_eq!(users(&decoded), [(upsert, vec!["ada"]), (delete, vec!["bob", "cleo", "dan", "cleo"])]);
        assert!(decoded.wrong.len() == 1 && decoded.wrong[0].0 == 3, "{:?}", decoded.wrong);
    }

    #[test]
    fn rows_of_other_shards_are_left_to_their_nodes() {
        let lines: Vec<String> = (0..100).map(|user| order(&format!("user-{user}"), "a")).collect();
        let messages: Vec<_> = lines.iter().map(|line| message(line.as_bytes())).collect();
        let mut own = 0;
        for shard in ["0/3", "1/3", "2/3"] {
            let decoded = decoder(Format::Json, shard).decode(&messages, NOW_MS).unwrap();
            let rows = decoded.changes[0].rows.num_rows() as u64;
            assert_eq!(rows + decoded.foreign, 100);
            own += rows;
        }
        assert_eq!(own, 100);
    }
}
