//! larder.toml: the node's settings, read and checked once, before anything is opened.
//!
//! Each part of Larder owns its own section beside its code (`StoreConfig`, `ModelConfig`, `ViewConfig`, and
//! here the node's own); this file nests them and resolves relative paths against the file's folder. What is
//! allowed stands in `config_check`. Every error names the file, the key, the value and what is allowed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_ingest::StreamConfig;
use larder_model::{EncodedFeature, EncoderConfig, Encoding, ModelConfig};
use larder_store::{FeatureRef, Shard, StoreConfig, ViewConfig};
use serde::{Deserialize, Serialize};

use crate::chaos::ChaosConfig;
use crate::context::Class;
use crate::feedback::FeedbackConfig;
use crate::lane::LaneConfig;
use crate::rows::RowsConfig;
use crate::rung::Rung;
use crate::schedule::config::{AdmissionConfig, BatcherConfig, RungsConfig};
use crate::threads::ThreadsConfig;

/// Everything larder.toml can say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The process itself: addresses, deadlines, limits of what comes in.
    pub node: NodeSection,
    /// Who a call speaks for.
    pub identity: IdentityConfig,
    /// What is let in.
    pub admission: AdmissionConfig,
    /// How questions become batches.
    pub batcher: BatcherConfig,
    /// Questions that nobody waits for.
    pub lane: LaneConfig,
    /// Answers that are kept until somebody says whether they helped.
    pub feedback: FeedbackConfig,
    /// What applications write while the node serves.
    pub rows: RowsConfig,
    /// What answers a question beside the full model, and when.
    pub rungs: RungsConfig,
    /// Which threads run on which CPUs.
    pub threads: ThreadsConfig,
    /// The feature store.
    pub store: StoreConfig,
    /// Faults on purpose.
    pub chaos: ChaosConfig,
    /// Whether those are allowed: no setting, but how the process was started.
    #[serde(skip)]
    pub allow_chaos: bool,
    /// The models: where they run, and the encoder of each rung.
    pub model: ModelConfig,
    /// The tenants this node answers for.
    #[serde(rename = "tenant")]
    pub tenants: Vec<TenantConfig>,
    /// The views of the store.
    #[serde(rename = "view")]
    pub views: Vec<ViewConfig>,
    /// The feature services.
    #[serde(rename = "service")]
    pub services: Vec<ServiceConfig>,
    /// The topics that are written into views.
    #[serde(rename = "stream")]
    pub streams: Vec<StreamConfig>,
}

/// `[node]`: the process itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where /metrics and /healthz are served over HTTP.
    pub metrics_listen: SocketAddr,
    /// Which part of all entities is this node's, "i/n"; empty where it has all of them.
    #[serde(with = "crate::shard::setting")]
    pub shard: Shard,
    /// Folder for what can be made again and is worth keeping: the catalogues' vectors.
    pub cache: PathBuf,
    /// tracing's filter, as in RUST_LOG, which overrides it.
    pub log: String,
    /// Threads that do nothing but network I/O.
    pub io_threads: usize,
    /// The deadline of a question whose caller sent none.
    pub default_deadline_ms: u64,
    /// A longer deadline than this is cut to it, and the reply says so.
    pub max_deadline_ms: u64,
    /// How long a stopping node goes on answering what it has let in.
    pub drain_timeout_s: u64,
    /// How long a starting node reads what was hot before it stopped, and the tenants' warm_keys; 0 = it starts with an empty hot tier.
    pub warm_timeout_s: u64,
    /// Longest question, in characters.
    pub max_text_chars: usize,
    /// Largest gRPC message taken in.
    pub max_message_bytes: usize,
    /// Most entities of one GetFeatures, Warm or Erase call.
    pub max_entities: usize,
    /// Most GetFeatures and Warm calls that run at once; one more is refused.
    pub max_concurrent_reads: usize,
    /// Most unanswered questions of one AnswerStream.
    pub max_stream_in_flight: usize,
    /// Most DoExchange streams of Arrow Flight that are open at once; one more is refused.
    pub max_exchanges: usize,
    /// Most open calls on one connection.
    pub max_calls_per_connection: u32,
}

