//! larder.toml: the node's settings, read and checked once, before anything is opened.
//!
//! Each part of Larder owns its own section beside its code (`StoreConfig`, `ModelConfig`, `ViewConfig`, and
//! here the node's own); this file nests them, resolves relative paths against the file's folder and checks
//! what no part can check alone: that names are unique and that references between sections hold. Every error
//! names the file, the key, the value and what is allowed.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_model::{EncodedFeature, Encoding, ModelConfig};
use larder_store::{FeatureRef, FeatureType, StoreConfig, ViewConfig};
use serde::{Deserialize, Serialize};

use crate::context::Class;

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
    /// The feature store.
    pub store: StoreConfig,
    /// The text encoder.
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
}

/// `[node]`: the process itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where /metrics and /healthz are served over HTTP.
    pub metrics_listen: SocketAddr,
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
    /// Longest question, in characters.
    pub max_text_chars: usize,
    /// Largest gRPC message taken in.
    pub max_message_bytes: usize,
    /// Most entities of one GetFeatures or Warm call.
    pub max_entities: usize,
    /// Most GetFeatures and Warm calls that run at once; one more is refused.
    pub max_concurrent_reads: usize,
    /// Most unanswered questions of one AnswerStream.
    pub max_stream_in_flight: usize,
    /// Most open calls on one connection.
    pub max_calls_per_connection: u32,
}

impl Default for NodeSection {
    fn default() -> Self {
        NodeSection {
            listen: SocketAddr::from(([127, 0, 0, 1], 7700)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 7701)),
            cache: PathBuf::from("data/cache"),
            log: "info".to_owned(),
            io_threads: 2,
            default_deadline_ms: 300,
            max_deadline_ms: 30_000,
            drain_timeout_s: 30,
            max_text_chars: 2_000,
            max_message_bytes: 4 << 20,
            max_entities: 10_000,
            max_concurrent_reads: 4,
            max_stream_in_flight: 64,
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

/// `[admission]`: what is let in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionConfig {
    /// Most questions let in and not yet answered.
    pub max_questions: usize,
    /// Most predicted work let in and not yet done, in milliseconds of the scorer.
    pub max_backlog_ms: u64,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        AdmissionConfig { max_questions: 1_024, max_backlog_ms: 2_000 }
    }
}

/// `[batcher]`: how questions become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatcherConfig {
    /// Most questions in a batch.
    pub max_questions: usize,
    /// Most predicted scoring time of a batch; a single question may exceed it.
    pub max_cost_ms: u64,
    /// While the scorer is busy, the longest a question waits for others before its batch closes and is fetched ahead.
    pub max_wait_us: u64,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        BatcherConfig { max_questions: 32, max_cost_ms: 75, max_wait_us: 3_000 }
    }
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
    /// The trained ranking head; absent = answers are ranked by similarity alone.
    pub head: Option<PathBuf>,
    /// The feature service its answers use.
    pub service: String,
    /// What a customer reads when a person takes over.
    #[serde(default = "default_hand_over")]
    pub hand_over: String,
}

