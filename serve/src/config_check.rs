//! What larder.toml may say: the node's own limits, and what no part can check alone, names that are unique and references that
//! hold. Each message has the key, the value and what is allowed; `NodeConfig::load` puts the file's name in front.

use std::collections::HashSet;
use std::fmt::Display;

use larder_model::{EncoderConfig, Encoding};
use larder_store::FeatureType;

use crate::config::{IdentityMode, NodeConfig, ServiceFeature, TenantConfig};
use crate::cpu_list;
use crate::rung::Rung;

/// Most streams of a node.
const MAX_STREAMS: usize = 64;

impl NodeConfig {
    /// Checks every value, and every reference from one section to another.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.validate_node()?;
        self.lane.validate()?;
        self.feedback.validate()?;
        self.rows.validate()?;
        self.store.validate().map_err(|error| error.to_string())?;
        self.model.validate().map_err(|error| error.to_string())?;
        self.chaos.validate("chaos.")?;
        for (name, list) in self.threads.lists() {
            cpu_list::parse(list).map_err(|problem| format!("threads.{name} = \"{list}\": {problem}"))?;
        }
        self.validate_views()?;
        self.validate_services()?;
        self.validate_fetch_size()?;
        self.validate_tenants()?;
        self.validate_streams()
    }

    fn validate_node(&self) -> Result<(), String> {
        let node = &self.node;
        within("node.io_threads", node.io_threads, 1, 256)?;
        within("node.max_deadline_ms", node.max_deadline_ms, 1, 3_600_000)?;
        within("node.default_deadline_ms", node.default_deadline_ms, 1, node.max_deadline_ms)?;
        within("node.drain_timeout_s", node.drain_timeout_s, 1, 3_600)?;
        within("node.warm_timeout_s", node.warm_timeout_s, 0, 3_600)?;
        within("node.max_text_chars", node.max_text_chars, 1, 100_000)?;
        within("node.max_message_bytes", node.max_message_bytes, 1_024, 64 << 20)?;
        within("node.max_entities", node.max_entities, 1, 1_000_000)?;
        within("node.max_concurrent_reads", node.max_concurrent_reads, 1, 256)?;
        within("node.max_stream_in_flight", node.max_stream_in_flight, 1, 65_536)?;
        within("node.max_exchanges", node.max_exchanges, 1, 4_096)?;
        within("node.max_calls_per_connection", node.max_calls_per_connection, 1, 1 << 20)?;
        within("admission.max_questions", self.admission.max_questions, 1, 1 << 20)?;
        within("admission.max_backlog_ms", self.admission.max_backlog_ms, 1, 3_600_000)?;
        within("batcher.max_questions", self.batcher.max_questions, 1, 4_096)?;
        within("batcher.max_cost_ms", self.batcher.max_cost_ms, 1, 60_000)?;
        within("batcher.max_wait_us", self.batcher.max_wait_us, 0, 1_000_000)?;
        self.validate_admission()?;
        within("rungs.cache_mib", self.rungs.cache_mib, 0, 1 << 20)?;
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

    fn validate_admission(&self) -> Result<(), String> {
        let (admission, rungs) = (&self.admission, &self.rungs);
        within("admission.least_concurrency", admission.least_concurrency, 1, 1_000_000)?;
        within("admission.standing_target_ms", admission.standing_target_ms, 0, 60_000)?;
        within("admission.vip_weight", admission.vip_weight, 1, 1_000)?;
        within("admission.normal_weight", admission.normal_weight, 1, 1_000)?;
        within("admission.bulk_weight", admission.bulk_weight, 1, 1_000)?;
        within("rungs.full_until_vip", rungs.full_until_vip, 0.0, 1.0)?;
        within("rungs.full_until_normal", rungs.full_until_normal, 0.0, 1.0)?;
        within("rungs.full_until_bulk", rungs.full_until_bulk, 0.0, 1.0)?;
        within("rungs.full_again_below", rungs.full_again_below, 0.0, 1.0)
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
            self.validate_rungs(tenant)?;
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

impl NodeConfig {
    fn validate_streams(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        if self.streams.len() > MAX_STREAMS {
            let streams = self.streams.len();
            return Err(format!(
                "{streams} [[stream]]: each has threads of its own; at most {MAX_STREAMS} are allowed"
            ));
        }
        for stream in &self.streams {
            let (name, tenant) = (&stream.name, &stream.tenant);
            unique(&mut names, "stream.name", name)?;
            if self.tenant(tenant).is_none() {
                let known = list(self.tenants.iter().map(|tenant| &tenant.name));
                return Err(format!(
                    "stream \"{name}\": tenant = \"{tenant}\": there is no such tenant; declared are {known}"
                ));
            }
            let view = self.view(&stream.view).ok_or_else(|| {
                let known = list(self.views.iter().map(|view| &view.name));
                format!("stream \"{name}\": view = \"{}\": there is no such view; declared are {known}", stream.view)
            })?;
            stream.validate(view)?;
        }
        Ok(())
    }
}

impl NodeConfig {
    /// The encoders and heads of a tenant's own.
    fn validate_rungs(&self, tenant: &TenantConfig) -> Result<(), String> {
        let name = &tenant.name;
        let own = [("full", tenant.full.as_ref()), ("light", tenant.light.as_ref().and_then(EncoderConfig::named))];
        for (key, encoder) in own.into_iter().filter_map(|(key, encoder)| Some((key, encoder?))) {
            encoder.validate().map_err(|error| format!("tenant \"{name}\": {key}: {error}"))?;
        }
        match &tenant.light_head {
            Some(head) if self.encoder(tenant, Rung::Light).is_none() => Err(format!(
                "tenant \"{name}\": light_head = \"{}\": there is no light encoder for it; name one in [model.light] or by light",
                head.display()
            )),
            _ => Ok(()),
        }
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

pub(crate) fn within<T: PartialOrd + Display + Copy>(key: &str, value: T, least: T, most: T) -> Result<(), String> {
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