impl Default for NodeSection {
    fn default() -> Self {
        NodeSection {
            listen: SocketAddr::from(([127, 0, 0, 1], 7700)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 7701)),
            shard: Shard::default(),
            cache: PathBuf::from("data/cache"),
            log: "info".to_owned(),
            io_threads: 2,
            default_deadline_ms: 300,
            max_deadline_ms: 30_000,
            drain_timeout_s: 30,
            warm_timeout_s: 10,
            max_text_chars: 2_000,
            max_message_bytes: 4 << 20,
            max_entities: 10_000,
            max_concurrent_reads: 4,
            max_stream_in_flight: 64,
            max_exchanges: 64,
            max_calls_per_connection: 1_024,
        }
    }
}

impl NodeSection {
    /// The deadline of a question that came without one.
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.default_deadline_ms)
    }

    /// The longest deadline that is honoured.
    pub fn max_deadline(&self) -> Duration {
        Duration::from_millis(self.max_deadline_ms)
    }
}

/// `[identity]`: who a call speaks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// How callers are told apart.
    pub mode: IdentityMode,
    /// The tenant of a call without x-larder-tenant; empty = such a call is refused.
    pub default_tenant: String,
    /// The class of a call without x-larder-class.
    pub default_class: Class,
    /// Development identity believes what a call says of itself, so the node listens on loopback only unless this is set.
    pub allow_remote: bool,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        IdentityConfig {
            mode: IdentityMode::Development,
            default_tenant: String::new(),
            default_class: Class::Normal,
            allow_remote: false,
        }
    }
}

/// How callers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityMode {
    /// Tenant, user, session and class are read from the call's metadata and believed.
    Development,
}

/// `[[tenant]]`: one customer of the node, with answers of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// Name, as identities state it: 1 to 64 of a-z, 0-9, - and _.
    pub name: String,
    /// Number in every key of the tenant's data. Never reuse one.
    pub id: u32,
    /// The answer catalogue, a TOML file.
    pub catalogue: PathBuf,
    /// The trained ranking head of the rung full; absent = answers are ranked by similarity alone.
    pub head: Option<PathBuf>,
    /// The trained ranking head of the rung light; absent = as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light_head: Option<PathBuf>,
    /// An encoder of its own for the rung full; absent = that of `[model.full]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<EncoderConfig>,
    /// An encoder of its own for the rung light; absent = that of `[model.light]`; without a folder the tenant has no such rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light: Option<EncoderConfig>,
    /// The feature service its answers use.
    pub service: String,
    /// A file of entity keys, one per line, whose rows a starting node reads before it is ready; absent = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_keys: Option<PathBuf>,
    /// What a customer reads when a person takes over.
    #[serde(default = "default_hand_over")]
    pub hand_over: String,
    /// Most questions a second; 0 = no limit of its own.
    #[serde(default)]
    pub max_per_s: u32,
    /// How many of them may come at once after a pause; 0 = those of one second.
    #[serde(default)]
    pub burst: u32,
    /// Whether its callers may write live rows; absent = as `[rows] write` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_rows: Option<bool>,
}

fn default_hand_over() -> String {
    "I am not sure I can answer that, so I am handing you over to a colleague.".to_owned()
}

impl TenantConfig {
    /// The trained ranking head of a rung.
    pub fn head_of(&self, rung: Rung) -> Option<&PathBuf> {
        match rung {
            Rung::Full => self.head.as_ref(),
            Rung::Light => self.light_head.as_ref(),
        }
    }
}

/// `[[service]]`: the features one model needs, and each one's encoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Name, unique in the file.
    pub name: String,
    /// The features, in the model's order.
    pub features: Vec<ServiceFeature>,
}

/// One feature of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFeature {
    /// `view:feature`.
    pub feature: String,
    /// How the ranking head sees it; absent = it is only for rendering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encode: Option<Encoding>,
}

