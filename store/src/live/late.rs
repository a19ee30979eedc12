//! Which rows of a write came late: they are stored, and change nothing, because something newer of their entity (in a history, of their element)
//! was there before them.
//!
//! Looked for before the commit, and read only where it can be: an entity without earlier live rows, written with a time after its snapshot, costs
//! no read. Of two writes at once neither was there before the other. A row that a later one of the same write outdates was in time. What lies cold is not read for a count; a row that only a cold one outdates
//! is not told late.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::Guard;

use crate::Error;
use crate::combine::Baseline;
use crate::delta::{Change, Delta};
use crate::elements::Elements;
use crate::generation::{Generation, Generations};
use crate::key::{self, GenerationId};
use crate::live::Touched;
use crate::plan::View;
use crate::row::{Damaged, event_time_ms};
use crate::store::Inner;
use crate::view::ViewKind;

/// Keys that are read at once.
const PART: usize = 256;

/// What one row or deletion of a write does.
pub(super) struct Noted {
    pub(super) view: Arc<View>,
    /// Its position among the call's writes.
    pub(super) write: usize,
    pub(super) event_time_ms: i64,
    /// None deletes every element.
    pub(super) element: Option<Vec<u8>>,
}

/// A row that may be late, with its keys.
struct Suspect<'a> {
    noted: &'a Noted,
    touched: &'a Touched,
    generation: Option<&'a Arc<Generation>>,
    live_key: Vec<u8>,
}

/// The generations of a moment.
pub(super) type Table = Guard<Arc<Generations>>;

/// The newest event times that a write has said of each element so far.
#[derive(Default)]
pub(super) struct Said<'a>(HashMap<(u64, Option<&'a [u8]>), i64>);

impl<'a> Said<'a> {
    /// Takes a row in; true when the same write has said something newer before it.
    pub(super) fn outdates(&mut self, noted: &'a Noted, touched: &Touched) -> bool {
        let newest = self.0.entry((touched.hash, noted.element.as_deref())).or_insert(noted.event_time_ms);
        let outdated = *newest > noted.event_time_ms;
        *newest = (*newest).max(noted.event_time_ms);
        outdated
    }
}

/// Whether a row may be late; `known` says that its entity may have had live rows before.
pub(super) fn may_be(known: bool, noted: &Noted, touched: &Touched, table: &Table) -> bool {
    let reaches = |generation: &Arc<Generation>| {
        let manifest = &generation.manifest;
        noted.event_time_ms <= manifest.as_of_ms.max(manifest.event_time_max_ms)
    };
    known || table.live(touched.view, touched.tenant).is_some_and(reaches)
}

/// Tells the write of each row among `suspects` that is late.
pub(super) fn count<'a>(
    inner: &Inner,
    suspects: impl Iterator<Item = (&'a Noted, &'a Touched)>,
    table: &Table,
    mut late: impl FnMut(usize),
) -> Result<(), Error> {
    let suspect = |(noted, touched): (&'a Noted, &'a Touched)| Suspect {
        noted,
        touched,
        generation: table.live(touched.view, touched.tenant),
        live_key: touched.live_key(),
    };
    let mut suspects: Vec<_> = suspects.map(suspect).collect();
    suspects.sort_unstable_by(|a, b| a.live_key.cmp(&b.live_key));
    // However many rows of a write are of one entity, it is read and decoded once.
    let entities: Vec<&[Suspect<'_>]> = suspects.chunk_by(|a, b| a.live_key == b.live_key).collect();
    let snapshot = inner.warm.snapshot();
    for part in entities.chunks(PART) {
        let keys: Vec<&[u8]> = part.iter().map(|rows| rows[0].live_key.as_slice()).collect();
        let live = snapshot.read_live(&keys)?;
        // Of one view and tenant there is one generation, so these are in order too.
        let published: Vec<_> = part.iter().filter_map(|rows| base_key(&rows[0])).collect();
        let keys: Vec<&[u8]> = published.iter().map(Vec::as_slice).collect();
        let mut base = snapshot.read(&keys)?.into_iter();
        for (rows, live) in part.iter().zip(live) {
            let Suspect { noted, touched, generation, .. } = &rows[0];
            let base = generation.and_then(|_| base.next()).flatten();
            let erased_ms = inner.erasures.erased_ms(touched.tenant, &touched.entity);
            let name = &noted.view.config.name;
            let damaged =
                |broken: Damaged| Error::damaged(inner.warm.path(), format!("a row of view {name}: {}", broken.0));
            let delta = live.as_deref().map(Delta::decode).transpose().map_err(damaged)?;
            for suspect in *rows {
                if is_late(suspect, base.as_deref(), delta.as_ref(), erased_ms).map_err(damaged)? {
                    late(suspect.noted.write);
                }
            }
        }
    }
    Ok(())
}

fn base_key(suspect: &Suspect<'_>) -> Option<Vec<u8>> {
    let generation = suspect.generation?.manifest.generation;
    let Touched { view, tenant, entity, .. } = suspect.touched;
    let mut key = GenerationId { view: *view, tenant: *tenant, generation }.prefix().to_vec();
    key::push_entity(&mut key, entity.as_bytes());
    Some(key)
}

fn is_late(
    suspect: &Suspect<'_>,
    base: Option<&[u8]>,
    delta: Option<&Delta<'_>>,
    erased_ms: Option<i64>,
) -> Result<bool, Damaged> {
    let Noted { view, event_time_ms: time_ms, element, .. } = suspect.noted;
    let Some(element) = element else {
        // It deletes whatever is as old, and so is of use unless a later one did the same.
        return Ok(delta.is_some_and(|delta| delta.cleared_ms > *time_ms));
    };
    if let Some(delta) = delta {
        let standing = delta.changes.iter().find(|change| change.element == *element);
        // Deletions of everything count whatever a snapshot knows.
        if standing.is_some_and(|change| change.event_time_ms > *time_ms) || delta.hides(*time_ms, None) {
            return Ok(true);
        }
    }
    let Some(generation) = suspect.generation else { return Ok(false) };
    if base.is_none() && generation.cold_part(&suspect.touched.entity).is_some() {
        return Ok(false);
    }
    let baseline = Baseline::new(view, Some(generation), erased_ms);
    let row_time_ms = match view.config.kind {
        ViewKind::Latest => base.map(event_time_ms).transpose()?,
        ViewKind::LastN => element_time_ms(&baseline, base, element)?,
    };
    let change = Change { event_time_ms: *time_ms, sequence: 0, element, row: None };
    Ok(!baseline.yields_to(&change, row_time_ms.filter(|time_ms| !baseline.is_erased(*time_ms))))
}

/// The event time of an element in a snapshot's history.
fn element_time_ms(baseline: &Baseline<'_>, base: Option<&[u8]>, element: &[u8]) -> Result<Option<i64>, Damaged> {
    let Some(base) = base else { return Ok(None) };
    for row in Elements::new(base)? {
        let row = row?;
        if *baseline.element_key(row)? == *element {
            return event_time_ms(row).map(Some);
        }
    }
    Ok(None)
}
