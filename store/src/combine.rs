//! What a fetch shows of an entity: the rows of its snapshot and the live changes since, under one rule.
//!
//! A change counts when it is newer than what it meets. It meets the snapshot's row of the same element, or, where the snapshot has
//! none, the snapshot's own time (`as_of`): the snapshot knew everything up to then, so what it left out is gone. Of a change and a row
//! of the same event time the snapshot's row stands if the snapshot is at least as new. The rule is the same for each element of a
//! `last_n` view as for the one row of a `latest` view.
//!
//! A snapshot's row that is erased counts as left out: what live changes show must be the same before and after its bytes are gone.

use std::borrow::Cow;

use crate::delta::{Change, Delta};
use crate::elements::{self, Elements};
use crate::generation::Generation;
use crate::plan::View;
use crate::row::{Damaged, event_time_ms};
use crate::schema::RowSchema;
use crate::view::{ViewConfig, ViewKind};

/// The snapshot that live changes meet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Baseline<'a> {
    /// The time whose state it shows; `None` where no generation is live.
    pub(crate) as_of_ms: Option<i64>,
    /// The schema of its rows.
    schema: &'a RowSchema,
    /// `last_n` only: the feature of those rows that identifies an element.
    element: Option<usize>,
    /// Up to when the entity's rows are erased.
    erased_ms: Option<i64>,
}

impl<'a> Baseline<'a> {
    pub(crate) fn new(view: &'a View, generation: Option<&'a Generation>, erased_ms: Option<i64>) -> Baseline<'a> {
        let schema = generation.map_or(&view.schema, |generation| &generation.schema);
        let element_key = view.config.element_key.as_deref();
        Baseline {
            as_of_ms: generation.map(|generation| generation.manifest.as_of_ms),
            element: element_key.and_then(|name| schema.stored_as(&view.schema, name)),
            schema,
            erased_ms,
        }
    }

    /// The same rows without what the snapshot's time says: for changes that are to be weighed against rows alone.
    pub(crate) fn without_time(self) -> Baseline<'a> {
        Baseline { as_of_ms: None, ..self }
    }

    /// What identifies an element among the snapshot's rows.
    pub(crate) fn element_key<'r>(&self, row: &'r [u8]) -> Result<Cow<'r, [u8]>, Damaged> {
        self.schema.element_key(self.element.ok_or(Damaged("its schema has no element key"))?, row)
    }

    /// Whether a row of the snapshot is erased.
    pub(crate) fn is_erased(&self, row_time_ms: i64) -> bool {
        self.erased_ms.is_some_and(|erased_ms| row_time_ms <= erased_ms)
    }

    /// Whether `change` stands against the snapshot's row of the same element, or against its absence.
    pub(crate) fn yields_to(&self, change: &Change<'_>, row_time_ms: Option<i64>) -> bool {
        let after_snapshot = self.as_of_ms.is_none_or(|as_of_ms| change.event_time_ms > as_of_ms);
        match row_time_ms {
            None => after_snapshot,
            Some(time) => change.event_time_ms > time || (change.event_time_ms == time && after_snapshot),
        }
    }
}

/// The value that stands for an entity: `base` as it is where no change counts, nothing where all is deleted.
pub(crate) fn combine<'a>(
    view: &ViewConfig,
    snapshot: Baseline<'_>,
    base: Option<&'a [u8]>,
    delta: &'a [u8],
) -> Result<Option<Cow<'a, [u8]>>, Damaged> {
    let delta = Delta::decode(delta)?;
    match view.kind {
        ViewKind::Latest => latest(snapshot, base, &delta),
        ViewKind::LastN => last_n(view, snapshot, base, &delta),
    }
}

/// True when the live change stands whatever row the generation has: it is newer than all of them, and than the snapshot itself. Only of a
/// `latest` view, whose rows are not added up.
pub(crate) fn need_no_snapshot(view: &ViewConfig, generation: &Generation, delta: &[u8]) -> Result<bool, Damaged> {
    let manifest = &generation.manifest;
    let newest_ms = manifest.as_of_ms.max(manifest.event_time_max_ms);
    let newer = |change: &Change<'_>| change.event_time_ms > newest_ms;
    Ok(view.kind == ViewKind::Latest && Delta::decode(delta)?.changes.first().is_some_and(newer))
}

fn latest<'a>(
    snapshot: Baseline<'_>,
    base: Option<&'a [u8]>,
    delta: &Delta<'a>,
) -> Result<Option<Cow<'a, [u8]>>, Damaged> {
    let time = base.map(event_time_ms).transpose()?.filter(|time| !snapshot.is_erased(*time));
    let standing = delta.changes.first().filter(|change| snapshot.yields_to(change, time));
    Ok(standing.map_or(base, |change| change.row).map(Cow::Borrowed))
}

fn last_n<'a>(
    view: &ViewConfig,
    snapshot: Baseline<'_>,
    base: Option<&'a [u8]>,
    delta: &Delta<'a>,
) -> Result<Option<Cow<'a, [u8]>>, Damaged> {
    let mut rows = Vec::with_capacity(delta.changes.len() + 8);
    let mut met = vec![false; delta.changes.len()];
    if let Some(base) = base {
        for element in Elements::new(base)? {
            let row = element?;
            let time = event_time_ms(row)?;
            if snapshot.is_erased(time) {
                continue;
            }
            let key = snapshot.element_key(row)?;
            let change = delta.changes.iter().position(|change| change.element == &*key);
            if let Some(index) = change {
                met[index] = true;
                let change = &delta.changes[index];
                if snapshot.yields_to(change, Some(time)) {
                    rows.extend(change.row.map(|row| (change.event_time_ms, Cow::Borrowed(change.element), row)));
                    continue;
                }
            }
            if !delta.hides(time, snapshot.as_of_ms) {
                rows.push((time, key, row));
            }
        }
    }
    let unmet = delta.changes.iter().zip(&met).filter(|(change, met)| !**met && snapshot.yields_to(change, None));
    let row_of = |change: &Change<'a>| Some((change.event_time_ms, Cow::Borrowed(change.element), change.row?));
    rows.extend(unmet.filter_map(|(change, _)| row_of(change)));
    rows.sort_unstable_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
    rows.truncate(view.n.unwrap_or(1) as usize);
    if rows.is_empty() {
        return Ok(None);
    }
    let rows: Vec<&[u8]> = rows.into_iter().map(|(_, _, row)| row).collect();
    let mut value = Vec::with_capacity(rows.iter().map(|row| row.len() + 4).sum::<usize>() + 4);
    elements::encode(rows.into_iter(), &mut value);
    Ok(Some(Cow::Owned(value)))
}
