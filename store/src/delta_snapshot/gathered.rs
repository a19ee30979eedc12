//! The changes of one entity while a delta snapshot is built: its deletions, and then its rows, each in any order. Because no deletion follows,
//! of the rows only as many are kept as the view shows, and memory stays bounded however often an entity occurs.

use crate::Error;
use crate::delta::{Change, Delta};
use crate::row::Damaged;

/// Changes beyond which they are reduced to those that stand, at least.
const REDUCE_AT: usize = 64;
/// Of a deletion's sequence: against a row of the same event time the deletion stands.
const DELETION: u64 = 1 << 63;

/// What was gathered of an entity.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// How many elements the view keeps; a `latest` view has one.
    n: usize,
    /// A value whose changes are not reduced yet, and how many there are.
    value: Vec<u8>,
    changes: usize,
    reduce_at: usize,
    cleared_ms: Option<i64>,
    /// Changes that have come, whether a row was among them, and those that a `last_n` view does not keep because there are `n` newer ones.
    arrived: u64,
    has_rows: bool,
    beyond_n: u64,
}

/// What was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) upserts: u64,
    pub(crate) deletions: u64,
    /// Changes that a newer one of the entity, or of its element, has outdated.
    pub(crate) outdated: u64,
    pub(crate) beyond_n: u64,
    pub(crate) oldest_ms: i64,
    pub(crate) newest_ms: i64,
}

impl Gathered {
    pub(crate) fn new(n: Option<u32>) -> Gathered {
        let mut gathered = Gathered {
            n: n.map_or(1, |n| n as usize),
            value: Vec::new(),
            changes: 0,
            reduce_at: REDUCE_AT,
            cleared_ms: None,
            arrived: 0,
            has_rows: false,
            beyond_n: 0,
        };
        gathered.empty();
        gathered
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.arrived == 0
    }

    /// Whether a row was added: then no deletion may follow.
    pub(crate) fn has_rows(&self) -> bool {
        self.has_rows
    }

    /// Adds a row of an element, or its deletion where there is no row.
    pub(crate) fn add(&mut self, event_time_ms: i64, element: &[u8], row: Option<&[u8]>) -> Result<(), Damaged> {
        self.has_rows |= row.is_some();
        let sequence = self.arrived | if row.is_none() { DELETION } else { 0 };
        Change { event_time_ms, sequence, element, row }.push_to(&mut self.value);
        self.arrived += 1;
        self.changes += 1;
        if self.changes >= self.reduce_at {
            self.value = self.reduce()?;
            self.reduce_at = REDUCE_AT.max(2 * self.changes);
        }
        Ok(())
    }

    /// Deletes everything up to a time.
    pub(crate) fn clear(&mut self, event_time_ms: i64) {
        self.arrived += 1;
        self.cleared_ms = self.cleared_ms.max(Some(event_time_ms));
    }

    /// Hands over the value, which says what stands, and starts anew.
    pub(crate) fn finish(&mut self) -> Result<(Vec<u8>, Left), Error> {
        let damaged = |damaged: Damaged| Error::FixInput(format!("the changes of an entity: {}", damaged.0));
        let value = self.reduce().map_err(damaged)?;
        let delta = Delta::decode(&value).map_err(damaged)?;
        let upserts = delta.changes.iter().filter(|change| change.row.is_some()).count() as u64;
        let deletions = delta.changes.len() as u64 - upserts + u64::from(delta.clears());
        let cleared_ms = self.cleared_ms;
        let times = || delta.changes.iter().map(|change| change.event_time_ms).chain(cleared_ms);
        let left = Left {
            upserts,
            deletions,
            outdated: self.arrived.saturating_sub(upserts + deletions + self.beyond_n),
            beyond_n: self.beyond_n,
            oldest_ms: times().min().unwrap_or(i64::MIN),
            newest_ms: times().max().unwrap_or(i64::MIN),
        };
        self.empty();
        Ok((value, left))
    }

    /// The value with the changes that stand, and no more rows than the view shows: what `n` newer rows hide here they hide in every generation.
    fn reduce(&mut self) -> Result<Vec<u8>, Damaged> {
        let mut delta = Delta::decode(&self.value)?;
        delta.cleared_ms = self.cleared_ms.unwrap_or(delta.cleared_ms);
        delta.reduce();
        let (mut rows, before) = (0, delta.changes.len());
        delta.changes.retain(|change| {
            rows += usize::from(change.row.is_some());
            change.row.is_none() || rows <= self.n
        });
        self.beyond_n += (before - delta.changes.len()) as u64;
        self.changes = delta.changes.len();
        let mut value = Vec::with_capacity(self.value.len());
        delta.encode(&mut value);
        Ok(value)
    }

    fn empty(&mut self) {
        self.value = Vec::new();
        Delta::of_snapshot().encode(&mut self.value);
        (self.changes, self.reduce_at, self.cleared_ms) = (0, REDUCE_AT, None);
        (self.arrived, self.has_rows, self.beyond_n) = (0, false, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Times = (i64, bool, u64);

    proptest! {
        /// The model: of each element the newest change, a deletion before a row of the same time, less what is cleared, and the newest n rows.
        #[test]
        fn what_stands_equals_the_model(
            changes in prop::collection::vec((0u8..30, 0i64..40, any::<bool>()), 1..400),
            clear in prop::option::of(0i64..30), n in 1u32..12,
        ) {
            let mut changes = changes;
            changes.sort_by_key(|change| change.2);
            let mut gathered = Gathered::new(Some(n));
            if let Some(clear) = clear {
                gathered.clear(clear);
            }
            let mut model: BTreeMap<u8, Times> = BTreeMap::new();
            for (arrival, &(element, time, row)) in (0u64..).zip(&changes) {
                let bytes = arrival.to_be_bytes();
                gathered.add(time, &[element], row.then_some(&bytes)).unwrap();
                let held = model.entry(element).or_insert((time, !row, arrival));
                *held = (*held).max((time, !row, arrival));
            }
            let mut expected: Vec<_> = model.into_iter().filter(|(_, held)| clear.is_none_or(|clear| held.0 > clear)).collect();
            expected.sort_by_key(|(element, (time, ..))| std::cmp::Reverse((*time, *element)));
            let mut rows = 0;
            expected.retain(|(_, (_, deleted, _))| {
                rows += u32::from(!deleted);
                *deleted || rows <= n
            });
            let (value, left) = gathered.finish().unwrap();
            let delta = Delta::decode(&value).unwrap();
            let found: Vec<_> = delta.changes.iter().map(|change| {
                let row = change.row.map(|row| u64::from_be_bytes(row.try_into().unwrap()));
                (change.element[0], change.event_time_ms, row)
            }).collect();
            let expected: Vec<_> = expected.into_iter().map(|(element, (time, deleted, arrival))| {
                (element, time, (!deleted).then_some(arrival))
            }).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(delta.clears().then_some(delta.cleared_ms), clear);
            prop_assert!(!delta.is_cut());
            let total = left.upserts + left.deletions + left.outdated + left.beyond_n;
            prop_assert_eq!(total, changes.len() as u64 + u64::from(clear.is_some()));
            prop_assert!(gathered.is_empty());
        }
    }
}
