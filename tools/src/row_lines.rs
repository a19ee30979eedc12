//! JSON lines as rows of a message: what a line may say, and batches of lines that were read.

use std::io::{self, BufRead, BufReader, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use larder_ingest::{Row, Value};
use larder_serve::v1;
use larder_serve::v1::ValueList;
use larder_serve::v1::value::Kind;

/// Longest line.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// A batch of more bytes of lines is sent before it is full.
const MAX_BATCH_BYTES: u64 = 1 << 20;

/// A row, and the line that it stood on, the first being 1.
#[derive(Debug)]
pub(crate) struct RowLine {
    pub(crate) line: u64,
    pub(crate) row: v1::Row,
}

/// What was read at once.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) rows: Vec<RowLine>,
    /// Lines that are no rows, and why.
    pub(crate) wrong: Vec<(u64, String)>,
    /// Bytes read so far.
    pub(crate) position: u64,
}

/// Lines to be read.
pub(crate) struct Lines {
    input: BufReader<Box<dyn io::Read + Send>>,
    view: String,
    batch: usize,
    line: u64,
    position: u64,
}

impl Lines {
    /// Lines that name no view are of `view`.
    pub(crate) fn new(input: BufReader<Box<dyn io::Read + Send>>, view: &str, batch: usize) -> Lines {
        Lines { input, view: view.to_owned(), batch, line: 0, position: 0 }
    }

    /// The next batch; none at the end. Empty lines are skipped.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Read>> {
        let (mut read, start, mut text) = (Read::default(), self.position, Vec::new());
        while read.rows.len() + read.wrong.len() < self.batch && self.position - start < MAX_BATCH_BYTES {
            text.clear();
            let input = &mut self.input;
            let bytes = input.take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut text).context("cannot read the rows")?;
            if bytes == 0 {
                break;
            }
            self.line += 1;
            self.position += bytes as u64;
            if bytes as u64 > MAX_LINE_BYTES {
                read.wrong.push((self.line, format!("it is longer than {MAX_LINE_BYTES} bytes")));
                self.skip_line()?;
                continue;
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            match self.row(&text) {
                Ok(row) => read.rows.push(RowLine { line: self.line, row }),
                Err(what) => read.wrong.push((self.line, what)),
            }
        }
        read.position = self.position;
        Ok(Some(read).filter(|read| read.position > start))
    }

    /// To the end of a line that is too long.
    fn skip_line(&mut self) -> Result<()> {
        loop {
            let buffer = self.input.fill_buf().context("cannot read the rows")?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let bytes = end.map_or(buffer.len(), |end| end + 1);
            self.input.consume(bytes);
            self.position += bytes as u64;
            if end.is_some() || bytes == 0 {
                return Ok(());
            }
        }
    }

    fn row(&self, text: &[u8]) -> Result<v1::Row, String> {
        let row = Row::from_json(text, &self.view, now_ms())?;
        if row.view.is_empty() {
            return Err("it names no view; name one, or give --view".to_owned());
        }
        let Row { view, entity, event_time_ms, features, delete } = row;
        let features = features.into_iter().map(|(name, feature)| (name, message(feature))).collect();
        Ok(v1::Row { view, entity, event_time_ms, features, delete })
    }
}

fn message(value: Option<Value>) -> v1::Value {
    let kind = value.map(|value| match value {
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Int(integer) => Kind::IntValue(integer),
        Value::Double(number) => Kind::DoubleValue(number),
        Value::Text(text) => Kind::StringValue(text),
        Value::TimestampMs(time) => Kind::TimestampMs(time),
        Value::List(values) => Kind::List(ValueList { values: values.into_iter().map(message).collect() }),
    });
    v1::Value { kind }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: String, batch: usize) -> Lines {
        Lines::new(BufReader::new(Box::new(io::Cursor::new(text))), "profile", batch)
    }

    #[test]
    fn lines_become_rows_and_wrong_ones_are_named() {
        let text = [
            r#"{"entity": "ada", "event_time_ms": 5, "features": {"name": "Ada", "points": 3, "rate": 0.5, "gone": null, "v": [1, 2.5]}}"#,
            "",
            r#"{"view": "orders", "entity": "ada", "delete": true}"#,
            r#"{"entity": "ada", "colour": "red"}"#,
            r#"{"entity": "ada", "features": {"name": {"first": "Ada"}}}"#,
            "not json",
        ];
        let mut lines = lines(text.join("\n"), 3);
        let first = lines.next_batch().unwrap().unwrap();
        assert_eq!(first.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3]);
        let row = &first.rows[0].row;
        assert_eq!((row.view.as_str(), row.event_time_ms), ("profile", 5));
        let kind = |name: &str| row.features[name].kind.clone();
        assert_eq!(
            (kind("points"), kind("rate"), kind("gone")),
            (Some(Kind::IntValue(3)), Some(Kind::DoubleValue(0.5)), None)
        );
        assert!(matches!(kind("v"), Some(Kind::List(list)) if list.values.len() == 2));
        let gone = &first.rows[1].row;
        assert!(gone.delete && gone.view == "orders" && gone.event_time_ms > 1_700_000_000_000);
        assert_eq!(first.wrong.len(), 1);
        assert!(first.wrong[0].0 == 4 && first.wrong[0].1.contains("colour"), "{:?}", first.wrong);
        let second = lines.next_batch().unwrap().unwrap();
        assert_eq!(second.wrong.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(second.position, text.join("\n").len() as u64);
        assert!(lines.next_batch().unwrap().is_none());
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_a_long_one() {
        let long = format!("{}\n{{\"entity\": \"ada\"}}\n", "x".repeat(3 << 20));
        let mut lines = lines(long, 10);
        let first = lines.next_batch().unwrap().unwrap();
        assert!(first.wrong[0].1.contains("longer than 1048576"), "{:?}", first.wrong);
        assert_eq!(lines.next_batch().unwrap().unwrap().rows[0].line, 2);
    }
}
