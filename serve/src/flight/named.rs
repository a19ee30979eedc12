//! What a call of Flight names: a view by a path, or features by a command, which is JSON. A ticket is such a command, with the entities in it.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use larder_store::{FeatureRef, ViewConfig, WriteKind};
use serde::Deserialize;

use crate::config::NodeConfig;
use crate::error::Refusal;
use crate::features;

/// What follows a view's name in the path of deletions.
const DELETIONS: &str = "deletions";

/// A command: which features, and of whom.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Command {
    /// A feature service of larder.toml.
    service: String,
    /// Or features, as "view:feature".
    features: Vec<String>,
    /// Entity keys, in a ticket.
    pub(super) entities: Vec<String>,
    /// In an exchange the column with the keys; not needed where there is one only.
    pub(super) key: Option<String>,
}

impl Command {
    pub(super) fn parse(bytes: &[u8]) -> Result<Command, Refusal> {
        let example =
            r#"{"service": "answers", "entities": ["u1"]} or {"features": ["profile:name"], "entities": ["u1"]}"#;
        serde_json::from_slice(bytes).map_err(|error| {
            Refusal::Invalid(format!("the command cannot be read: {error}; it is JSON like {example}"))
        })
    }

    pub(super) fn features(&self, config: &NodeConfig) -> Result<Vec<FeatureRef>, Refusal> {
        features::wanted(config, &self.features, &self.service)
    }
}

/// What a descriptor names.
#[derive(Debug)]
pub(super) enum Named<'a> {
    View { view: &'a ViewConfig, kind: WriteKind },
    Features(Command),
}

impl<'a> Named<'a> {
    pub(super) fn read(descriptor: &FlightDescriptor, config: &'a NodeConfig) -> Result<Named<'a>, Refusal> {
        match descriptor.r#type() {
            DescriptorType::Cmd => Command::parse(&descriptor.cmd).map(Named::Features),
            DescriptorType::Path => {
                let path: Vec<&str> = descriptor.path.iter().map(String::as_str).collect();
                let (name, kind) = match path[..] {
                    [name] => (name, WriteKind::Upsert),
                    [name, DELETIONS] => (name, WriteKind::Delete),
                    _ => return Err(Refusal::Invalid("a path is [view], or [view, \"deletions\"]".to_owned())),
                };
                let view = config.view(name).ok_or_else(|| {
                    let names: Vec<&str> = config.views.iter().map(|view| view.name.as_str()).collect();
                    Refusal::NotFound(format!("view \"{name}\" is not declared; declared are {}", names.join(", ")))
                })?;
                Ok(Named::View { view, kind })
            }
            DescriptorType::Unknown => {
                Err(Refusal::Invalid("the descriptor is neither a path nor a command".to_owned()))
            }
        }
    }
}
