//! Which of an entity's rows survive into a generation: of each element its newest row, and of the elements the newest `n`. A `latest`
//! view is the case of a single element. Rows of one entity arrive in any order; memory stays bounded by the survivors, not by how
//! often an entity occurs.

use std::ops::Range;

use crate::elements;
use crate::view::{ViewConfig, ViewKind};

/// Gathered rows beyond which a group is reduced to its survivors: this many times `n`, and at least `REDUCE_AT * 16`.
const REDUCE_AT: usize = 4;

/// The rows of the entity being gathered, in one buffer.
#[derive(Debug)]
pub(crate) struct Group {
    kind: ViewKind,
    n: usize,
    elements: Vec<Element>,
    bytes: Vec<u8>,
    duplicates: u64,
    beyond_n: u64,
}

#[derive(Debug)]
struct Element {
    event_time_ms: i64,
    key: Range<usize>,
    row: Range<usize>,
}

/// What became of a group's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) rows: u64,
    pub(crate) duplicates: u64,
    pub(crate) beyond_n: u64,
    pub(crate) event_time_min_ms: i64,
    pub(crate) event_time_max_ms: i64,
}

impl Group {
    pub(crate) fn new(view: &ViewConfig) -> Group {
        Group {
            kind: view.kind,
            n: view.n.unwrap_or(1) as usize,
            elements: Vec::new(),
            bytes: Vec::new(),
            duplicates: 0,
            beyond_n: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Adds a row. `write` appends the element's key (nothing for a `latest` view) and then its row to the buffer, and returns where the
    /// row starts.
    pub(crate) fn add<E>(
        &mut self,
        event_time_ms: i64,
        write: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        let row = write(&mut self.bytes)?;
        self.elements.push(Element { event_time_ms, key: start..row, row: row..self.bytes.len() });
        if self.elements.len() >= REDUCE_AT * self.n.max(16) {
            self.reduce();
            self.pack();
        }
        Ok(())
    }

    /// Appends the value to store to `out` and empties the group, which must hold a row.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Merged {
        self.reduce();
        let rows = self.elements.iter().map(|element| &self.bytes[element.row.clone()]);
        match self.kind {
            ViewKind::Latest => rows.for_each(|row| out.extend_from_slice(row)),
            ViewKind::LastN => elements::encode(rows, out),
        }
        let time_of = |element: Option<&Element>| element.map_or(0, |e| e.event_time_ms);
        let merged = Merged {
            rows: self.elements.len() as u64,
            duplicates: std::mem::take(&mut self.duplicates),
            beyond_n: std::mem::take(&mut self.beyond_n),
            event_time_min_ms: time_of(self.elements.last()),
            event_time_max_ms: time_of(self.elements.first()),
        };
        self.elements.clear();
        self.bytes.clear();
        merged
    }

    /// Leaves the newest row of each element, and of those the newest `n`, newest first. Where event times are equal, the row of an
    /// element that arrived last wins, and of several elements the greater key comes first: total orders both, so reducing early and
    /// again later leaves the same survivors as reducing once.
    fn reduce(&mut self) {
        if self.elements.len() < 2 {
            return;
        }
        let (before, bytes) = (self.elements.len(), &self.bytes);
        let key = |element: &Element| &bytes[element.key.clone()];
        // The sort is stable: of equal rows the one that arrived last stays first, and is kept.
        self.elements.reverse();
        self.elements.sort_by(|a, b| (key(a), b.event_time_ms).cmp(&(key(b), a.event_time_ms)));
        self.elements.dedup_by(|later, kept| key(later) == key(kept));
        let distinct = self.elements.len();
        self.elements.sort_by(|a, b| (b.event_time_ms, key(b)).cmp(&(a.event_time_ms, key(a))));
        self.elements.truncate(self.n);
        self.duplicates += (before - distinct) as u64;
        self.beyond_n += (distinct - self.elements.len()) as u64;
    }

    /// Frees the bytes of rows that are gone.
    fn pack(&mut self) {
        let mut packed = Vec::with_capacity(self.bytes.len());
        for element in &mut self.elements {
            for range in [&mut element.key, &mut element.row] {
                let start = packed.len();
                packed.extend_from_slice(&self.bytes[range.clone()]);
                *range = start..packed.len();
            }
        }
        self.bytes = packed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn group(kind: ViewKind, n: usize) -> Group {
        Group { kind, n, elements: Vec::new(), bytes: Vec::new(), duplicates: 0, beyond_n: 0 }
    }

    fn add(group: &mut Group, key: &[u8], time: i64, row: &[u8]) {
        let written = group.add::<()>(time, |out| {
            out.extend_from_slice(key);
            let start = out.len();
            out.extend_from_slice(row);
            Ok(start)
        });
        written.unwrap();
    }

    #[test]
    fn latest_keeps_the_newest_row_and_of_equals_the_last() {
        let mut group = group(ViewKind::Latest, 1);
        for (time, row) in [(5, "a"), (9, "b"), (9, "c"), (7, "d")] {
            add(&mut group, b"", time, row.as_bytes());
        }
        let mut value = Vec::new();
        let merged = group.finish(&mut value);
        assert_eq!(value, b"c");
        assert_eq!((merged.rows, merged.duplicates, merged.event_time_max_ms), (1, 3, 9));
        assert!(group.is_empty());
    }

    proptest! {
        /// The model: a map from key to its newest row, sorted by time and key, cut at n.
        #[test]
        fn last_n_equals_the_model(rows in prop::collection::vec((0u8..40, 0i64..30), 1..400), n in 1usize..20) {
            let mut group = group(ViewKind::LastN, n);
            let mut model: BTreeMap<u8, (i64, u32)> = BTreeMap::new();
            for (arrival, &(key, time)) in rows.iter().enumerate() {
                add(&mut group, &[key], time, &(arrival as u32).to_be_bytes());
                let newest = model.entry(key).or_insert((time, arrival as u32));
                if time >= newest.0 {
                    *newest = (time, arrival as u32);
                }
            }
            let mut expected: Vec<_> = model.iter().map(|(key, (time, row))| (*time, *key, *row)).collect();
            expected.sort_by(|a, b| b.cmp(a));
            expected.truncate(n);

            let mut value = Vec::new();
            let merged = group.finish(&mut value);
            let read: Vec<_> = elements::Elements::new(&value).unwrap().map(|row| row.unwrap().to_vec()).collect();
            let expected_rows: Vec<_> = expected.iter().map(|(_, _, row)| row.to_be_bytes().to_vec()).collect();
            prop_assert_eq!(read, expected_rows);
            prop_assert_eq!(merged.rows + merged.duplicates + merged.beyond_n, rows.len() as u64);
            prop_assert_eq!(merged.event_time_max_ms, expected[0].0);
        }
    }
}
