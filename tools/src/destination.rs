//! Where a command changes the store: through the running node or, when none answers, in the store's own folder.
//!
//! RocksDB lets one process write to a folder, so a command that finds a node must ask it. Which of the two was used is
//! always told, because what is done in a folder changes nothing for a node that listens somewhere else.

use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::Utc;
use larder_ingest::{ColdRule, MoveTo, Moved, partition_of_name};
use larder_serve::v1;
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::{
    NodeConfig, erase_from_feedback, erase_from_lane, forget_hot_set, inspect_entity, inspect_store, read_feedback,
};
use larder_store::{Checkpoint, Compacted, GenerationInfo, GenerationState, Published, Store, TenantId};
use serde::Serialize;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::busy::in_turn;
use crate::client::{connect, reachable, refusal};
use crate::files::absolute;
use crate::live::{ListedGeneration, NowLive};

/// How long a node may take to accept a connection before it counts as absent.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest reply: one entity may have a long history with large rows.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// A node or a folder, ready to be changed.
pub(crate) enum Destination<'a> {
    Node { address: SocketAddr, admin: Box<AdminClient<Channel>>, runtime: Runtime },
    Folder { store: Store, config: &'a NodeConfig },
}

/// What a compaction took out of the files.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TakenOut {
    /// Of generations; a history from which elements were taken counts once.
    pub(crate) rows: u64,
    pub(crate) live_entities: u64,
    pub(crate) files: u64,
}

impl<'a> Destination<'a> {
    /// The node at the config's listen address, or the config's store folder where nothing listens.
    pub(crate) fn find(config: &'a NodeConfig) -> Result<Destination<'a>> {
        let address = reachable(config.node.listen);
        match TcpStream::connect_timeout(&address, PROBE_TIMEOUT) {
            Ok(_) => Destination::node(address, config),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                eprintln!("no node answers at {address}: opening the store's own folder");
                Destination::folder(config)
            }
            Err(error) => Err(error).with_context(|| format!("cannot tell whether a node listens at {address}")),
        }
    }

    /// The node at the config's listen address, and nothing else.
    pub(crate) fn running(config: &'a NodeConfig) -> Result<Destination<'a>> {
        let address = reachable(config.node.listen);
        TcpStream::connect_timeout(&address, PROBE_TIMEOUT).with_context(|| {
            format!("no node answers at {address}; start one with `larder serve`, with the same --config")
        })?;
        Destination::node(address, config)
    }

    /// The config's store folder, whatever listens where.
    pub(crate) fn folder(config: &'a NodeConfig) -> Result<Destination<'a>> {
        Ok(Destination::Folder { store: Store::open(&config.store, &config.views)?, config })
    }

    /// A node may be another shop's that happens to listen on the same address: only one that serves the config's own store will do.
    fn node(address: SocketAddr, config: &NodeConfig) -> Result<Destination<'a>> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
        let channel = runtime.block_on(connect(&address.to_string()))?;
        let mut admin = Box::new(AdminClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES));
        let status = runtime.block_on(admin.get_node_status(v1::GetNodeStatusRequest {}));
        let served = status.map_err(|status| refusal(&status))?.into_inner().store_path;
        let own = std::path::absolute(&config.store.path)?.display().to_string();
        // The same folder may be written in several ways.
        let real = |path: &str| std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        ensure!(
            real(&served) == real(&own),
            "the node at {address} serves the store {served} and this config names {own}; \
             stop that node or give one of the two another node.listen"
        );
        Ok(Destination::Node { address, admin, runtime })
    }

