//! The value of a delta key: what was written live about one entity since its snapshots, as changes. A write is a value with few changes and a
//! merge operand; merging values yields a value of the same form, and the outcome does not depend on the order in which writes arrive or
//! are merged, so RocksDB may combine them whenever it likes.
//!
//! A change is a row or a tombstone with its event time and the number of the write that brought it. Of changes of one element the one with
//! the greatest event time stands, of equal times the last written. Tombstones stay until a snapshot covers them (`prune.rs`): a
//! row that arrives late must still meet them.
//!
//! Bytes, little-endian: format u8, changes kept u16, cleared i64, then per change event time i64, sequence u64, kind u8, length of the element key
//! u32, length of the row u32, element key, row. Newest change first.

use crate::row::Damaged;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 11;
const CHANGE_HEADER_BYTES: usize = 25;
const ROW: u8 = 0;
const TOMBSTONE: u8 = 1;

/// `cleared_ms` of a value that clears nothing.
const NOTHING_CLEARED: i64 = i64::MIN;

/// Most tombstones one entity keeps. Beyond it everything up to the oldest of them counts as deleted.
const MAX_TOMBSTONES: usize = 10_000;

/// A row or a tombstone of one element; a `latest` view has one element, whose key is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) event_time_ms: i64,
    /// Grows with each write: tells changes of equal event time apart.
    pub(crate) sequence: u64,
    pub(crate) element: &'a [u8],
    /// `None` is a tombstone.
    pub(crate) row: Option<&'a [u8]>,
}

/// All changes of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta<'a> {
    /// How many changes a row may have before it and still be kept. More than a view shows, because a later tombstone can bring a row back
    /// into view; bounded, because nobody reads an entity's thousandth change.
    kept: u16,
    /// Everything up to this event time is deleted, whatever its element.
    pub(crate) cleared_ms: i64,
    /// Newest first; of equal event times the greater element first.
    pub(crate) changes: Vec<Change<'a>>,
}

impl<'a> Delta<'a> {
    /// A value without a change, for a view that shows `n` elements; `None` for a `latest` view, which has one element only.
    pub(crate) fn new(n: Option<u32>) -> Delta<'a> {
        let kept = n.map_or(1, |n| u16::try_from(2 * n + 16).unwrap_or(u16::MAX));
        Delta { kept, cleared_ms: NOTHING_CLEARED, changes: Vec::new() }
    }

    /// Reads a value in place.
    pub(crate) fn decode(value: &'a [u8]) -> Result<Delta<'a>, Damaged> {
        let Some((header, mut rest)) = value.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Damaged("a live value is shorter than its header"));
        };
        let [format, kept @ .., _, _, _, _, _, _, _, _] = *header;
        if format != FORMAT {
            return Err(Damaged("a live value has an unknown format"));
        }
        let mut cleared = [0; 8];
        cleared.copy_from_slice(&header[3..]);
        let mut delta = Delta {
            kept: u16::from_le_bytes(kept),
            cleared_ms: i64::from_le_bytes(cleared),
            changes: Vec::with_capacity(1),
        };
        while !rest.is_empty() {
            let (change, after) = read_change(rest)?;
            delta.changes.push(change);
            rest = after;
        }
        Ok(delta)
    }

    /// Appends the value's bytes to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        out.extend_from_slice(&self.kept.to_le_bytes());
        out.extend_from_slice(&self.cleared_ms.to_le_bytes());
        for change in &self.changes {
            out.extend_from_slice(&change.event_time_ms.to_le_bytes());
            out.extend_from_slice(&change.sequence.to_le_bytes());
            out.push(if change.row.is_some() { ROW } else { TOMBSTONE });
            let row = change.row.unwrap_or_default();
            out.extend_from_slice(&(change.element.len() as u32).to_le_bytes());
            out.extend_from_slice(&(row.len() as u32).to_le_bytes());
            out.extend_from_slice(change.element);
            out.extend_from_slice(row);
        }
    }

    /// Takes the changes of another value in.
    pub(crate) fn add(&mut self, other: Delta<'a>) {
        self.kept = self.kept.max(other.kept);
        self.cleared_ms = self.cleared_ms.max(other.cleared_ms);
        self.changes.extend(other.changes);
    }

    /// Leaves of each element its standing change, newest first, and drops the rows that have too many changes before them. Changes are counted
    /// whether they are rows or tombstones, and a row that is dropped has as many before it in every larger set of changes: so reducing
    /// early and again later leaves what reducing once would.
    pub(crate) fn reduce(&mut self) {
        self.changes.retain(|change| change.event_time_ms > self.cleared_ms);
        let standing = |change: &Change<'_>| (change.event_time_ms, change.sequence);
        self.changes.sort_unstable_by(|a, b| a.element.cmp(b.element).then(standing(b).cmp(&standing(a))));
        self.changes.dedup_by(|later, kept| later.element == kept.element);
        self.changes.sort_unstable_by(|a, b| (b.event_time_ms, b.element).cmp(&(a.event_time_ms, a.element)));
        let (kept, mut before, mut tombstones) = (usize::from(self.kept), 0, 0);
        let mut cleared_ms = self.cleared_ms;
        self.changes.retain(|change| {
            before += 1;
            if change.row.is_some() {
                return before <= kept;
            }
            tombstones += 1;
            if tombstones > MAX_TOMBSTONES {
                cleared_ms = cleared_ms.max(change.event_time_ms);
            }
            tombstones <= MAX_TOMBSTONES
        });
        if cleared_ms > self.cleared_ms {
            self.cleared_ms = cleared_ms;
            self.changes.retain(|change| change.event_time_ms > cleared_ms);
        }
    }

    /// Whether everything up to some time is deleted, and that time is not after `time_ms`.
    pub(crate) fn is_cleared_by(&self, time_ms: i64) -> bool {
        self.cleared_ms != NOTHING_CLEARED && self.cleared_ms <= time_ms
    }

    /// Takes back that everything up to some time is deleted.
    pub(crate) fn forget_clearing(&mut self) {
        self.cleared_ms = NOTHING_CLEARED;
    }

    /// True when the value says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.cleared_ms == NOTHING_CLEARED
    }
}

