//! The Admin service: publishing, rolling back, placing, erasing, warming, swapping heads, moving streams, chaos, looking inside, reading feedback.

mod actions;
mod changes;
mod status;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_ingest::{ColdRule, MoveTo, Moved, place};
use larder_model::Head;
use larder_store::{Compacted, Error, GenerationInfo, MAX_ENTITY_BYTES, Published};
use tonic::{Request, Response, Status};

use crate::chaos::ChaosConfig;
use crate::engine::Engine;
use crate::error::Refusal;
use crate::features::{check_entities_of_call, check_number, refusal, wanted};
use crate::inspect;
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::rung::Rung;
use crate::shard::check_entities;
use crate::streams::Streams;
use crate::v1;
use crate::v1::admin_server::Admin;
use crate::warmth::{self, Warmed};
use crate::wire::count;

use changes::{absolute, erase, export, refused};
use status::{breaker, breakers, node_status};

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

    async fn drop_generation(
        &self,
        request: Request<v1::DropGenerationRequest>,
    ) -> Result<Response<v1::PublishReply>, Status> {
        let v1::DropGenerationRequest { tenant, view, generation } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        let drop = move |engine: &Engine| {
            engine.store.drop_previous(tenant, &view, generation).map_err(|error| refused(&error))
        };
        self.swap(drop).await
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
        Ok(Response::new(node_status(&self.shared)))
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
        let shared = shared.clone();
        let work = move || {
            let mut reply = inspect::inspect_store(&engine.store, &config).map_err(|error| refused(&error))?;
            let running = shared.streams.get().into_iter().flat_map(Streams::status);
            inspect::running_streams(&mut reply.streams, &config, running);
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
            former_names: made.former_names,
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

    async fn move_stream(
        &self,
        request: Request<v1::MoveStreamRequest>,
    ) -> Result<Response<v1::MoveStreamReply>, Status> {
        let v1::MoveStreamRequest { stream, partition, to } = request.into_inner();
        let to: MoveTo = to.parse().map_err(Refusal::Invalid)?;
        self.shared.serving()?;
        let shared = self.shared.clone();
        let work = move || {
            let streams = shared.streams.get().ok_or_else(Refusal::draining)?;
            streams.move_to(&stream, partition, to)
        };
        let moved = self.shared.changing(work).await?;
        let partition = |Moved { partition, from, to }| v1::MovedPartition { partition, from, to };
        Ok(Response::new(v1::MoveStreamReply { partitions: moved.into_iter().map(partition).collect() }))
    }
}
