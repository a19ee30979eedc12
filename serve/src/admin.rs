//! The Admin service: publishing, rolling back, warming, looking inside.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_store::{Error, GenerationInfo, GenerationState, Published, Status as ValueStatus};
use tonic::{Request, Response, Status};

use crate::error::Refusal;
use crate::features::{read, wanted};
use crate::node::Shared;
use crate::v1;
use crate::v1::admin_server::Admin;
use crate::wire::count;

#[derive(Debug)]
pub(crate) struct AdminService {
    shared: Arc<Shared>,
}

impl AdminService {
    pub(crate) fn new(shared: Arc<Shared>) -> AdminService {
        AdminService { shared }
    }

    fn published(&self, published: &Published) -> v1::PublishReply {
        v1::PublishReply {
            tenant: self.shared.identity.tenant_name(published.tenant),
            view: published.view.clone(),
            live_generation: published.generation,
            previous_generation: published.previous.unwrap_or(0),
            entities: published.entities,
            rows: published.rows,
            already_live: published.already_live,
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishReply>, Status> {
        let path = PathBuf::from(request.into_inner().path);
        if !path.is_absolute() {
            let shown = path.display();
            return Err(Refusal::Invalid(format!(
                "path \"{shown}\" must be absolute: the node has a working folder of its own"
            ))
            .into());
        }
        let engine = self.shared.serving()?.clone();
        let published =
            self.shared.publishing(move || engine.store.publish(&path).map_err(|error| refused(&error))).await?;
        Ok(Response::new(self.published(&published)))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::PublishReply>, Status> {
        let v1::RollbackRequest { tenant, view } = request.into_inner();
        let (_, tenant) = self.shared.identity.tenant(&tenant)?;
        let engine = self.shared.serving()?.clone();
        let work = move || engine.store.rollback(tenant, &view).map_err(|error| refused(&error));
        let published = self.shared.publishing(work).await?;
        Ok(Response::new(self.published(&published)))
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
            queued: engine.map_or(0, |engine| count(engine.queue.len())),
            model: engine.map(|engine| engine.encoder.name().to_owned()).unwrap_or_default(),
            device: shared.config.model.device.clone(),
            store_path: std::path::absolute(&shared.config.store.path)
                .unwrap_or_else(|_| shared.config.store.path.clone())
                .display()
                .to_string(),
        }))
    }
}

/// A publish or rollback that the store refused: most often what was handed to it is at fault, and the store says how.
fn refused(error: &Error) -> Refusal {
    match error {
        Error::CheckDisk { .. } | Error::RestoreStore { .. } => Refusal::Internal(error.to_string()),
        _ => Refusal::Invalid(error.to_string()),
    }
}
