//! The value of a delta key: what was written live about one entity since its snapshots, as changes. A write is a value with few changes and a
//! merge operand; merging values yields a value of the same form, and the outcome does not depend on the order in which writes arrive or
//! are merged, so RocksDB may combine them whenever it likes.
//!
//! A change is a row or a tombstone with its event time and the number of the write that brought it. Of changes of one element the one with
//! the greatest event time stands, of equal times the last written. Tombstones stay until a snapshot covers them (`prune.rs`): a
//! row that arrives late must still meet them.
//!
//! A value is bounded. When an entity has more changes than may be kept, everything up to the time of the newest that is too many is cut off,
//! and the time is noted: changes up to it are not known any more, so none is taken in that arrives later, and a snapshot from before it, whose
//! rows of that age a forgotten change may have deleted, does not show them. Which change is too many only moves on as changes arrive: so
//! cutting early and again later leaves what cutting once would.
//!
//! Bytes, little-endian: format u8, changes kept u16, cleared i64, cut i64, then per change event time i64, sequence u64, kind u8, length of the element key
//! u32, length of the row u32, element key, row. Newest change first.

use crate::row::Damaged;

const FORMAT: u8 = 2;
const HEADER_BYTES: usize = 19;
const CHANGE_HEADER_BYTES: usize = 25;
const ROW: u8 = 0;
const TOMBSTONE: u8 = 1;

/// `cleared_ms` of a value that clears nothing, `cut_ms` of one that was not cut.
const NOTHING: i64 = i64::MIN;

/// Most changes that are kept of one entity, rows and deletions together. Far more than a view shows: a row that many others hide comes
/// into view when those are deleted.
const MAX_CHANGES: u16 = 4096;

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
    /// Most changes that are kept, rows and tombstones together.
    kept: u16,
    /// Everything up to this event time is deleted, whatever its element.
    pub(crate) cleared_ms: i64,
    /// Changes up to this event time were too many and are not known any more.
    cut_ms: i64,
    /// Newest first; of equal event times the greater element first.
    pub(crate) changes: Vec<Change<'a>>,
}

impl Change<'_> {
    /// Appends the change to the bytes of a value; in any order, as long as the value is [reduced](Delta::reduce) before it is used.
    pub(crate) fn push_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.event_time_ms.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.push(if self.row.is_some() { ROW } else { TOMBSTONE });
        let row = self.row.unwrap_or_default();
        out.extend_from_slice(&(self.element.len() as u32).to_le_bytes());
        out.extend_from_slice(&(row.len() as u32).to_le_bytes());
        out.extend_from_slice(self.element);
        out.extend_from_slice(row);
    }
}

