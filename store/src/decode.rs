//! From the rows of a batch to the columns of one view: which rows are visible now, in which order the request wants them.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use arrow::buffer::OffsetBuffer;

use crate::batch::{Batch, NO_GENERATION};
use crate::columns::{self, Rows};
use crate::elements::Elements;
use crate::fetched::{FetchStats, FetchedView, Status, Tier};
use crate::lookup::FoundRow;
use crate::plan::PlannedView;
use crate::row::{self, Damaged, Row};
use crate::schema::Projection;
use crate::view::ViewKind;

const CACHE_LINE: usize = 64;
/// Most bytes of values that are brought near. More would push one another out of the processor's cache before they are decoded.
const MAX_NEAR_BYTES: usize = 1 << 20;

/// One distinct entity of a view.
struct Entity {
    status: Status,
    tier: Tier,
    event_time_ms: i64,
    generation: u32,
    /// Its visible rows among all visible rows, newest first; one, perhaps absent, where the view is `latest`.
    visible: Range<usize>,
}

/// What is the same for all views of a fetch.
pub(crate) struct Moment<'a> {
    /// Unix milliseconds UTC.
    pub(crate) now_ms: i64,
    /// For each distinct entity the time up to which its rows are erased; empty where nobody is.
    pub(crate) erased: &'a [Option<i64>],
}

/// Why a view could not be decoded.
enum Unread {
    Damaged(Damaged),
    /// A row of a schema that the plan has not met yet.
    Schema(u32),
}

impl From<Damaged> for Unread {
    fn from(damaged: Damaged) -> Unread {
        Unread::Damaged(damaged)
    }
}

/// Decodes the plan's view number `index`, aligned with the request.
pub(crate) fn decode(
    planned: &PlannedView,
    index: usize,
    batch: &Batch<'_, '_>,
    found: &[FoundRow<'_>],
    moment: &Moment<'_>,
    stats: &mut FetchStats,
) -> Result<FetchedView, Damaged> {
    let found = &found[index * batch.unique..(index + 1) * batch.unique];
    loop {
        let projections = planned.projections();
        let lens = Lens { projections: &projections, last: Cell::new(0) };
        match decode_through(&lens, planned, index, batch, found, moment, stats) {
            Ok(view) => return Ok(view),
            Err(Unread::Damaged(damaged)) => return Err(damaged),
            Err(Unread::Schema(fingerprint)) if planned.learn(fingerprint) => {}
            Err(Unread::Schema(_)) => return Err(Damaged("its schema is unknown")),
        }
    }
}

/// The plan's features in rows of any schema. Almost always a row has the schema of the row before.
struct Lens<'p> {
    projections: &'p [Arc<Projection>],
    last: Cell<usize>,
}

impl<'p> Lens<'p> {
    fn row<'r>(&self, bytes: &'r [u8]) -> Result<Row<'r>, Unread>
    where
        'p: 'r,
    {
        let fingerprint = row::fingerprint(bytes)?;
        let mut projection = &self.projections[self.last.get()];
        if projection.fingerprint != fingerprint {
            let known = self.projections.iter().position(|projection| projection.fingerprint == fingerprint);
            let position = known.ok_or(Unread::Schema(fingerprint))?;
            self.last.set(position);
            projection = &self.projections[position];
        }
        Ok(Row::of_known_schema(bytes, projection)?)
    }
}

