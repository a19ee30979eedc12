//! The Admin service: publishing, rolling back, placing, erasing, warming, swapping heads, chaos, looking inside, reading feedback.

use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_ingest::{ColdRule, place};
use larder_model::{DeviceState, DeviceStatus, Head};
use larder_store::{
    BreakerState, BreakerStatus, Compacted, Error, GenerationInfo, MAX_ENTITY_BYTES, Published, Store, TenantId,
    read_hot_set,
};
use serde_json::{Value as Json, json};
use tonic::{Request, Response, Status};

use crate::chaos::ChaosConfig;
use crate::encoders::LoadedEncoder;
use crate::engine::Engine;
use crate::error::Refusal;
use crate::features::{check_entities_of_call, check_number, refusal, wanted};
use crate::inspect;
use crate::memory;
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::rung::Rung;
use crate::shard::check_entities;
use crate::v1;
use crate::v1::admin_server::Admin;
use crate::warmth::{self, Warmed};
use crate::wire::{count, rung};

#[derive(Debug)]
pub(crate) struct AdminService {
    shared: Arc<Shared>,
}

impl AdminService {
    pub(crate) fn new(shared: Arc<Shared>) -> AdminService {
        AdminService { shared }
    }

    fn chaos(&self) -> v1::ChaosReply {
        let config = self.shared.chaos.config();
        let chaos = v1::Chaos {
            store_latency_ms: config.store_latency_ms,
            cold_latency_ms: config.cold_latency_ms,
            cold_error_rate: config.cold_error_rate,
            device_failure_rate: config.device_failure_rate,
            reply_latency_ms: config.reply_latency_ms,
            drop_connection_rate: config.drop_connection_rate,
            seed: config.seed,
        };
        v1::ChaosReply { allowed: self.shared.chaos.is_allowed(), chaos: Some(chaos) }
    }