impl ServiceFeature {
    /// The view and the feature; checked when the file was read.
    pub fn reference(&self) -> Option<FeatureRef> {
        FeatureRef::parse(&self.feature).ok()
    }
}

impl ServiceConfig {
    /// The features the ranking head sees, in order.
    pub fn encoded_features(&self) -> Vec<EncodedFeature> {
        let encoded = |feature: &ServiceFeature| {
            feature.encode.clone().map(|encoding| EncodedFeature { feature: feature.feature.clone(), encoding })
        };
        self.features.iter().filter_map(encoded).collect()
    }

    /// Every feature of the service, for a read plan.
    pub fn references(&self) -> Vec<FeatureRef> {
        self.features.iter().filter_map(ServiceFeature::reference).collect()
    }
}

/// Why larder.toml was refused: file, key, value and what is allowed, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// What is wrong with it, and what is allowed.
    pub message: String,
}

impl NodeConfig {
    /// Reads, resolves and checks a file. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
        let refuse = |message: String| ConfigError { file: path.display().to_string(), message };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let mut config = NodeConfig::parse(&text).map_err(refuse)?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// Reads and checks the text of a file, paths as they stand.
    pub fn parse(text: &str) -> Result<NodeConfig, String> {
        let mut config: NodeConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.store.shard = config.node.shard;
        config.validate()?;
        Ok(config)
    }

    /// The tenant of that name.
    pub fn tenant(&self, name: &str) -> Option<&TenantConfig> {
        self.tenants.iter().find(|tenant| tenant.name == name)
    }

    /// The view of that name.
    pub fn view(&self, name: &str) -> Option<&ViewConfig> {
        self.views.iter().find(|view| view.name == name)
    }

    /// The feature service of that name.
    pub fn service(&self, name: &str) -> Option<&ServiceConfig> {
        self.services.iter().find(|service| service.name == name)
    }

    /// A tenant's encoder for a rung; none where it has no such rung.
    pub fn encoder<'a>(&'a self, tenant: &'a TenantConfig, rung: Rung) -> Option<&'a EncoderConfig> {
        let (own, shared) = match rung {
            Rung::Full => (&tenant.full, &self.model.full),
            Rung::Light => (&tenant.light, &self.model.light),
        };
        own.as_ref().unwrap_or(shared).named()
    }

    /// Where a tenant's catalogue, encoded for a rung, is kept between starts.
    pub fn vectors_file(&self, tenant: &str, rung: Rung) -> PathBuf {
        self.node.cache.join(format!("{tenant}.{}.vectors.safetensors", rung.label()))
    }

    /// Where a draining node notes what is hot, for its next start.
    pub fn hot_set_file(&self) -> PathBuf {
        self.store.path.join("hot-set")
    }

    fn resolve(&mut self, folder: &Path) {
        // `join` leaves an absolute path as it is.
        self.node.cache = folder.join(&self.node.cache);
        self.store.path = folder.join(&self.store.path);
        self.store.cold_path = folder.join(&self.store.cold_path);
        // No folder stays none.
        let resolve = |encoder: &mut EncoderConfig| {
            if encoder.named().is_some() {
                encoder.folder = folder.join(&encoder.folder);
            }
        };
        resolve(&mut self.model.full);
        resolve(&mut self.model.light);
        for tenant in &mut self.tenants {
            tenant.full.as_mut().map(resolve);
            tenant.light.as_mut().map(resolve);
            tenant.light_head = tenant.light_head.take().map(|head| folder.join(head));
            tenant.catalogue = folder.join(&tenant.catalogue);
            tenant.warm_keys = tenant.warm_keys.take().map(|keys| folder.join(keys));
            tenant.head = tenant.head.take().map(|head| folder.join(head));
        }
        for schema in self.streams.iter_mut().flat_map(|stream| stream.schemas.values_mut()) {
            *schema = folder.join(&*schema);
        }
    }
}