/// RocksDB's merge operator for the delta family, full and partial. `None` makes the read or compaction fail with a corruption error.
pub(crate) fn merge<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut values = values.map(Delta::decode);
    let mut merged = values.next()?.ok()?;
    for value in values {
        merged.add(value.ok()?);
    }
    merged.reduce();
    let mut bytes = Vec::with_capacity(256);
    merged.encode(&mut bytes);
    Some(bytes)
}

fn read_change(bytes: &[u8]) -> Result<(Change<'_>, &[u8]), Damaged> {
    let Some((header, rest)) = bytes.split_first_chunk::<CHANGE_HEADER_BYTES>() else {
        return Err(Damaged("a live change is shorter than its header"));
    };
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(number)
    };
    let lengths = number(17);
    let (element, row) = ((lengths & u64::from(u32::MAX)) as usize, (lengths >> 32) as usize);
    let Some((element, rest)) = rest.split_at_checked(element) else {
        return Err(Damaged("a live change's element reaches past its end"));
    };
    let Some((row, rest)) = rest.split_at_checked(row) else {
        return Err(Damaged("a live change's row reaches past its end"));
    };
    let row = match header[16] {
        ROW => Some(row),
        TOMBSTONE if row.is_empty() => None,
        _ => return Err(Damaged("a live change is neither row nor tombstone")),
    };
    Ok((Change { event_time_ms: number(0).cast_signed(), sequence: number(8), element, row }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (u8, i64, u64, bool);

    fn delta<'a>(n: u32, cleared_ms: Option<i64>, changes: &[Owned], names: &'a [[u8; 1]]) -> Delta<'a> {
        let mut delta = Delta::new(Some(n));
        delta.cleared_ms = cleared_ms.unwrap_or(NOTHING_CLEARED);
        delta.changes = changes
            .iter()
            .map(|&(element, event_time_ms, sequence, row)| Change {
                event_time_ms,
                sequence,
                element: &names[usize::from(element)],
                row: row.then_some(names[usize::from(element)].as_slice()),
            })
            .collect();
        delta
    }

    fn encoded(delta: &Delta<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        delta.encode(&mut bytes);
        bytes
    }

    proptest! {
        /// Whatever RocksDB merges first, and in whichever grouping, the outcome is one and the same.
        #[test]
        fn order_and_grouping_of_merges_do_not_matter(
            changes in prop::collection::vec((0u8..40, 0i64..60, any::<bool>()), 1..60),
            clear in prop::option::of(0i64..30), cuts in prop::collection::vec(1usize..5, 1..60), swap in any::<prop::sample::Index>(),
        ) {
            let names: Vec<[u8; 1]> = (0..40).map(|name| [name]).collect();
            let changes: Vec<Owned> =
                changes.into_iter().enumerate().map(|(i, (e, t, row))| (e, t, i as u64, row)).collect();
            let mut operands: Vec<Vec<u8>> =
                changes.iter().map(|change| encoded(&delta(2, None, &[*change], &names))).collect();
            if clear.is_some() {
                operands.push(encoded(&delta(2, clear, &[], &names)));
            }
            let once = merge(operands.iter().map(Vec::as_slice)).unwrap();
            let count = operands.len();
            operands.rotate_left(swap.index(count));
            let mut rest = operands.as_slice();
            let mut partial = Vec::new();
            for cut in cuts.iter().cycle() {
                let (group, after) = rest.split_at((*cut).min(rest.len()));
                partial.push(merge(group.iter().map(Vec::as_slice)).unwrap());
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            partial.reverse();
            prop_assert!(merge(partial.iter().map(Vec::as_slice)).unwrap() == once);
        }

        #[test]
        fn a_value_comes_back_as_it_went_in(changes in prop::collection::vec((0u8..9, any::<i64>(), any::<u64>(), any::<bool>()), 0..9)) {
            let names: Vec<[u8; 1]> = (0..9).map(|name| [name]).collect();
            let delta = delta(3, Some(7), &changes, &names);
            let bytes = encoded(&delta);
            prop_assert_eq!(Delta::decode(&bytes).unwrap(), delta);
            for length in 0..bytes.len() {
                if let Ok(shorter) = Delta::decode(&bytes[..length]) {
                    prop_assert!(encoded(&shorter).len() == length, "a cut value was read as something else");
                }
            }
        }
    }

    #[test]
    fn the_newest_change_stands_and_a_tombstone_outlives_a_late_row() {
        let names = [[0], [1]];
        let at = |element, time, sequence, row| encoded(&delta(5, None, &[(element, time, sequence, row)], &names));
        let operands =
            [at(0, 10, 1, true), at(0, 20, 2, false), at(0, 15, 3, true), at(1, 5, 4, true), at(1, 5, 5, false)];
        let merged = merge(operands.iter().map(Vec::as_slice)).unwrap();
        let changes = Delta::decode(&merged).unwrap().changes;
        let seen: Vec<_> = changes.iter().map(|c| (c.element[0], c.event_time_ms, c.row.is_some())).collect();
        assert_eq!(seen, [(0, 20, false), (1, 5, false)], "of equal times the last write stands");
    }

    #[test]
    fn a_history_of_one_element_remembers_what_a_tombstone_can_bring_back() {
        let names = [[0], [1]];
        let at = |element, time, row| encoded(&delta(1, None, &[(element, time, 1, row)], &names));
        let early = merge([at(0, 10, true), at(1, 20, true)].iter().map(Vec::as_slice)).unwrap();
        let merged = merge([early, at(1, 30, false)].iter().map(Vec::as_slice)).unwrap();
        let changes = Delta::decode(&merged).unwrap().changes;
        let seen: Vec<_> = changes.iter().map(|c| (c.element[0], c.event_time_ms, c.row.is_some())).collect();
        assert_eq!(seen, [(1, 30, false), (0, 10, true)]);
    }

    #[test]
    fn rows_are_bounded_and_tombstones_fold_into_a_clearing() {
        let mut delta = Delta::new(Some(2));
        let names: Vec<[u8; 4]> = (0..12_000u32).map(u32::to_be_bytes).collect();
        let change = |index: usize, row| Change {
            event_time_ms: index as i64,
            sequence: 0,
            element: &names[index],
            row: if row { Some(b"row".as_slice()) } else { None },
        };
        delta.changes = (0..100).map(|index| change(index, true)).collect();
        delta.reduce();
        assert_eq!((delta.changes.len(), delta.changes[0].event_time_ms), (20, 99));
        delta.changes = (0..12_000).map(|index| change(index, false)).collect();
        delta.reduce();
        assert_eq!((delta.changes.len(), delta.cleared_ms), (10_000, 1999));
    }
}
