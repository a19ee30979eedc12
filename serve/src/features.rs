//! The Features service: one batched read of the caller's own tenant.

use std::sync::Arc;

use arrow::array::AsArray;
use larder_store::{EntityRef, FeatureRef, Fetched, FetchedView, TenantId, ViewKind};
use tonic::{Request, Response, Status};

use crate::cell::{Cell, cell, elements};
use crate::config::{NodeConfig, NodeSection};
use crate::engine::Engine;
use crate::error::Refusal;
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::shard::check_entities;
use crate::v1;
use crate::v1::features_server::Features;
use crate::wire::{count, status, tier};

#[derive(Debug)]
pub(crate) struct FeaturesService {
    shared: Arc<Shared>,
}

impl FeaturesService {
    pub(crate) fn new(shared: Arc<Shared>) -> FeaturesService {
        FeaturesService { shared }
    }
}

#[tonic::async_trait]
impl Features for FeaturesService {
    async fn get_features(
        &self,
        request: Request<v1::GetFeaturesRequest>,
    ) -> Result<Response<v1::GetFeaturesReply>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        let v1::GetFeaturesRequest { features, service, entities } = request.into_inner();
        let features = wanted(&self.shared.config, &features, &service)?;
        let reply = read(&self.shared, context.tenant_id, features, entities, |fetched| reply(&fetched)).await?;
        Ok(Response::new(reply))
    }
}

/// Reads features of many entities of one tenant and makes the reply, off the I/O threads.
async fn read<T: Send + 'static>(
    shared: &Shared,
    tenant: TenantId,
    features: Vec<FeatureRef>,
    entities: Vec<String>,
    reply: impl FnOnce(Fetched) -> T + Send + 'static,
) -> Result<T, Refusal> {
    check_entities_of_call(&shared.config.node, &entities)?;
    let engine = shared.serving()?.clone();
    let work = move || {
        let entities: Vec<EntityRef<'_>> = entities.iter().map(|entity| EntityRef { tenant, entity }).collect();
        fetch(&engine, &features, &entities).map(reply)
    };
    shared.reading(work).await
}

/// A call names as many entities as it may, all of them this node's.
pub(crate) fn check_entities_of_call(node: &NodeSection, entities: &[String]) -> Result<(), Refusal> {
    check_number(entities, node.max_entities)?;
    check_entities(entities.iter().map(String::as_str), node.shard)
}

/// Reads features of entities on this thread, which is none of the I/O threads.
pub(crate) fn fetch(engine: &Engine, features: &[FeatureRef], entities: &[EntityRef<'_>]) -> Result<Fetched, Refusal> {
    let plan = engine.store.compile(features).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let fetched = engine.store.fetch(&plan, entities, now_ms()).map_err(|error| refusal(&error))?;
    engine.counters.fetched(&fetched.stats);
    Ok(fetched)
}

/// A call names at least one entity and at most node.max_entities.
pub(crate) fn check_number(entities: &[String], limit: usize) -> Result<(), Refusal> {
    let number = entities.len();
    if number > limit {
        return Err(Refusal::Invalid(format!(
            "{number} entities; at most {limit} are allowed in a call (node.max_entities)"
        )));
    }
    if number == 0 {
        return Err(Refusal::Invalid("entities is empty; name at least one".to_owned()));
    }
    Ok(())
}

/// The features of a call: named one by one, or a whole service.
pub(crate) fn wanted(config: &NodeConfig, features: &[String], service: &str) -> Result<Vec<FeatureRef>, Refusal> {
    if features.is_empty() {
        let found = config.service(service);
        let found = found.ok_or_else(|| {
            Refusal::NotFound(format!("service \"{service}\" is not declared; name features or a declared service"))
        })?;
        return Ok(found.references());
    }
    let reference = |name: &String| FeatureRef::parse(name).map_err(|error| Refusal::Invalid(error.to_string()));
    features.iter().map(reference).collect()
}

/// What a failing store means for the caller.
pub(crate) fn refusal(error: &larder_store::Error) -> Refusal {
    match error {
        larder_store::Error::FixRequest(_) => Refusal::Invalid(error.to_string()),
        _ => Refusal::Internal(error.to_string()),
    }
}

fn reply(fetched: &Fetched) -> v1::GetFeaturesReply {
    let stats = &fetched.stats;
    v1::GetFeaturesReply {
        views: fetched.views.iter().map(view).collect(),
        stats: Some(v1::FetchStats {
            keys: count(stats.keys),
            unique_keys: count(stats.unique_keys),
            hot_hits: count(stats.hot_hits),
            warm_hits: count(stats.warm_hits),
            not_found: count(stats.not_found),
            expired: count(stats.expired),
            cold_hits: count(stats.cold_hits),
            not_in_time: count(stats.not_in_time),
            erased: count(stats.erased),
        }),
    }
}

pub(crate) fn view(view: &FetchedView) -> v1::ViewFeatures {
    let column = |(at, feature): (usize, &String)| v1::FeatureColumn {
        feature: feature.clone(),
        values: (0..view.status.len()).map(|row| value(view, at, row)).collect(),
    };
    v1::ViewFeatures {
        view: view.name.clone(),
        columns: view.features.iter().enumerate().map(column).collect(),
        status: view.status.iter().map(|value| status(*value).into()).collect(),
        tier: view.tier.iter().map(|value| tier(*value).into()).collect(),
        event_time_ms: view.event_time_ms.clone(),
        generation: view.generation.clone(),
    }
}

/// A value of a `latest` view; the list of the elements' values of a history.
fn value(view: &FetchedView, column: usize, row: usize) -> v1::Value {
    let column = &view.columns[column];
    match view.kind {
        ViewKind::Latest => scalar(cell(column.as_ref(), row)),
        ViewKind::LastN => {
            let history = column.as_list::<i32>();
            let values = elements(history, row).map(|element| scalar(cell(history.values().as_ref(), element)));
            v1::Value { kind: Some(v1::value::Kind::List(v1::ValueList { values: values.collect() })) }
        }
    }
}

fn scalar(cell: Cell<'_>) -> v1::Value {
    use v1::value::Kind;
    let number = |number: f32| v1::Value { kind: Some(Kind::DoubleValue(number.into())) };
    let kind = match cell {
        Cell::Null => None,
        Cell::Bool(flag) => Some(Kind::BoolValue(flag)),
        Cell::Int(number) => Some(Kind::IntValue(number)),
        Cell::Float(number) => Some(Kind::DoubleValue(number)),
        Cell::Text(text) => Some(Kind::StringValue(text.to_owned())),
        Cell::Time(time_ms) => Some(Kind::TimestampMs(time_ms)),
        Cell::Floats(numbers) => Some(Kind::List(v1::ValueList { values: numbers.into_iter().map(number).collect() })),
    };
    v1::Value { kind }
}
