//! The Admin service: publishing, rolling back, placing, erasing, warming, swapping heads, looking inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_ingest::{ColdRule, place};
use larder_model::{DeviceStatus, Head};
use larder_store::{
    Compacted, Error, GenerationInfo, GenerationState, MAX_ENTITY_BYTES, Published, Status as ValueStatus, Store,
    TenantId, read_hot_set,
};
use tonic::{Request, Response, Status};

use crate::encoders::LoadedEncoder;
use crate::engine::Engine;
use crate::error::Refusal;
use crate::features::{check_number, read, wanted};
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::rung::Rung;
use crate::v1;
use crate::v1::admin_server::Admin;
use crate::warmth;
use crate::wire::{count, rung};

#[derive(Debug)]
pub(crate) struct AdminService {
    shared: Arc<Shared>,
}

impl AdminService {
    pub(crate) fn new(shared: Arc<Shared>) -> AdminService {
        AdminService { shared }
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
        let generation = |info: GenerationInfo| v1::Generation {
            tenant: self.shared.identity.tenant_name(info.tenant),
            view: info.view,
            generation: info.generation,
            live: info.state == GenerationState::Live,
            entities: info.entities,
            rows: info.rows,
            as_of_ms: info.as_of_ms,
            cold_entities: info.cold_entities,
            cold_files: info.cold_files as u64,
            bytes: info.bytes,
        };
        Ok(Response::new(v1::ListGenerationsReply { generations: generations.into_iter().map(generation).collect() }))
    }

    async fn warm(&self, request: Request<v1::WarmRequest>) -> Result<Response<v1::WarmReply>, Status> {
        let v1::WarmRequest { tenant, service, entities } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        let features = wanted(&self.shared.config, &[], &service)?;
        let number = entities.len();
        let found = read(&self.shared, tenant, features, entities, move |fetched| {
            let present = |row: &usize| fetched.views.iter().any(|view| view.status[*row] == ValueStatus::Present);
            (0..number).filter(present).count()
        });
        Ok(Response::new(v1::WarmReply { entities: count(number), found: count(found.await?) }))
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
        let engine = self.shared.serving()?.clone();
        let number = self.shared.changing(move || erase(&engine.store, tenant, &entities)).await?;
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

    async fn get_node_status(
        &self,
        _request: Request<v1::GetNodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatus>, Status> {
        let shared = &self.shared;
        let counters = &shared.counters;
        let engine = shared.engine();
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
            encoders: engine.map_or(&[][..], |engine| &engine.encoders).iter().map(encoder_status).collect(),
        }))
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

fn device(status: DeviceStatus) -> v1::Device {
    let DeviceStatus { name, state, reason, tokens_per_s, texts } = status;
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
