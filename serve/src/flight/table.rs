//! Fetched features as one table, in the order in which the entities were asked for: `entity`, and for each view a column `view:feature` for each
//! feature, then `view::status`, `view::tier` and `view::event_time`, which no feature can be called.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::utils::batches_to_flight_data;
use larder_store::{EntityRef, FeatureRef, Fetched, FetchedView, Status, TenantId, Tier};

use crate::engine::Engine;
use crate::error::Refusal;
use crate::features::fetch;

/// About how many bytes of a table one message holds.
const MESSAGE_BYTES: usize = 1 << 20;

/// Reads features of entities of a tenant.
pub(super) fn table(
    engine: &Engine,
    tenant: TenantId,
    features: &[FeatureRef],
    entities: &StringArray,
) -> Result<RecordBatch, Refusal> {
    let asked: Vec<_> =
        entities.iter().map(|entity| EntityRef { tenant, entity: entity.unwrap_or_default() }).collect();
    let fetched = fetch(engine, features, &asked)?;
    of_fetched(entities, &fetched)
}

/// The schema of such a table.
pub(super) fn schema(engine: &Engine, features: &[FeatureRef]) -> Result<SchemaRef, Refusal> {
    let nobody = StringArray::from(Vec::<&str>::new());
    table(engine, TenantId::default(), features, &nobody).map(|table| table.schema())
}

/// The messages of a table; those that follow a schema that was sent before are without one.
pub(super) fn messages(table: &RecordBatch, with_schema: bool) -> Result<Vec<FlightData>, Refusal> {
    let rows = table.num_rows();
    let parts = table.get_array_memory_size().div_ceil(MESSAGE_BYTES).max(1);
    let rows_of_part = rows.div_ceil(parts).max(1);
    let starts = (0..rows).step_by(rows_of_part);
    let parts: Vec<_> = starts.map(|start| table.slice(start, rows_of_part.min(rows - start))).collect();
    let failed = |error: arrow::error::ArrowError| Refusal::Internal(format!("a table cannot be encoded: {error}"));
    let mut messages = batches_to_flight_data(table.schema_ref(), &parts).map_err(failed)?;
    if !with_schema {
        // The first of them.
        messages.remove(0);
    }
    Ok(messages)
}

fn of_fetched(entities: &StringArray, fetched: &Fetched) -> Result<RecordBatch, Refusal> {
    let mut table = Table::default();
    table.push("entity".to_owned(), Arc::new(entities.clone()));
    for view in &fetched.views {
        let name = &view.name;
        for (feature, column) in view.features.iter().zip(&view.columns) {
            table.push(format!("{name}:{feature}"), column.clone());
        }
        table.push(format!("{name}::status"), Arc::new(StringArray::from_iter_values(view.status.iter().map(status))));
        table.push(format!("{name}::tier"), Arc::new(StringArray::from_iter_values(view.tier.iter().map(tier))));
        table.push(format!("{name}::event_time"), event_times(view));
    }
    let Table { fields, columns } = table;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| Refusal::Internal(format!("fetched features are no table: {error}")))
}

#[derive(Default)]
struct Table {
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl Table {
    fn push(&mut self, name: String, column: ArrayRef) {
        self.fields.push(Field::new(name, column.data_type().clone(), true));
        self.columns.push(column);
    }
}

fn event_times(view: &FetchedView) -> ArrayRef {
    let there = |status: &Status| matches!(status, Status::Present | Status::Null | Status::Expired);
    let times = view.status.iter().zip(&view.event_time_ms).map(|(status, time)| there(status).then_some(*time));
    Arc::new(times.collect::<TimestampMillisecondArray>().with_timezone("UTC"))
}

fn status(status: &Status) -> &'static str {
    match status {
        Status::Present => "present",
        Status::Null => "null",
        Status::NotFound => "not_found",
        Status::Expired => "expired",
        Status::Erased => "erased",
        Status::NotInTime => "not_in_time",
    }
}

fn tier(tier: &Tier) -> &'static str {
    match tier {
        Tier::None => "none",
        Tier::Hot => "hot",
        Tier::Warm => "warm",
        Tier::Cold => "cold",
    }
}