fn decode_through(
    lens: &Lens<'_>,
    planned: &PlannedView,
    index: usize,
    batch: &Batch<'_, '_>,
    found: &[FoundRow<'_>],
    moment: &Moment<'_>,
    stats: &mut FetchStats,
) -> Result<FetchedView, Unread> {
    bring_near(found);
    let config = &planned.view.config;
    let mut entities = Vec::with_capacity(batch.unique);
    let mut visible = Vec::with_capacity(batch.unique);
    for run in &batch.runs {
        let generation = run.generations[index].map_or(NO_GENERATION, |g| g.manifest.generation);
        for position in run.entities.clone() {
            let FoundRow { value, tier, in_time } = &found[position];
            let erased_ms = moment.erased.get(position).copied().flatten();
            let start = visible.len();
            let newest = match value {
                Some(value) => Some(see(lens, planned, value, moment.now_ms, erased_ms, &mut visible)?),
                None => None,
            };
            let hidden = visible.len() == start;
            if hidden && config.kind == ViewKind::Latest {
                visible.push(None);
            }
            let entity = match newest {
                Some(event_time_ms) if !hidden => (Status::Present, *tier, event_time_ms),
                // Also of somebody erased, who may have come back: what lies cold can be newer than the erasure.
                None if !in_time => (Status::NotInTime, *tier, 0),
                // Of somebody erased nothing is told, not even when there was something.
                time if erased_ms.is_some_and(|erased_ms| time.is_none_or(|time| time <= erased_ms)) => {
                    (Status::Erased, Tier::None, 0)
                }
                Some(event_time_ms) => (Status::Expired, *tier, event_time_ms),
                None => (Status::NotFound, *tier, 0),
            };
            let (status, tier, event_time_ms) = entity;
            entities.push(Entity { status, tier, event_time_ms, generation, visible: start..visible.len() });
        }
    }
    let view = align(planned, batch, &entities, visible)?;
    stats.expired += entities.iter().filter(|entity| entity.status == Status::Expired).count() as u64;
    stats.erased += entities.iter().filter(|entity| entity.status == Status::Erased).count() as u64;
    Ok(view)
}

/// Reads a byte of each cache line of the values. Decoding one value after the other would wait for memory at the start of each; these
/// reads do not depend on each other, so the processor waits for many at a time.
fn bring_near(found: &[FoundRow<'_>]) {
    let values = || found.iter().filter_map(|row| row.value.as_deref());
    if values().map(<[u8]>::len).sum::<usize>() > MAX_NEAR_BYTES {
        return;
    }
    let mut sum = 0u8;
    for value in values() {
        sum = value.iter().step_by(CACHE_LINE).fold(sum, |sum, byte| sum ^ byte);
    }
    std::hint::black_box(sum);
}

/// Adds the rows of `value` that are visible at `now_ms`, and returns the event time of the newest row, visible or not. A row is visible
/// while now < event time + time to live, unless its entity was erased since.
fn see<'r>(
    lens: &Lens<'r>,
    planned: &PlannedView,
    value: &'r [u8],
    now_ms: i64,
    erased_ms: Option<i64>,
    visible: &mut Vec<Option<Row<'r>>>,
) -> Result<i64, Unread> {
    let config = &planned.view.config;
    let ttl_ms = config.ttl_ms();
    let alive = |event_time_ms: i64| {
        ttl_ms.is_none_or(|ttl| now_ms < event_time_ms.saturating_add(ttl))
            && erased_ms.is_none_or(|erased_ms| event_time_ms > erased_ms)
    };
    match config.kind {
        ViewKind::Latest => {
            let row = lens.row(value)?;
            let time = row.event_time_ms();
            if alive(time) {
                visible.push(Some(row));
            }
            Ok(time)
        }
        ViewKind::LastN => {
            let mut newest = None;
            for element in Elements::new(value)?.take(config.n.unwrap_or(1) as usize) {
                let row = lens.row(element?)?;
                let time = row.event_time_ms();
                newest.get_or_insert(time);
                if !alive(time) {
                    break;
                }
                visible.push(Some(row));
            }
            Ok(newest.ok_or(Damaged("it has no element"))?)
        }
    }
}

/// Lays the distinct entities out as the request asks for them, repeats included.
fn align(
    planned: &PlannedView,
    batch: &Batch<'_, '_>,
    entities: &[Entity],
    visible: Vec<Option<Row<'_>>>,
) -> Result<FetchedView, Damaged> {
    let config = &planned.view.config;
    let requested = || batch.positions.iter().map(|&position| &entities[position as usize]);
    let rows = match batch.is_as_requested() {
        true => visible,
        false => requested().flat_map(|entity| visible[entity.visible.clone()].iter().copied()).collect(),
    };
    let rows = Rows::new(rows);
    let lists = (config.kind == ViewKind::LastN).then(|| {
        let present = requested().map(|entity| entity.status == Status::Present);
        (OffsetBuffer::from_lengths(requested().map(|entity| entity.visible.len())), columns::nulls(present))
    });
    let mut columns = Vec::with_capacity(planned.features.len());
    for (feature, (_, data_type)) in planned.features.iter().enumerate() {
        let values = columns::column(&rows, feature, *data_type)?;
        columns.push(match &lists {
            None => values,
            Some((offsets, nulls)) => columns::list(values, data_type.arrow_type(), offsets.clone(), nulls.clone())?,
        });
    }
    Ok(FetchedView {
        name: config.name.clone(),
        kind: config.kind,
        features: planned.features.iter().map(|(name, _)| name.clone()).collect(),
        columns,
        status: requested().map(|entity| entity.status).collect(),
        event_time_ms: requested().map(|entity| entity.event_time_ms).collect(),
        tier: requested().map(|entity| entity.tier).collect(),
        generation: requested().map(|entity| entity.generation).collect(),
    })
}