    /// Every generation there is, live ones and those kept for rollback.
    pub(crate) fn generations(&mut self) -> Result<Vec<ListedGeneration>> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let reply = runtime
                    .block_on(admin.list_generations(v1::ListGenerationsRequest {}))
                    .map_err(|status| refusal(&status))?;
                Ok(reply.into_inner().generations.into_iter().map(ListedGeneration::from).collect())
            }
            Destination::Folder { store, config } => {
                let listed = |info: GenerationInfo| ListedGeneration {
                    tenant: tenant_name(config, info.tenant),
                    view: info.view,
                    generation: info.generation,
                    live: info.state == GenerationState::Live,
                    entities: info.entities,
                    rows: info.rows,
                    cold_entities: info.cold_entities,
                    cold_files: info.cold_files as u64,
                    bytes: info.bytes,
                    as_of_ms: info.as_of_ms,
                };
                Ok(store.generations().into_iter().map(listed).collect())
            }
        }
    }

    /// The greatest number of a generation of that view that is in use; 0 when there is none.
    pub(crate) fn newest_generation(&mut self, tenant: &str, view: &str) -> Result<u32> {
        let used = self.generations()?;
        let of_view = used.iter().filter(|listed| listed.tenant == tenant && listed.view == view);
        Ok(of_view.map(|listed| listed.generation).max().unwrap_or(0))
    }

    /// Makes a built generation live. Its files are linked into the store.
    pub(crate) fn publish(&mut self, built: &Path) -> Result<NowLive> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let request = v1::PublishRequest { path: named(built)? };
                let reply = runtime.block_on(admin.publish(request)).map_err(|status| refusal(&status))?;
                Ok(reply.into_inner().into())
            }
            Destination::Folder { store, config } => Ok(now_live(config, store, store.publish(built)?)),
        }
    }

    /// Makes the previous generation of a view live again.
    pub(crate) fn rollback(&mut self, tenant: &str, view: &str) -> Result<NowLive> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let request = v1::RollbackRequest { tenant: tenant.to_owned(), view: view.to_owned() };
                let reply = runtime.block_on(admin.rollback(request)).map_err(|status| refusal(&status))?;
                Ok(reply.into_inner().into())
            }
            Destination::Folder { store, config } => {
                Ok(now_live(config, store, store.rollback(tenant_id(config, tenant)?, view)?))
            }
        }
    }

    /// Deletes the generation of a view that is kept for rollback.
    pub(crate) fn drop_previous(&mut self, tenant: &str, view: &str, generation: u32) -> Result<NowLive> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let request =
                    v1::DropGenerationRequest { tenant: tenant.to_owned(), view: view.to_owned(), generation };
                let reply = runtime.block_on(admin.drop_generation(request)).map_err(|status| refusal(&status))?;
                Ok(reply.into_inner().into())
            }
            Destination::Folder { store, config } => {
                let tenant = tenant_id(config, tenant)?;
                Ok(now_live(config, store, store.drop_previous(tenant, view, generation)?))
            }
        }
    }

    /// Divides the live generation of a view between the tiers anew.
    pub(crate) fn place(&mut self, tenant: &str, view: &str, rule: Option<&ColdRule>) -> Result<NowLive> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let active = rule.and_then(|rule| rule.active.as_deref()).map(named).transpose()?;
                let request = v1::PlaceRequest {
                    tenant: tenant.to_owned(),
                    view: view.to_owned(),
                    cold_after_s: rule.map(|rule| rule.cold_after.as_secs()),
                    active_path: active.unwrap_or_default(),
                };
                let reply = runtime.block_on(admin.place(request)).map_err(|status| refusal(&status))?;
                Ok(reply.into_inner().into())
            }
            Destination::Folder { store, config } => {
                let placed = larder_ingest::place(store, &config.views, tenant_id(config, tenant)?, view, rule)?;
                Ok(now_live(config, store, placed))
            }
        }
    }

    /// Forgets entities of a tenant, as many as one call to a node takes.
    pub(crate) fn erase(&mut self, tenant: &str, entities: &[String]) -> Result<()> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let request = v1::EraseRequest { tenant: tenant.to_owned(), entities: entities.to_vec() };
                runtime.block_on(admin.erase(request)).map_err(|status| refusal(&status))?;
                Ok(())
            }
            Destination::Folder { store, config } => {
                let (id, now_ms) = (tenant_id(config, tenant)?, Utc::now().timestamp_millis());
                entities.iter().try_for_each(|entity| store.erase(id, entity, now_ms))?;
                erase_from_lane(store, &config.lane, id, entities)?;
                Ok(erase_from_feedback(store, &config.feedback, id, entities)?)
            }
        }
    }

    /// A page of a tenant's feedback as JSON objects, from where a cursor stands, and where the next page begins; none after the last.
    pub(crate) fn read_feedback(&mut self, tenant: &str, cursor: &str) -> Result<(Vec<String>, Option<String>)> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let request = v1::ReadFeedbackRequest { tenant: tenant.to_owned(), cursor: cursor.to_owned() };
                let reply = runtime.block_on(admin.read_feedback(request)).map_err(|status| refusal(&status))?;
                let v1::ReadFeedbackReply { records, cursor } = reply.into_inner();
                Ok((records, Some(cursor).filter(|cursor| !cursor.is_empty())))
            }
            Destination::Folder { store, config } => {
                let page = read_feedback(store, &config.feedback, (tenant_id(config, tenant)?, tenant), cursor)?;
                let records = page.records.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
                Ok((records, page.cursor))
            }
        }
    }

    /// What the store holds.
    pub(crate) fn inspect_store(&mut self) -> Result<v1::InspectStoreReply> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let reply = runtime.block_on(admin.inspect_store(v1::InspectStoreRequest {}));
                Ok(reply.map_err(|status| refusal(&status))?.into_inner())
            }
            Destination::Folder { store, config } => Ok(inspect_store(store, config)?),
        }
    }

    /// One entity in every tier; with an empty view in all views.
    pub(crate) fn inspect_entity(&mut self, tenant: &str, entity: &str, view: &str) -> Result<v1::InspectEntityReply> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let (tenant, entity, view) = (tenant.to_owned(), entity.to_owned(), view.to_owned());
                let reply = runtime.block_on(admin.inspect_entity(v1::InspectEntityRequest { tenant, entity, view }));
                Ok(reply.map_err(|status| refusal(&status))?.into_inner())
            }
            Destination::Folder { store, config } => {
                let (id, now_ms) = (tenant_id(config, tenant)?, Utc::now().timestamp_millis());
                Ok(inspect_entity(store, config, id, entity, view, now_ms)?)
            }
        }
    }

    /// Has a partition of a change stream, or all of them, go on elsewhere.
    pub(crate) fn move_stream(&mut self, stream: &str, partition: Option<i32>, to: MoveTo) -> Result<Vec<Moved>> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let to = match to {
                    MoveTo::Earliest => "earliest".to_owned(),
                    MoveTo::Latest => "latest".to_owned(),
                    MoveTo::Position(position) => position.to_string(),
                };
                let request = v1::MoveStreamRequest { stream: stream.to_owned(), partition, to };
                let reply = runtime.block_on(admin.move_stream(request)).map_err(|status| refusal(&status))?;
                let moved = |v1::MovedPartition { partition, from, to }| Moved { partition, from, to };
                Ok(reply.into_inner().partitions.into_iter().map(moved).collect())
            }
            Destination::Folder { store, config } => {
                let MoveTo::Position(position) = to else {
                    bail!(
                        "no node runs, and only one knows where the topic begins and ends: start it, or give an offset"
                    );
                };
                move_in_folder(store, config, stream, partition, position)
            }
        }
    }

    /// Makes a checkpoint of the store, in place of an earlier one. Waits for its turn while a node is busy, for as long as `patience`.
    pub(crate) fn checkpoint(&mut self, patience: Duration) -> Result<Checkpoint> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let call = || {
                    let mut admin = admin.clone();
                    async move { admin.checkpoint(v1::CheckpointRequest {}).await }
                };
                let v1::CheckpointReply { store_name, store_path, cold_path, former_names } =
                    runtime.block_on(in_turn(patience, call))?.into_inner();
                let cold = (!cold_path.is_empty()).then(|| PathBuf::from(cold_path));
                Ok(Checkpoint { store_name, former_names, store: PathBuf::from(store_path), cold })
            }
            Destination::Folder { store, .. } => Ok(store.checkpoint()?),
        }
    }

    /// Removes the checkpoint. Waits as for making one.
    pub(crate) fn release_checkpoint(&mut self, patience: Duration) -> Result<()> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let call = || {
                    let mut admin = admin.clone();
                    async move { admin.release_checkpoint(v1::ReleaseCheckpointRequest {}).await }
                };
                runtime.block_on(in_turn(patience, call)).map(drop)
            }
            Destination::Folder { store, .. } => Ok(store.release_checkpoint()?),
        }
    }

    /// Takes the bytes of erased entities out of the files.
    pub(crate) fn compact_erased(&mut self) -> Result<TakenOut> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let reply = runtime.block_on(admin.compact_erased(v1::CompactErasedRequest {}));
                let v1::CompactErasedReply { rows, live, files } =
                    reply.map_err(|status| refusal(&status))?.into_inner();
                Ok(TakenOut { rows, live_entities: live, files })
            }
            Destination::Folder { store, config } => {
                let Compacted { rows, live, files } = store.compact_erased()?;
                // It names users of the node that stopped; the next one starts without.
                let hot_set = config.hot_set_file();
                forget_hot_set(&hot_set).with_context(|| format!("cannot delete {}", hot_set.display()))?;
                Ok(TakenOut { rows, live_entities: live, files })
            }
        }
    }
}

impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Node { address, .. } => write!(f, "the node at {address}"),
            Destination::Folder { config, .. } => write!(f, "the store in {}", config.store.path.display()),
        }
    }
}

/// Sets the position of partitions that were written from, or of one that larder.toml's topic has.
fn move_in_folder(
    store: &Store,
    config: &NodeConfig,
    stream: &str,
    partition: Option<i32>,
    to: u64,
) -> Result<Vec<Moved>> {
    let Some(configured) = config.streams.iter().find(|configured| configured.name == stream) else {
        let known: Vec<&str> = config.streams.iter().map(|stream| stream.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        bail!("the config has no stream {stream:?}; it has {known}");
    };
    let stored = store.stream_positions();
    let of_stream = stored.iter().filter_map(|(name, _)| partition_of_name(name));
    let of_stream = of_stream.filter(|(name, topic, _)| (*name, *topic) == (stream, configured.topic.as_str()));
    let partitions = partition.map_or_else(|| of_stream.map(|(_, _, partition)| partition).collect(), |one| vec![one]);
    let one = |partition: i32| {
        let from = store.move_stream(&configured.partition_name(partition), to)?;
        Ok(Moved { partition, from, to })
    };
    partitions.into_iter().map(one).collect()
}

fn now_live(config: &NodeConfig, store: &Store, published: Published) -> NowLive {
    let is_it = |info: &GenerationInfo| {
        (info.tenant, &info.view, info.generation) == (published.tenant, &published.view, published.generation)
    };
    let info = store.generations().into_iter().find(is_it);
    NowLive {
        tenant: tenant_name(config, published.tenant),
        view: published.view,
        generation: published.generation,
        previous: published.previous,
        entities: published.entities,
        rows: published.rows,
        cold_entities: info.as_ref().map_or(0, |info| info.cold_entities),
        cold_files: info.map_or(0, |info| info.cold_files as u64),
        already_live: published.already_live,
    }
}

/// A file or folder as it is named to a node, which has a working folder of its own.
fn named(path: &Path) -> Result<String> {
    let path = absolute(path)?;
    let Some(path) = path.to_str() else {
        bail!("{} cannot be named to the node: it is not UTF-8", path.display());
    };
    Ok(path.to_owned())
}

/// The number of a tenant of the config.
pub(crate) fn tenant_id(config: &NodeConfig, name: &str) -> Result<TenantId> {
    match config.tenant(name) {
        Some(tenant) => Ok(TenantId(tenant.id)),
        None => {
            let known: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            bail!("the config has no tenant {name:?}; it has {known}")
        }
    }
}

/// A tenant whose rows are in the store but whom the config no longer has is shown by its number, as the node does.
fn tenant_name(config: &NodeConfig, id: TenantId) -> String {
    let found = config.tenants.iter().find(|tenant| tenant.id == id.0);
    found.map_or_else(|| format!("#{}", id.0), |tenant| tenant.name.clone())
}