impl<'a> Delta<'a> {
    /// A value without a change, for a view that shows `n` elements; `None` for a `latest` view, which has one element only.
    pub(crate) fn new(n: Option<u32>) -> Delta<'a> {
        let kept = n.map_or(1, |n| u16::try_from(2 * n + 16).unwrap_or(u16::MAX).max(MAX_CHANGES));
        Delta { kept, cleared_ms: NOTHING, cut_ms: NOTHING, changes: Vec::new() }
    }

    /// A value without a change that is bounded by its bytes alone: as many changes as it can count are kept.
    pub(crate) fn of_snapshot() -> Delta<'a> {
        Delta { kept: u16::MAX, ..Delta::new(None) }
    }

    /// Whether everything up to some time is deleted.
    pub(crate) fn clears(&self) -> bool {
        self.cleared_ms != NOTHING
    }

    /// Whether changes were too many and are not known any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut_ms != NOTHING
    }

    /// Reads a value in place.
    pub(crate) fn decode(value: &'a [u8]) -> Result<Delta<'a>, Damaged> {
        let Some((header, mut rest)) = value.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Damaged("a live value is shorter than its header"));
        };
        let [format, low, high, times @ ..] = *header;
        if format != FORMAT {
            return Err(Damaged("a live value has an unknown format"));
        }
        let time = |at: usize| {
            let mut time = [0; 8];
            time.copy_from_slice(&times[at..at + 8]);
            i64::from_le_bytes(time)
        };
        let mut delta = Delta {
            kept: u16::from_le_bytes([low, high]),
            cleared_ms: time(0),
            cut_ms: time(8),
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
        out.extend_from_slice(&self.cut_ms.to_le_bytes());
        self.changes.iter().for_each(|change| change.push_to(out));
    }

    /// Takes the changes of another value in.
    pub(crate) fn add(&mut self, other: Delta<'a>) {
        self.kept = self.kept.max(other.kept);
        self.cleared_ms = self.cleared_ms.max(other.cleared_ms);
        self.cut_ms = self.cut_ms.max(other.cut_ms);
        self.changes.extend(other.changes);
    }

    /// Leaves of each element its standing change, newest first, and cuts off what is too many.
    pub(crate) fn reduce(&mut self) {
        self.drop_old();
        let standing = |change: &Change<'_>| (change.event_time_ms, change.sequence);
        self.changes.sort_unstable_by(|a, b| a.element.cmp(b.element).then(standing(b).cmp(&standing(a))));
        self.changes.dedup_by(|later, kept| later.element == kept.element);
        self.changes.sort_unstable_by(|a, b| (b.event_time_ms, b.element).cmp(&(a.event_time_ms, a.element)));
        if let Some(change) = self.changes.get(usize::from(self.kept)) {
            self.cut_ms = change.event_time_ms;
            self.drop_old();
        }
        if self.cut_ms <= self.cleared_ms {
            // It says nothing more, and was perhaps never made where the changes were merged in another order.
            self.cut_ms = NOTHING;
        }
    }

    /// Drops the changes that are deleted or not to be known any more.
    fn drop_old(&mut self) {
        let old_ms = self.cleared_ms.max(self.cut_ms);
        self.changes.retain(|change| change.event_time_ms > old_ms);
    }

    /// Whether a snapshot's row is hidden, whatever its element: deleted, or of an age of which changes are not known that the snapshot, taken at
    /// `as_of_ms`, may not know either.
    pub(crate) fn hides(&self, row_time_ms: i64, as_of_ms: Option<i64>) -> bool {
        let knows_what_was_cut = as_of_ms.is_some_and(|as_of_ms| as_of_ms >= self.cut_ms);
        row_time_ms <= self.cleared_ms || (row_time_ms <= self.cut_ms && !knows_what_was_cut)
    }

    /// Whether everything up to some time is deleted or cut off, and that time is not after `time_ms`.
    pub(crate) fn is_cleared_by(&self, time_ms: i64) -> bool {
        let cleared_ms = self.cleared_ms.max(self.cut_ms);
        cleared_ms != NOTHING && cleared_ms <= time_ms
    }

    /// Takes back that everything up to some time is deleted or cut off.
    pub(crate) fn forget_clearing(&mut self) {
        (self.cleared_ms, self.cut_ms) = (NOTHING, NOTHING);
    }

    /// True when the value says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.cleared_ms == NOTHING && self.cut_ms == NOTHING
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
        delta.cleared_ms = cleared_ms.unwrap_or(NOTHING);
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

    /// What all changes come to, said in another way: of each element the last, and of those what is neither cleared nor too many.
    fn model(kept: usize, clear: Option<i64>, changes: &[Owned]) -> (i64, Vec<Owned>) {
        let mut standing = std::collections::BTreeMap::<u8, Owned>::new();
        for change in changes.iter().filter(|change| clear.is_none_or(|clear| change.1 > clear)) {
            let held = standing.entry(change.0).or_insert(*change);
            *held = *[*held, *change].iter().max_by_key(|change| (change.1, change.2)).unwrap();
        }
        let mut standing: Vec<Owned> = standing.into_values().collect();
        standing.sort_unstable_by_key(|change| std::cmp::Reverse((change.1, change.0)));
        let cut = standing.get(kept).map_or(NOTHING, |change| change.1);
        standing.retain(|change| change.1 > cut);
        (cut, standing)
    }

    proptest! {
        /// Whatever RocksDB merges first, and in whichever grouping, the outcome is one and the same.
        #[test]
        fn order_and_grouping_of_merges_do_not_matter(
            changes in prop::collection::vec((0u8..40, 0i64..60, any::<bool>()), 1..120), kept in 1u16..30,
            clear in prop::option::of(0i64..30), cuts in prop::collection::vec(1usize..40, 1..60), swap in any::<prop::sample::Index>(),
        ) {
            let names: Vec<[u8; 1]> = (0..40).map(|name| [name]).collect();
            let changes: Vec<Owned> =
                changes.into_iter().enumerate().map(|(i, (e, t, row))| (e, t, i as u64, row)).collect();
            let operand = |clear, changes: &[Owned]| encoded(&Delta { kept, ..delta(2, clear, changes, &names) });
            let mut operands: Vec<Vec<u8>> = changes.iter().map(|change| operand(None, &[*change])).collect();
            if clear.is_some() {
                operands.push(operand(clear, &[]));
            }
            let once = merge(operands.iter().map(Vec::as_slice)).unwrap();
            let known = Delta::decode(&once).unwrap();
            let (cut, left) = model(usize::from(kept), clear, &changes);
            prop_assert_eq!(known.cut_ms, cut);
            prop_assert_eq!(&known.changes, &delta(2, None, &left, &names).changes);
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
    fn a_row_outlasts_many_newer_ones_that_are_deleted() {
        let names: Vec<[u8; 1]> = (0..57).map(|name| [name]).collect();
        let at = |element: u8, time, row| encoded(&delta(20, None, &[(element, time, 1, row)], &names));
        let mut merged = at(0, 1, true);
        for (shift, row) in [(10, true), (100, false)] {
            for element in 1..57 {
                let operand = at(element, shift + i64::from(element), row);
                merged = merge([merged.as_slice(), operand.as_slice()].into_iter()).unwrap();
            }
        }
        let changes = Delta::decode(&merged).unwrap().changes;
        let rows: Vec<_> = changes.iter().filter(|change| change.row.is_some()).map(|c| c.element[0]).collect();
        assert_eq!((rows, changes.len()), (vec![0], 57));
    }

    #[test]
    fn changes_are_bounded_and_what_was_cut_off_stays_off() {
        let names: Vec<[u8; 4]> = (0..5000u32).map(u32::to_be_bytes).collect();
        let change = |index: usize| Change {
            event_time_ms: index as i64,
            sequence: 0,
            element: &names[index],
            row: index.is_multiple_of(3).then_some(b"row".as_slice()),
        };
        let mut delta = Delta::new(Some(2));
        delta.changes = (904..5000).map(change).collect();
        delta.reduce();
        assert_eq!((delta.changes.len(), delta.cut_ms), (4096, NOTHING), "as many as are kept");
        delta.changes.extend([change(903), change(7)]);
        delta.reduce();
        assert_eq!((delta.changes.len(), delta.cut_ms, delta.cleared_ms), (4096, 903, NOTHING));
        delta.changes.clear();
        delta.changes.extend([change(903), change(904)]);
        delta.reduce();
        assert_eq!(delta.changes, [change(904)], "a late change is not taken in where others are forgotten");
        assert!(delta.hides(903, Some(902)) && !delta.hides(904, Some(902)), "a snapshot from before the cut");
        assert!(!delta.hides(903, Some(903)), "a snapshot that knows all that was cut off");
        assert!(!delta.is_cleared_by(902) && delta.is_cleared_by(903));
        delta.forget_clearing();
        delta.changes.clear();
        assert!(delta.is_empty());
    }
}
