//! Where streams of changes stand: how far a consumer of Kafka, or of anything else that counts its messages, has come. A position is written
//! in the same batch as the rows that came before it, so that after a crash either both are there or neither, and a consumer that goes on from
//! the stored position neither loses a row nor writes one twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;

/// The longest name of a stream, in bytes.
const MAX_NAME_BYTES: usize = 512;
/// The most streams of a store; each partition of a topic is one.
const MAX_STREAMS: usize = 1 << 16;

/// A part of a stream, whose rows one write brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSpan<'a> {
    /// The stream's name: for a partition of a topic, both.
    pub stream: &'a str,
    /// Position of the first message of the part: the stream must stand there, or never have been written from.
    pub from: u64,
    /// Position after the last one: there it stands afterwards. Not below `from`.
    pub to: u64,
}

/// The positions of all streams of a store.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<String, Arc<Stream>>>);

/// One stream. It is locked while a part of it is written, so that two consumers of one stream cannot both go on from the same place.
pub(crate) type Stream = Mutex<Option<u64>>;

impl Streams {
    pub(crate) fn new(positions: Vec<(String, u64)>) -> Streams {
        let stream = |(name, position)| (name, Arc::new(Mutex::new(Some(position))));
        Streams(Mutex::new(positions.into_iter().map(stream).collect()))
    }

    pub(crate) fn position(&self, name: &str) -> Option<u64> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()?;
        *stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every stream that was written from, and where it stands, by name.
    pub(crate) fn positions(&self) -> Vec<(String, u64)> {
        let streams = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let position = |(name, stream): (String, Arc<Stream>)| {
            let position = *stream.lock().unwrap_or_else(PoisonError::into_inner);
            position.map(|position| (name, position))
        };
        let mut positions: Vec<_> = streams.into_iter().filter_map(position).collect();
        positions.sort_unstable();
        positions
    }

    /// The stream of a span that is about to be written.
    pub(crate) fn of_span(&self, span: &StreamSpan<'_>) -> Result<Arc<Stream>, Error> {
        let StreamSpan { stream: name, from, to } = span;
        if to < from {
            return Err(Error::FixRequest(format!("a part of stream {name} goes back from {from} to {to}")));
        }
        self.stream(name)
    }

    /// The stream of that name, which may be new.
    pub(crate) fn stream(&self, name: &str) -> Result<Arc<Stream>, Error> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            let message = format!("a stream's name of {} bytes, allowed are 1 to {MAX_NAME_BYTES}", name.len());
            return Err(Error::FixRequest(message));
        }
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !streams.contains_key(name) && streams.len() >= MAX_STREAMS {
            let message = format!("stream {name} is one more than the {MAX_STREAMS} that a store may have");
            return Err(Error::FixRequest(message));
        }
        Ok(Arc::clone(streams.entry(name.to_owned()).or_default()))
    }
}

/// Refuses a span that does not go on where the stream stands.
pub(crate) fn check(span: &StreamSpan<'_>, position: Option<u64>) -> Result<(), Error> {
    let StreamSpan { stream, from, .. } = span;
    match position {
        Some(position) if position != *from => Err(Error::FixRequest(format!(
            "stream {stream} stands at {position} and a part from {from} was to be written: another consumer has gone on, \
             continue from {position}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{points, points_rows, view};
    use crate::{Store, StoreConfig, TenantId, Write, WriteKind};

    fn span(from: u64, to: u64) -> StreamSpan<'static> {
        StreamSpan { stream: "orders/3", from, to }
    }

    #[test]
    fn a_position_comes_with_its_rows_and_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let open = || Store::open(&config, &[view()]).unwrap();
        let store = open();
        assert_eq!(store.stream_position("orders/3"), None);
        let rows = points_rows(&["ada"], 1_000, 5);
        let write = [Write { tenant: TenantId(1), view: "view", kind: WriteKind::Upsert, rows: &rows }];
        assert_eq!(store.write_from(&span(7, 9), &write, 2_000).unwrap().rows, 1);
        assert_eq!(store.stream_position("orders/3"), Some(9));
        // Messages that hold no row are passed over all the same.
        store.write_from(&span(9, 12), &[], 2_000).unwrap();
        drop(store);
        let store = open();
        assert_eq!((store.stream_position("orders/3"), points(&store, 1)), (Some(12), vec![5, 0]));
        assert_eq!(store.stream_position("orders/4"), None);
    }

    #[test]
    fn a_stream_is_moved_to_any_position_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let open = || Store::open(&config, &[view()]).unwrap();
        let store = open();
        store.write_from(&span(7, 9), &[], 2_000).unwrap();
        assert_eq!(store.move_stream("orders/3", 2).unwrap(), Some(9));
        assert!(store.write_from(&span(9, 12), &[], 2_000).unwrap_err().to_string().contains("stands at 2"));
        assert_eq!(store.move_stream("orders/0", 5).unwrap(), None);
        drop(store);
        let store = open();
        assert_eq!(store.stream_positions(), [("orders/0".to_owned(), 5), ("orders/3".to_owned(), 2)]);
        store.write_from(&span(2, 12), &[], 2_000).unwrap();
        assert!(store.move_stream("", 1).is_err());
    }

    #[test]
    fn who_does_not_go_on_where_the_stream_stands_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[view()]).unwrap();
        store.write_from(&span(0, 5), &[], 2_000).unwrap();
        let rows = points_rows(&["ada"], 1_000, 5);
        let write = [Write { tenant: TenantId(1), view: "view", kind: WriteKind::Upsert, rows: &rows }];
        for (wrong, expected) in [
            (span(4, 6), "stands at 5"),
            (span(6, 7), "stands at 5"),
            (span(5, 4), "goes back"),
            (StreamSpan { stream: "", from: 0, to: 1 }, "name of 0 bytes"),
        ] {
            let message = store.write_from(&wrong, &write, 2_000).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!((store.stream_position("orders/3"), points(&store, 1)), (Some(5), vec![0, 0]));
        // Rows that are refused leave the position where it is.
        let ahead = points_rows(&["ada"], i64::MAX, 5);
        let write = [Write { rows: &ahead, ..write[0] }];
        assert!(store.write_from(&span(5, 6), &write, 2_000).is_err());
        assert_eq!(store.stream_position("orders/3"), Some(5));
    }
}