    /// Does what changes which generation is live, and tells which one is live then.
    async fn swap(
        &self,
        work: impl FnOnce(&Engine) -> Result<Published, Refusal> + Send + 'static,
    ) -> Result<Response<v1::PublishReply>, Status> {
        let engine = self.shared.serving()?.clone();
        let swapped = self.shared.changing(move || {
            let published = work(&engine)?;
            let is_it = |info: &GenerationInfo| {
                (info.tenant, &info.view, info.generation) == (published.tenant, &published.view, published.generation)
            };
            let info = engine.store.generations().into_iter().find(is_it);
            Ok((published, info))
        });
        let (published, info) = swapped.await?;
        Ok(Response::new(v1::PublishReply {
            tenant: self.shared.identity.tenant_name(published.tenant),
            view: published.view,
            live_generation: published.generation,
            previous_generation: published.previous.unwrap_or(0),
            entities: published.entities,
            rows: published.rows,
            already_live: published.already_live,
            cold_entities: info.as_ref().map_or(0, |info| info.cold_entities),
            cold_files: info.map_or(0, |info| info.cold_files as u64),
        }))
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishReply>, Status> {
        let path = absolute("path", request.into_inner().path)?;
        self.swap(move |engine| engine.store.publish(&path).map_err(|error| refused(&error))).await
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::PublishReply>, Status> {
        let v1::RollbackRequest { tenant, view } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        self.swap(move |engine| engine.store.rollback(tenant, &view).map_err(|error| refused(&error))).await
    }

    async fn list_generations(
        &self,
        _request: Request<v1::ListGenerationsRequest>,
    ) -> Result<Response<v1::ListGenerationsReply>, Status> {
        let generations = self.shared.serving()?.store.generations();
        let generation =
            |info: GenerationInfo| inspect::generation(self.shared.identity.tenant_name(info.tenant), info);
        Ok(Response::new(v1::ListGenerationsReply { generations: generations.into_iter().map(generation).collect() }))
    }

    async fn warm(&self, request: Request<v1::WarmRequest>) -> Result<Response<v1::WarmReply>, Status> {
        let v1::WarmRequest { tenant, service, entities, look_only } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        let features = wanted(&self.shared.config, &[], &service)?;
        check_entities_of_call(&self.shared.config.node, &entities)?;
        let engine = self.shared.serving()?.clone();
        let number = entities.len();
        let work = move || {
            let invalid = |error: Error| Refusal::Invalid(error.to_string());
            let plan = engine.store.compile(&features).map_err(invalid)?;
            warmth::warm(&engine, &plan, tenant, &entities, look_only).map_err(|error| refusal(&error))
        };
        let Warmed { found, already_hot, hot, usage } = self.shared.reading(work).await?;
        Ok(Response::new(v1::WarmReply {
            entities: count(number),
            found: count(found),
            already_hot: count(already_hot),
            hot: count(hot),
            hot_tier_bytes: usage.bytes,
            hot_tier_limit_bytes: usage.most_bytes,
            hot_tier_entries: usage.entries,
            hot_tier_limit_entries: usage.most_entries,
        }))
    }

    async fn place(&self, request: Request<v1::PlaceRequest>) -> Result<Response<v1::PublishReply>, Status> {
        let v1::PlaceRequest { tenant, view, cold_after_s, active_path } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        let active = if active_path.is_empty() { None } else { Some(absolute("active_path", active_path)?) };
        let rule = match cold_after_s {
            Some(seconds) => Some(ColdRule { cold_after: Duration::from_secs(seconds), active }),
            None if active.is_some() => {
                let message = "active_path needs cold_after_s: without it every entity is placed warm";
                return Err(Refusal::Invalid(message.to_owned()).into());
            }
            None => None,
        };
        let shared = self.shared.clone();
        self.swap(move |engine| {
            let placed = place(&engine.store, &shared.config.views, tenant, &view, rule.as_ref());
            placed.map_err(|error| match error {
                larder_ingest::Error::Store(error) => refused(&error),
                // The hot-set file that the call named.
                error => Refusal::Invalid(error.to_string()),
            })
        })
        .await
    }

    async fn erase(&self, request: Request<v1::EraseRequest>) -> Result<Response<v1::EraseReply>, Status> {
        let v1::EraseRequest { tenant, entities } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        check_number(&entities, self.shared.config.node.max_entities)?;
        if let Some(at) = entities.iter().position(|entity| !(1..=MAX_ENTITY_BYTES).contains(&entity.len())) {
            let length = entities[at].len();
            let message = format!("entities[{at}] has {length} bytes; 1 to {MAX_ENTITY_BYTES} are allowed");
            return Err(Refusal::Invalid(message).into());
        }
        check_entities(entities.iter().map(String::as_str), self.shared.config.node.shard)?;
        let engine = self.shared.serving()?.clone();
        let shared = self.shared.clone();
        let work = move || {
            let number = erase(&engine.store, tenant, &entities)?;
            shared.lane.get().map_or(Ok(()), |lane| lane.erase(tenant, &entities))?;
            shared.feedback.get().map_or(Ok(()), |feedback| feedback.erase(tenant, &entities))?;
            Ok(number)
        };
        let number = self.shared.changing(work).await?;
        Ok(Response::new(v1::EraseReply { entities: count(number) }))
    }

    async fn compact_erased(
        &self,
        _request: Request<v1::CompactErasedRequest>,
    ) -> Result<Response<v1::CompactErasedReply>, Status> {
        let engine = self.shared.serving()?.clone();
        let hot_set = self.shared.config.hot_set_file();
        let work = move || {
            let compacted = engine.store.compact_erased().map_err(|error| refused(&error))?;
            let kept = |error| Refusal::Internal(format!("cannot delete {}: {error}", hot_set.display()));
            warmth::forget_hot_set(&hot_set).map_err(kept)?;
            Ok(compacted)
        };
        let Compacted { rows, live, files } = self.shared.changing(work).await?;
        Ok(Response::new(v1::CompactErasedReply { rows, live, files }))
    }

    async fn export_hot_set(
        &self,
        request: Request<v1::ExportHotSetRequest>,
    ) -> Result<Response<v1::ExportHotSetReply>, Status> {
        let path = absolute("path", request.into_inner().path)?;
        let engine = self.shared.serving()?.clone();
        let entries = self.shared.changing(move || export(&engine.store, &path)).await?;
        Ok(Response::new(v1::ExportHotSetReply { entries }))
    }

    async fn reload_head(
        &self,
        request: Request<v1::ReloadHeadRequest>,
    ) -> Result<Response<v1::ReloadHeadReply>, Status> {
        let v1::ReloadHeadRequest { tenant } = request.into_inner();
        self.shared.identity.tenant(&tenant)?;
        let engine = self.shared.serving()?.clone();
        let heads = self.shared.changing(move || engine.tenant(&tenant)?.reload_heads()).await?;
        let reloaded = |(rung, head): (Rung, Head)| v1::ReloadedHead {
            rung: rung.label().to_owned(),
            training_questions: head.training_questions() as u64,
            threshold: head.threshold(),
        };
        Ok(Response::new(v1::ReloadHeadReply { heads: heads.into_iter().map(reloaded).collect() }))
    }

    async fn set_chaos(&self, request: Request<v1::SetChaosRequest>) -> Result<Response<v1::ChaosReply>, Status> {
        let chaos = request.into_inner().chaos.unwrap_or_default();
        let config = ChaosConfig {
            store_latency_ms: chaos.store_latency_ms,
            cold_latency_ms: chaos.cold_latency_ms,
            cold_error_rate: chaos.cold_error_rate,
            device_failure_rate: chaos.device_failure_rate,
            reply_latency_ms: chaos.reply_latency_ms,
            drop_connection_rate: chaos.drop_connection_rate,
            seed: chaos.seed,
        };
        self.shared.chaos.set(config, self.shared.engine().map(|engine| &**engine))?;
        Ok(Response::new(self.chaos()))
    }

    async fn get_chaos(&self, _request: Request<v1::GetChaosRequest>) -> Result<Response<v1::ChaosReply>, Status> {
        Ok(Response::new(self.chaos()))
    }

    async fn get_node_status(
        &self,
        _request: Request<v1::GetNodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatus>, Status> {
        let shared = &self.shared;
        let counters = &shared.counters;
        let engine = shared.engine();
        let memory = engine.and_then(|engine| memory::warning(&shared.config.store, &engine.encoders, &shared.limits));
        Ok(Response::new(v1::NodeStatus {
            state: shared.life.state().label().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: shared.started.elapsed().as_secs(),
            answered: counters.answered.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            batches: counters.batches.load(Ordering::Relaxed),
            hot_hits: counters.hot_hits.load(Ordering::Relaxed),
            warm_hits: counters.warm_hits.load(Ordering::Relaxed),
            cold_hits: counters.cold_hits.load(Ordering::Relaxed),
            not_in_time: counters.not_in_time.load(Ordering::Relaxed),
            queued: engine.map_or(0, |engine| count(engine.queue.len())),
            model: engine.map(|engine| of_rung_full(&engine.encoders)).unwrap_or_default(),
            device: shared.config.model.devices.join(", "),
            devices: engine.map(|engine| engine.devices.states()).unwrap_or_default().into_iter().map(device).collect(),
            store_path: std::path::absolute(&shared.config.store.path)
                .unwrap_or_else(|_| shared.config.store.path.clone())
                .display()
                .to_string(),
            warnings: shared.chaos.warning().into_iter().chain(memory).collect(),
            breakers: engine.map(breakers).unwrap_or_default().into_iter().map(breaker).collect(),
            shard: if shared.config.node.shard.is_whole() {
                String::new()
            } else {
                shared.config.node.shard.to_string()
            },
            encoders: engine.map_or(&[][..], |engine| &engine.encoders).iter().map(encoder_status).collect(),
        }))
    }

    async fn inspect_store(
        &self,
        _request: Request<v1::InspectStoreRequest>,
    ) -> Result<Response<v1::InspectStoreReply>, Status> {
        let (engine, shared) = (self.shared.serving()?.clone(), self.shared.clone());
        let counters = &shared.counters;
        let hits = v1::TierHits {
            hot: counters.hot_hits.load(Ordering::Relaxed),
            warm: counters.warm_hits.load(Ordering::Relaxed),
            cold: counters.cold_hits.load(Ordering::Relaxed),
            not_in_time: counters.not_in_time.load(Ordering::Relaxed),
        };
        let config = shared.config.clone();
        let work = move || {
            let reply = inspect::inspect_store(&engine.store, &config).map_err(|error| refused(&error))?;
            let breakers = breakers(&engine).into_iter().map(breaker).collect();
            Ok(v1::InspectStoreReply { hits: Some(hits), breakers, ..reply })
        };
        Ok(Response::new(self.shared.looking(work).await?))
    }

    async fn inspect_entity(
        &self,
        request: Request<v1::InspectEntityRequest>,
    ) -> Result<Response<v1::InspectEntityReply>, Status> {
        let v1::InspectEntityRequest { tenant, entity, view } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        let (engine, config) = (self.shared.serving()?.clone(), self.shared.config.clone());
        let work = move || {
            inspect::inspect_entity(&engine.store, &config, tenant, &entity, &view, now_ms()).map_err(|e| refused(&e))
        };
        Ok(Response::new(self.shared.looking(work).await?))
    }

    async fn checkpoint(
        &self,
        _request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointReply>, Status> {
        let engine = self.shared.serving()?.clone();
        let made = self.shared.changing(move || engine.store.checkpoint().map_err(|error| refused(&error))).await?;
        let text = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| Refusal::Internal(format!("{} is not UTF-8", path.display())))
        };
        Ok(Response::new(v1::CheckpointReply {
            store_path: text(&made.store)?,
            cold_path: made.cold.as_deref().map(text).transpose()?.unwrap_or_default(),
            store_name: made.store_name,
        }))
    }

    async fn release_checkpoint(
        &self,
        _request: Request<v1::ReleaseCheckpointRequest>,
    ) -> Result<Response<v1::ReleaseCheckpointReply>, Status> {
        let engine = self.shared.serving()?.clone();
        let work = move || engine.store.release_checkpoint().map_err(|error| refused(&error));
        self.shared.changing(work).await?;
        Ok(Response::new(v1::ReleaseCheckpointReply {}))
    }

    async fn read_feedback(
        &self,
        request: Request<v1::ReadFeedbackRequest>,
    ) -> Result<Response<v1::ReadFeedbackReply>, Status> {
        let v1::ReadFeedbackRequest { tenant, cursor } = request.into_inner();
        let (name, tenant) = self.shared.identity.tenant(&tenant)?;
        self.shared.serving()?;
        let shared = self.shared.clone();
        let work = move || shared.feedback.get().ok_or_else(Refusal::draining)?.read((tenant, &name), &cursor);
        let page = self.shared.reading(work).await?;
        let records = page.records.iter().map(serde_json::to_string).collect::<Result<_, _>>();
        let records =
            records.map_err(|error| Refusal::Internal(format!("feedback cannot be written down: {error}")))?;
        Ok(Response::new(v1::ReadFeedbackReply { records, cursor: page.cursor.unwrap_or_default() }))
    }
}

/// What can be done through Arrow Flight too, with its outcome as JSON.
impl AdminService {
    pub(crate) async fn publish_folder(&self, path: String) -> Result<Json, Status> {
        let reply = self.publish(Request::new(v1::PublishRequest { path })).await?.into_inner();
        Ok(json!({
            "tenant": reply.tenant,
            "view": reply.view,
            "live_generation": reply.live_generation,
            "previous_generation": reply.previous_generation,
            "entities": reply.entities,
            "rows": reply.rows,
            "already_live": reply.already_live,
        }))
    }

    pub(crate) async fn warm_entities(
        &self,
        tenant: String,
        service: String,
        entities: Vec<String>,
    ) -> Result<Json, Status> {
        let request = v1::WarmRequest { tenant, service, entities, look_only: false };
        let v1::WarmReply { entities, found, .. } = self.warm(Request::new(request)).await?.into_inner();
        Ok(json!({ "entities": entities, "found": found }))
    }

    pub(crate) async fn compact(&self) -> Result<Json, Status> {
        let reply = self.compact_erased(Request::new(v1::CompactErasedRequest {})).await?.into_inner();
        Ok(json!({ "rows": reply.rows, "live": reply.live, "files": reply.files }))
    }
}

/// The encoders of the rung full; more than one where tenants have their own.
fn of_rung_full(encoders: &[LoadedEncoder]) -> String {
    let full = encoders.iter().filter(|loaded| loaded.rungs.contains(&Rung::Full));
    full.map(|loaded| loaded.encoder.name()).collect::<Vec<_>>().join(", ")
}

fn encoder_status(loaded: &LoadedEncoder) -> v1::EncoderStatus {
    v1::EncoderStatus {
        name: loaded.encoder.name().to_owned(),
        rungs: loaded.rungs.iter().map(|of| rung(*of).into()).collect(),
        memory_bytes: loaded.encoder.memory_bytes() as u64,
    }
}

/// Of everything that can be left alone for a while.
fn breakers(engine: &Arc<Engine>) -> Vec<BreakerStatus> {
    let devices = engine.devices.states().into_iter().filter(|device| device.state != DeviceState::Broken);
    let encoders = engine.encoders.iter().map(|loaded| loaded.breaker.status(Instant::now()));
    iter::once(engine.store.cold_breaker()).chain(devices.map(of_device)).chain(encoders).collect()
}

/// A resting device is an open breaker, and its self-check the trial.
fn of_device(device: DeviceStatus) -> BreakerStatus {
    let DeviceStatus { name, state, failures, retry_in, .. } = device;
    let state = match state {
        DeviceState::Resting if retry_in.is_zero() => BreakerState::HalfOpen,
        DeviceState::Resting => BreakerState::Open,
        DeviceState::Ready | DeviceState::Standby | DeviceState::Broken => BreakerState::Closed,
    };
    BreakerStatus { dependency: format!("device {name}"), state, failures, retry_in }
}

fn breaker(status: BreakerStatus) -> v1::Breaker {
    let BreakerStatus { dependency, state, failures, retry_in } = status;
    let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
    v1::Breaker { dependency, state: state.label().to_owned(), failures, retry_in_ms }
}

fn device(status: DeviceStatus) -> v1::Device {
    let DeviceStatus { name, state, reason, tokens_per_s, texts, .. } = status;
    v1::Device { name, state: state.label().to_owned(), reason, tokens_per_s, texts }
}

fn absolute(field: &str, path: String) -> Result<PathBuf, Refusal> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    let shown = path.display();
    Err(Refusal::Invalid(format!("{field} \"{shown}\" must be absolute: the node has a working folder of its own")))
}

/// Erases one after the other; each is in force as soon as it is recorded.
fn erase(store: &Store, tenant: TenantId, entities: &[String]) -> Result<usize, Refusal> {
    let (number, now_ms) = (entities.len(), now_ms());
    for (erased, entity) in entities.iter().enumerate() {
        store.erase(tenant, entity, now_ms).map_err(|error| {
            Refusal::Internal(format!("{erased} of {number} entities were erased, call again for the rest: {error}"))
        })?;
    }
    tracing::info!(tenant = tenant.0, entities = number, "erased");
    Ok(number)
}

/// Whatever else lies at the path is not the node's to replace.
fn export(store: &Store, path: &Path) -> Result<u64, Refusal> {
    let shown = path.display();
    if path.exists() && read_hot_set(path).is_err() {
        return Err(Refusal::Invalid(format!("{shown} exists and is no hot-set file; name another path")));
    }
    if !path.parent().is_some_and(Path::is_dir) {
        return Err(Refusal::Invalid(format!("{shown} cannot be written: its folder does not exist")));
    }
    store.export_hot_set(path).map_err(|error| refused(&error))
}

/// What the store refused to do: most often what was handed to it is at fault, and the store says how.
fn refused(error: &Error) -> Refusal {
    match error {
        Error::TryAgain(what) => Refusal::TryAgain { what: what.clone(), retry_after: Duration::from_secs(1) },
        Error::CheckDisk { .. } | Error::FreeSpace { .. } | Error::RestartStore { .. } | Error::RestoreStore { .. } => {
            Refusal::Internal(error.to_string())
        }
        _ => Refusal::Invalid(error.to_string()),
    }
}
