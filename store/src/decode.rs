//! From the rows of a batch to the columns of one view: which rows are visible now, in which order the request wants them.

use std::borrow::Cow;
use std::ops::Range;

use arrow::buffer::OffsetBuffer;

use crate::batch::{Batch, Run};
use crate::columns;
use crate::elements::Elements;
use crate::fetched::{FetchStats, FetchedView, Status, Tier};
use crate::lookup::FoundRows;
use crate::plan::PlannedView;
use crate::row::{Damaged, Row};
use crate::schema::Projection;
use crate::view::ViewKind;

/// One distinct entity of a view.
struct Entity {
    status: Status,
    tier: Tier,
    event_time_ms: i64,
    generation: u32,
    /// Its visible rows among all visible rows, newest first.
    visible: Range<usize>,
}

/// Decodes the plan's view number `index`, aligned with the request.
pub(crate) fn decode(
    planned: &PlannedView,
    index: usize,
    batch: &Batch<'_>,
    found: &FoundRows,
    now_ms: i64,
    stats: &mut FetchStats,
) -> Result<FetchedView, Damaged> {
    let projections: Vec<_> = batch.runs.iter().map(|run| projection(planned, index, run)).collect();
    let mut entities = Vec::with_capacity(batch.unique);
    let mut visible = Vec::with_capacity(batch.unique);
    for (run, projection) in batch.runs.iter().zip(&projections) {
        let generation = run.generations[index].map_or(0, |g| g.manifest.generation);
        for position in run.entities.clone() {
            let (value, tier) = &found[index * batch.unique + position];
            let start = visible.len();
            let newest = match (value, projection) {
                (Some(value), Some(projection)) => Some(see(planned, value, projection, now_ms, &mut visible)?),
                _ => None,
            };
            let status = match newest {
                None => Status::NotFound,
                Some(_) if visible.len() == start => Status::Expired,
                Some(_) => Status::Present,
            };
            stats.expired += u64::from(status == Status::Expired);
            entities.push(Entity {
                status,
                tier: *tier,
                event_time_ms: newest.unwrap_or(0),
                generation,
                visible: start..visible.len(),
            });
        }
    }
    align(planned, batch, &entities, &visible)
}

/// Where the wanted features lie in the rows of this tenant's generation. Almost always it was written under the schema declared now, and
/// the plan knows already.
fn projection<'p>(planned: &'p PlannedView, index: usize, run: &Run<'_>) -> Option<Cow<'p, Projection>> {
    let schema = &run.generations[index]?.schema;
    Some(if schema.fingerprint == planned.projection.fingerprint {
        Cow::Borrowed(&planned.projection)
    } else {
        Cow::Owned(planned.project(schema))
    })
}

/// Adds the rows of `value` that are visible at `now_ms`, and returns the event time of the newest row, visible or not. A row is visible
/// while now < event time + time to live.
fn see<'a>(
    planned: &PlannedView,
    value: &'a [u8],
    projection: &'a Projection,
    now_ms: i64,
    visible: &mut Vec<Row<'a>>,
) -> Result<i64, Damaged> {
    let config = &planned.view.config;
    let ttl_ms = config.ttl_ms();
    let alive = |event_time_ms: i64| ttl_ms.is_none_or(|ttl| now_ms < event_time_ms.saturating_add(ttl));
    match config.kind {
        ViewKind::Latest => {
            let row = Row::new(value, projection)?;
            let time = row.event_time_ms();
            if alive(time) {
                visible.push(row);
            }
            Ok(time)
        }
        ViewKind::LastN => {
            let mut newest = None;
            for element in Elements::new(value)?.take(config.n.unwrap_or(1) as usize) {
                let row = Row::new(element?, projection)?;
                let time = row.event_time_ms();
                newest.get_or_insert(time);
                if !alive(time) {
                    break;
                }
                visible.push(row);
            }
            newest.ok_or(Damaged("it has no element"))
        }
    }
}

/// Lays the distinct entities out as the request asks for them, repeats included.
fn align(
    planned: &PlannedView,
    batch: &Batch<'_>,
    entities: &[Entity],
    visible: &[Row<'_>],
) -> Result<FetchedView, Damaged> {
    let config = &planned.view.config;
    let requested = || batch.positions.iter().map(|&position| &entities[position as usize]);
    let rows: Vec<Option<Row<'_>>> = match config.kind {
        ViewKind::Latest => requested().map(|entity| visible[entity.visible.clone()].first().copied()).collect(),
        ViewKind::LastN => {
            requested().flat_map(|entity| visible[entity.visible.clone()].iter().copied().map(Some)).collect()
        }
    };
    let mut columns = Vec::with_capacity(planned.features.len());
    for (feature, (_, data_type)) in planned.features.iter().enumerate() {
        let values = columns::column(&rows, feature, *data_type)?;
        columns.push(match config.kind {
            ViewKind::Latest => values,
            ViewKind::LastN => {
                let offsets = OffsetBuffer::from_lengths(requested().map(|entity| entity.visible.len()));
                let present: Vec<_> = requested().map(|entity| entity.status == Status::Present).collect();
                columns::list(values, data_type.arrow_type(), offsets, columns::nulls(&present))?
            }
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
