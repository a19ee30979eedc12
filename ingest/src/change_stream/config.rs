//! `[[stream]]` of larder.toml: one topic, whose rows it holds, and how much of the node it may take.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::change_stream::properties::Properties;

/// A topic that is written into a view of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Name, as the store remembers its positions: 1 to 64 of a-z, 0-9, - and _. Never give it to another topic of that name.
    pub name: String,
    /// Brokers to begin with, each as host:port.
    pub brokers: Vec<String>,
    /// The topic. Every partition of it is read.
    pub topic: String,
    /// Whose rows these are, by the tenant's name.
    pub tenant: String,
    /// Of which view.
    pub view: String,
    /// What a message is.
    pub format: Format,
    /// Where to begin when the store knows nothing of the topic.
    #[serde(default)]
    pub begin: Begin,
    /// Where messages go that are no rows of the view; empty = such a message stops its partition.
    #[serde(default)]
    pub reject_topic: String,
    /// The boolean column, of Avro and Arrow, that makes a row a deletion.
    #[serde(default = "default_deletion_column")]
    pub deletion_column: String,
    /// Avro schemas, files, by the id that messages name them by.
    #[serde(default)]
    pub schemas: BTreeMap<String, PathBuf>,
    /// Where Avro schemas are asked for that are not in `schemas`; empty = nowhere.
    #[serde(default)]
    pub schema_registry: String,
    /// Largest message; a larger one is no row.
    #[serde(default = "default_max_message_kib")]
    pub max_message_kib: usize,
    /// Most messages that are written together.
    #[serde(default = "default_max_batch_messages")]
    pub max_batch_messages: usize,
    /// Most bytes of messages that are written together.
    #[serde(default = "default_max_batch_kib")]
    pub max_batch_kib: usize,
    /// How long a message waits for others to be written with.
    #[serde(default = "default_linger_ms")]
    pub linger_ms: u64,
    /// Most bytes of messages that were fetched and wait for their turn.
    #[serde(default = "default_max_waiting_mib")]
    pub max_waiting_mib: usize,
    /// How often new partitions and the ends of all of them are looked up.
    #[serde(default = "default_refresh_ms")]
    pub refresh_ms: u64,
    /// Further settings of librdkafka, such as those of security.
    #[serde(default)]
    pub properties: Properties,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A JSON object, as `larder rows write` reads it from a line.
    Json,
    /// An Avro record behind the id or the fingerprint of its schema.
    Avro,
    /// An Arrow IPC stream.
    Arrow,
}

/// Where to begin in a topic that the store knows nothing of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// At the first message that there is.
    #[default]
    Earliest,
    /// Behind the last one.
    Latest,
}

fn default_deletion_column() -> String {
    "delete".to_owned()
}

fn default_max_message_kib() -> usize {
    1_024
}

fn default_max_batch_messages() -> usize {
    4_096
}

fn default_max_batch_kib() -> usize {
    8_192
}

fn default_linger_ms() -> u64 {
    5
}

fn default_max_waiting_mib() -> usize {
    32
}

fn default_refresh_ms() -> u64 {
    5_000
}

impl StreamConfig {
    /// The name of a partition in the store.
    pub fn partition_name(&self, partition: i32) -> String {
        format!("kafka/{}/{}/{partition}", self.name, self.topic)
    }
}

/// Stream, topic and partition of a name in the store; none where it is no topic's.
pub fn partition_of_name(name: &str) -> Option<(&str, &str, i32)> {
    let mut parts = name.strip_prefix("kafka/")?.splitn(3, '/');
    let (stream, topic, partition) = (parts.next()?, parts.next()?, parts.next()?);
    Some((stream, topic, partition.parse().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use larder_store::{FeatureConfig, FeatureType, ViewConfig, ViewKind};

    use super::*;

    pub(crate) fn orders() -> ViewConfig {
        ViewConfig {
            name: "orders".to_owned(),
            id: 1,
            kind: ViewKind::LastN,
            entity_key: "user".to_owned(),
            event_time: "at".to_owned(),
            ttl_s: None,
            n: Some(3),
            element_key: Some("order_id".to_owned()),
            features: vec![
                FeatureConfig::new("order_id", FeatureType::Utf8),
                FeatureConfig::new("paid", FeatureType::F64),
            ],
        }
    }

    pub(crate) fn config(format: Format) -> StreamConfig {
        StreamConfig {
            name: "orders".to_owned(),
            brokers: vec!["localhost:9092".to_owned()],
            topic: "shop.orders".to_owned(),
            tenant: "demo".to_owned(),
            view: "orders".to_owned(),
            format,
            begin: Begin::default(),
            reject_topic: String::new(),
            deletion_column: default_deletion_column(),
            schemas: BTreeMap::new(),
            schema_registry: String::new(),
            max_message_kib: default_max_message_kib(),
            max_batch_messages: default_max_batch_messages(),
            max_batch_kib: default_max_batch_kib(),
            linger_ms: default_linger_ms(),
            max_waiting_mib: default_max_waiting_mib(),
            refresh_ms: default_refresh_ms(),
            properties: Properties::default(),
        }
    }

    #[test]
    fn a_partition_is_found_by_its_name() {
        let name = config(Format::Json).partition_name(12);
        assert_eq!(
            (name.as_str(), partition_of_name(&name)),
            ("kafka/orders/shop.orders/12", Some(("orders", "shop.orders", 12)))
        );
        assert!(partition_of_name("orders/3").is_none() && partition_of_name("kafka/a/b").is_none());
    }
}
