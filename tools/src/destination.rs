//! Where a generation is published: through the running node or, when none answers, into the store's own folder.
//!
//! RocksDB lets one process write to a folder, so a command that finds a node must ask it. Which of the two was used is
//! always told, because publishing into a folder changes nothing for a node that listens somewhere else.

use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use larder_serve::NodeConfig;
use larder_serve::v1;
use larder_serve::v1::admin_client::AdminClient;
use larder_store::{GenerationState, Published, Store, TenantId};
use serde::Serialize;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::client::{connect, reachable, refusal};
use crate::files::absolute;

/// How long a node may take to accept a connection before it counts as absent.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A node or a folder, ready to be published to.
pub(crate) enum Destination<'a> {
    Node { address: SocketAddr, admin: Box<AdminClient<Channel>>, runtime: Runtime },
    Folder { store: Store, config: &'a NodeConfig },
}

/// A generation of one view, live or kept for rollback.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListedGeneration {
    pub(crate) tenant: String,
    pub(crate) view: String,
    pub(crate) generation: u32,
    pub(crate) live: bool,
    pub(crate) entities: u64,
    pub(crate) rows: u64,
    pub(crate) as_of_ms: i64,
}

/// What is live after a publish or a rollback.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NowLive {
    pub(crate) tenant: String,
    pub(crate) view: String,
    pub(crate) generation: u32,
    pub(crate) previous: Option<u32>,
    pub(crate) entities: u64,
    pub(crate) rows: u64,
    pub(crate) already_live: bool,
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

    /// The config's store folder, whatever listens where.
    pub(crate) fn folder(config: &'a NodeConfig) -> Result<Destination<'a>> {
        Ok(Destination::Folder { store: Store::open(&config.store, &config.views)?, config })
    }

    /// A node may be another shop's that happens to listen on the same address: only one that serves the config's own store will do.
    fn node(address: SocketAddr, config: &NodeConfig) -> Result<Destination<'a>> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
        let channel = runtime.block_on(connect(&address.to_string()))?;
        let mut admin = Box::new(AdminClient::new(channel));
        let status = runtime.block_on(admin.get_node_status(v1::GetNodeStatusRequest {}));
        let served = status.map_err(|status| refusal(&status))?.into_inner().store_path;
        let own = std::path::absolute(&config.store.path)?.display().to_string();
        ensure!(
            served == own,
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
                let listed = |info: larder_store::GenerationInfo| ListedGeneration {
                    tenant: tenant_name(config, info.tenant),
                    view: info.view,
                    generation: info.generation,
                    live: info.state == GenerationState::Live,
                    entities: info.entities,
                    rows: info.rows,
                    as_of_ms: info.as_of_ms,
                };
                Ok(store.generations().into_iter().map(listed).collect())
            }
        }
    }

    /// A number for a new generation of that view: `unix_seconds`, or the next one that is greater than all in use.
    pub(crate) fn next_generation(&mut self, tenant: &str, view: &str, unix_seconds: u32) -> Result<u32> {
        let used = self.generations()?;
        let of_view = used.iter().filter(|listed| listed.tenant == tenant && listed.view == view);
        let greatest = of_view.map(|listed| listed.generation).max().unwrap_or(0);
        Ok(unix_seconds.max(greatest.saturating_add(1)))
    }

    /// Makes a built generation live. Its files are linked into the store.
    pub(crate) fn publish(&mut self, built: &Path) -> Result<NowLive> {
        match self {
            Destination::Node { admin, runtime, .. } => {
                let path = absolute(built)?;
                let Some(path) = path.to_str() else {
                    bail!("{} cannot be named to the node: it is not UTF-8", path.display());
                };
                let request = v1::PublishRequest { path: path.to_owned() };
                let reply = runtime.block_on(admin.publish(request)).map_err(|status| refusal(&status))?;
                Ok(reply.into_inner().into())
            }
            Destination::Folder { store, config } => Ok(now_live(config, store.publish(built)?)),
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
                let id = config.tenant(tenant).with_context(|| format!("the config has no tenant {tenant:?}"))?.id;
                Ok(now_live(config, store.rollback(TenantId(id), view)?))
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

impl From<v1::Generation> for ListedGeneration {
    fn from(generation: v1::Generation) -> ListedGeneration {
        let v1::Generation { tenant, view, generation, live, entities, rows, as_of_ms } = generation;
        ListedGeneration { tenant, view, generation, live, entities, rows, as_of_ms }
    }
}

impl From<v1::PublishReply> for NowLive {
    fn from(reply: v1::PublishReply) -> NowLive {
        NowLive {
            tenant: reply.tenant,
            view: reply.view,
            generation: reply.live_generation,
            previous: (reply.previous_generation != 0).then_some(reply.previous_generation),
            entities: reply.entities,
            rows: reply.rows,
            already_live: reply.already_live,
        }
    }
}

fn now_live(config: &NodeConfig, published: Published) -> NowLive {
    NowLive {
        tenant: tenant_name(config, published.tenant),
        view: published.view,
        generation: published.generation,
        previous: published.previous,
        entities: published.entities,
        rows: published.rows,
        already_live: published.already_live,
    }
}

/// A tenant whose rows are in the store but whom the config no longer has is shown by its number, as the node does.
fn tenant_name(config: &NodeConfig, id: TenantId) -> String {
    let found = config.tenants.iter().find(|tenant| tenant.id == id.0);
    found.map_or_else(|| format!("#{}", id.0), |tenant| tenant.name.clone())
}
