//! The node that live rows and publishing are measured on: the sample shop in a folder of its own, served on one core. Whatever puts load on it
//! has the other core.
//!
//! Its users' profiles are what is upserted; a view of accounts, which no question reads, is what is published.

use std::fs;
use std::path::{Path, PathBuf};

use larder_benches::{CpuTimes, Outcome, ServedNode, account_view, run_larder};
use larder_serve::TENANT_HEADER;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

/// The shop's users are u0000001 and so on.
pub(crate) const USERS: usize = 20_000;
/// The shop's one tenant.
pub(crate) const TENANT_NAME: &str = "demo";
/// The view of the users' profiles.
pub(crate) const PROFILE: &str = "profile";

/// Nothing below the full rung and nothing remembered, so that every answer costs the same; and room for many small reads.
const SETTINGS: &str = "max_concurrent_reads = 64\n[rungs]\nlight = false\ncached = false\nfallback = false\n";

/// A shop that is served.
pub(crate) struct Desk {
    /// Dropped, and so ended, before its folder.
    node: ServedNode,
    runtime: Runtime,
    folder: TempDir,
}

impl Desk {
    /// Makes the shop, serves it and loads its users.
    pub(crate) fn open() -> Outcome<Desk> {
        for model in ["minilm-l6", "potion"] {
            run_larder(&["model", "get", model])?;
        }
        let folder = tempfile::tempdir()?;
        let shop = folder.path().join("shop");
        let shop_text = shop.to_string_lossy().into_owned();
        run_larder(&["sample", "--out", &shop_text, "--users", &USERS.to_string()])?;
        let sample = fs::read_to_string(shop.join("larder.toml"))?;
        // Heads would have to be trained first; ranking by similarity alone costs the same forward.
        let without_heads = |line: &&str| !line.starts_with("head =") && !line.starts_with("light_head =");
        let sample: Vec<&str> = sample.lines().filter(without_heads).collect();
        let settings = format!("{SETTINGS}{}\n{}", sample.join("\n"), account_toml()?);
        let node = ServedNode::start(&shop, "node", &settings, &[])?;
        let config = shop.join("node.toml").to_string_lossy().into_owned();
        for view in [PROFILE, "orders"] {
            let parquet = shop.join(view).with_extension("parquet").to_string_lossy().into_owned();
            let load = ["ingest", "load", "--config", &config, "--tenant", TENANT_NAME, "--view", view, &parquet];
            run_larder(&load)?;
        }
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Desk { node, runtime, folder })
    }

    /// Where the node serves gRPC.
    pub(crate) fn address(&self) -> &str {
        self.node.address()
    }

    /// Processor time that the node's threads have used.
    pub(crate) fn cpu(&self) -> Outcome<CpuTimes> {
        self.node.cpu()
    }

    /// A folder on the store's disk.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The store's folder, which the node has open.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("shop/store")
    }

    /// Runs what talks to the node.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        self.runtime.block_on(work)
    }
}

/// A connection to a node.
pub(crate) async fn connect(address: &str) -> Outcome<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?)
}

/// A message, or a stream of them, from the shop.
pub(crate) fn of_shop<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(TENANT_HEADER, MetadataValue::from_static(TENANT_NAME));
    request
}

/// The name of a user, from 0.
pub(crate) fn user(number: usize) -> String {
    format!("u{:07}", number + 1)
}

/// The view of accounts as larder.toml declares it.
fn account_toml() -> Outcome<String> {
    let view = account_view();
    let mut features = Vec::with_capacity(view.features.len());
    for feature in &view.features {
        let declared = serde_json::to_value(feature)?;
        features.push(format!("{{ name = {}, type = {} }}", declared["name"], declared["type"]));
    }
    let ttl = view.ttl_s.map_or(String::new(), |ttl_s| format!("ttl_s = {ttl_s}\n"));
    Ok(format!(
        "[[view]]\nname = {:?}\nid = {}\nkind = \"latest\"\nentity_key = {:?}\nevent_time = {:?}\n{ttl}features = [ {} ]\n",
        view.name,
        view.id,
        view.entity_key,
        view.event_time,
        features.join(", ")
    ))
}