fn default_hand_over() -> String {
    "I am not sure I can answer that, so I am handing you over to a colleague.".to_owned()
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
        let config: NodeConfig = toml::from_str(text).map_err(|error| error.to_string())?;
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

    /// Where a tenant's encoded catalogue is kept between starts.
    pub fn vectors_file(&self, tenant: &str) -> PathBuf {
        self.node.cache.join(format!("{tenant}.vectors.safetensors"))
    }

    fn resolve(&mut self, folder: &Path) {
        // `join` leaves an absolute path as it is.
        self.node.cache = folder.join(&self.node.cache);
        self.store.path = folder.join(&self.store.path);
        self.model.encoder = folder.join(&self.model.encoder);
        for tenant in &mut self.tenants {
            tenant.catalogue = folder.join(&tenant.catalogue);
            tenant.head = tenant.head.take().map(|head| folder.join(head));
        }
    }

    fn validate(&self) -> Result<(), String> {
        self.validate_node()?;
        self.store.validate().map_err(|error| error.to_string())?;
        self.model.validate().map_err(|error| error.to_string())?;
        self.validate_views()?;
        self.validate_services()?;
        self.validate_fetch_size()?;
        self.validate_tenants()
    }

    fn validate_node(&self) -> Result<(), String> {
        let node = &self.node;
        within("node.io_threads", node.io_threads, 1, 256)?;
        within("node.max_deadline_ms", node.max_deadline_ms, 1, 3_600_000)?;
        within("node.default_deadline_ms", node.default_deadline_ms, 1, node.max_deadline_ms)?;
        within("node.drain_timeout_s", node.drain_timeout_s, 1, 3_600)?;
        within("node.max_text_chars", node.max_text_chars, 1, 100_000)?;
        within("node.max_message_bytes", node.max_message_bytes, 1_024, 64 << 20)?;
        within("node.max_entities", node.max_entities, 1, 1_000_000)?;
        within("node.max_concurrent_reads", node.max_concurrent_reads, 1, 256)?;
        within("node.max_stream_in_flight", node.max_stream_in_flight, 1, 65_536)?;
        within("node.max_calls_per_connection", node.max_calls_per_connection, 1, 1 << 20)?;
        within("admission.max_questions", self.admission.max_questions, 1, 1 << 20)?;
        within("admission.max_backlog_ms", self.admission.max_backlog_ms, 1, 3_600_000)?;
        within("batcher.max_questions", self.batcher.max_questions, 1, 4_096)?;
        within("batcher.max_cost_ms", self.batcher.max_cost_ms, 1, 60_000)?;
        within("batcher.max_wait_us", self.batcher.max_wait_us, 0, 1_000_000)?;
        let remote = !node.listen.ip().is_loopback();
        if self.identity.mode == IdentityMode::Development && remote && !self.identity.allow_remote {
            return Err(format!(
                "node.listen = \"{}\": development identity believes every caller, so only a loopback address is allowed; \
                 set identity.allow_remote = true where the network in front of the node is trusted",
                node.listen
            ));
        }
        Ok(())
    }

    fn validate_views(&self) -> Result<(), String> {
        let (mut names, mut ids) = (HashSet::new(), HashSet::new());
        for view in &self.views {
            view.validate().map_err(|error| error.to_string())?;
            unique(&mut names, "view.name", &view.name)?;
            unique(&mut ids, "view.id", &view.id)?;
        }
        Ok(())
    }

    /// The largest batch and the largest GetFeatures call must fit into one fetch.
    fn validate_fetch_size(&self) -> Result<(), String> {
        let views = self.views.len();
        let calls =
            [("batcher.max_questions", self.batcher.max_questions), ("node.max_entities", self.node.max_entities)];
        for (key, entities) in calls {
            let (keys, limit) = (entities.saturating_mul(views), self.store.max_fetch_keys);
            if keys > limit {
                return Err(format!(
                    "{key} = {entities}: with {views} views that is {keys} keys, and store.max_fetch_keys = {limit}; \
                     lower the one or raise the other"
                ));
            }
        }
        Ok(())
    }

    fn validate_services(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for service in &self.services {
            unique(&mut names, "service.name", &service.name)?;
            if service.features.is_empty() {
                return Err(format!(
                    "service \"{}\": features is empty; name at least one \"view:feature\"",
                    service.name
                ));
            }
            let mut features = HashSet::new();
            for entry in &service.features {
                unique(&mut features, "service.features.feature", &entry.feature)?;
                self.validate_feature(&service.name, entry)?;
            }
        }
        Ok(())
    }

    fn validate_feature(&self, service: &str, entry: &ServiceFeature) -> Result<(), String> {
        let refuse =
            |allowed: String| Err(format!("service \"{service}\": feature = \"{}\": {allowed}", entry.feature));
        let Some(reference) = entry.reference() else {
            return refuse("must have the form \"view:feature\"".to_owned());
        };
        let Some(view) = self.view(&reference.view) else {
            return refuse(format!(
                "there is no such view; declared are {}",
                list(self.views.iter().map(|view| &view.name))
            ));
        };
        let Some(feature) = view.features.iter().find(|feature| feature.name == reference.feature) else {
            let names = list(view.features.iter().map(|feature| &feature.name));
            return refuse(format!("view \"{}\" has no such feature; it has {names}", view.name));
        };
        match &entry.encode {
            Some(encoding) if !encodes(encoding, feature.data_type) => {
                refuse(format!("a {:?} cannot be encoded so; {ENCODINGS}", feature.data_type))
            }
            _ => Ok(()),
        }
    }

    fn validate_tenants(&self) -> Result<(), String> {
        let (mut names, mut ids) = (HashSet::new(), HashSet::new());
        for tenant in &self.tenants {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
            if tenant.name.is_empty() || tenant.name.len() > 64 || !tenant.name.chars().all(plain) {
                return Err(format!("tenant.name = \"{}\": must be 1 to 64 of a-z, 0-9, - and _", tenant.name));
            }
            unique(&mut names, "tenant.name", &tenant.name)?;
            unique(&mut ids, "tenant.id", &tenant.id)?;
            if self.service(&tenant.service).is_none() {
                return Err(format!(
                    "tenant \"{}\": service = \"{}\": there is no such service; declared are {}",
                    tenant.name,
                    tenant.service,
                    list(self.services.iter().map(|service| &service.name))
                ));
            }
        }
        let default = &self.identity.default_tenant;
        if !default.is_empty() && self.tenant(default).is_none() {
            return Err(format!(
                "identity.default_tenant = \"{default}\": there is no such tenant; declared are {}",
                list(self.tenants.iter().map(|tenant| &tenant.name))
            ));
        }
        Ok(())
    }
}

/// What `encodes` allows, in words.
const ENCODINGS: &str =
    "log takes numbers, age_days takes timestamps, flag takes bools, one_hot takes texts, integers and bools";

/// Whether a ranking head can see values of that type so.
fn encodes(encoding: &Encoding, data_type: FeatureType) -> bool {
    use FeatureType::{Bool, F32, F64, I32, I64, Timestamp, Utf8};
    match encoding {
        Encoding::Log => matches!(data_type, I32 | I64 | F32 | F64),
        Encoding::AgeDays(_) => data_type == Timestamp,
        Encoding::Flag => data_type == Bool,
        Encoding::OneHot(_) => matches!(data_type, Utf8 | I32 | I64 | Bool),
    }
}

fn within<T: PartialOrd + Display + Copy>(key: &str, value: T, least: T, most: T) -> Result<(), String> {
    if value < least || value > most {
        return Err(format!("{key} = {value}: must be {least} to {most}"));
    }
    Ok(())
}

fn unique<T: std::hash::Hash + Eq + Display + Clone>(
    seen: &mut HashSet<T>,
    key: &str,
    value: &T,
) -> Result<(), String> {
    if !seen.insert(value.clone()) {
        return Err(format!("{key} = {value}: stands twice; each must be unique"));
    }
    Ok(())
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
