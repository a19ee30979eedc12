//! `[[stream]]` of larder.toml: one topic, whose rows it holds, and how much of the node it may take.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use larder_store::{FeatureConfig, ViewConfig};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::change_stream::properties::Properties;

/// Longest name of a stream; it is part of its partitions' names in the store.
const MAX_NAME_BYTES: usize = 64;
/// Longest name of a topic, as Kafka has it.
const MAX_TOPIC_BYTES: usize = 249;

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
    /// Checks everything that can be checked without the brokers, against the view that it names. The message has key, value and what is
    /// allowed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self, view: &ViewConfig) -> Result<(), String> {
        self.check(view).map_err(|message| format!("stream \"{}\": {message}", self.name))
    }

    fn check(&self, view: &ViewConfig) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES || !self.name.chars().all(plain) {
            return Err(format!("name = \"{}\": must be 1 to {MAX_NAME_BYTES} of a-z, 0-9, - and _", self.name));
        }
        let (topics, optional) = ([("topic", &self.topic)], [("reject_topic", &self.reject_topic)]);
        for (key, topic) in topics.into_iter().chain(optional.into_iter().filter(|(_, topic)| !topic.is_empty())) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if topic.is_empty() || topic.len() > MAX_TOPIC_BYTES || !topic.chars().all(plain) {
                return Err(format!(
                    "{key} = \"{topic}\": must be 1 to {MAX_TOPIC_BYTES} of a-z, A-Z, 0-9, ., - and _"
                ));
            }
        }
        if self.topic == self.reject_topic {
            return Err(format!("reject_topic = \"{}\": is the topic itself; name another", self.reject_topic));
        }
        self.check_brokers()?;
        self.check_schemas()?;
        self.check_deletion_column(view)?;
        within("max_message_kib", self.max_message_kib, 1, 65_536)?;
        within("max_batch_messages", self.max_batch_messages, 1, 65_536)?;
        within("max_batch_kib", self.max_batch_kib, 1, 65_536)?;
        within("linger_ms", self.linger_ms, 0, 1_000)?;
        within("max_waiting_mib", self.max_waiting_mib, 1, 1_024)?;
        within("refresh_ms", self.refresh_ms, 50, 600_000)?;
        self.properties.validate(self)
    }

    fn check_brokers(&self) -> Result<(), String> {
        let well = |broker: &&String| {
            let parts = broker.rsplit_once(':');
            parts.is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains([',', '/']) && port.parse::<u16>().is_ok()
            })
        };
        match self.brokers.iter().find(|broker| !well(broker)) {
            Some(wrong) => Err(format!("brokers: \"{wrong}\": must be host:port, such as kafka-1:9092")),
            None if self.brokers.is_empty() => Err("brokers is empty: name at least one, as host:port".to_owned()),
            None => Ok(()),
        }
    }

    fn check_schemas(&self) -> Result<(), String> {
        if let Some(id) =
            self.schemas.keys().find(|id| id.parse::<u32>().map(|number| number.to_string()).as_ref() != Ok(*id))
        {
            return Err(format!("schemas: \"{id}\": must be the id of a schema, a number of 32 bits"));
        }
        let registry = &self.schema_registry;
        let has_schemas = !self.schemas.is_empty() || !registry.is_empty();
        match self.format {
            Format::Avro if !has_schemas => {
                Err("format = \"avro\": needs schemas, files by their ids, or a schema_registry".to_owned())
            }
            Format::Json | Format::Arrow if has_schemas => {
                Err("schemas and schema_registry: only messages of format = \"avro\" have schemas of their own"
                    .to_owned())
            }
            _ if registry.is_empty() => Ok(()),
            _ => match Url::parse(registry) {
                Ok(url) if url.scheme() == "http" && url.has_host() => Ok(()),
                _ => Err(format!("schema_registry = \"{registry}\": must be a URL such as http://registry:8081")),
            },
        }
    }

    fn check_deletion_column(&self, view: &ViewConfig) -> Result<(), String> {
        let name = &self.deletion_column;
        let of = |feature: &FeatureConfig| feature.name == *name || feature.former_names.contains(name);
        let taken = view.entity_key == *name || view.event_time == *name || view.features.iter().any(of);
        if name.is_empty() || (taken && self.format != Format::Json) {
            return Err(format!(
                "deletion_column = \"{name}\": must name a column that is none of view \"{}\"; set it to another",
                view.name
            ));
        }
        Ok(())
    }

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

fn within<T: PartialOrd + Display>(key: &str, value: T, least: T, most: T) -> Result<(), String> {
    if value < least || value > most {
        return Err(format!("{key} = {value}: must be {least} to {most}"));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use larder_store::{FeatureType, ViewKind};

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
    fn what_is_not_allowed_is_told_by_key_value_and_what_is() {
        assert_eq!(config(Format::Json).validate(&orders()), Ok(()));
        let mut paid = orders();
        paid.features[1].former_names = vec!["delete".to_owned()];
        assert_eq!(config(Format::Json).validate(&paid), Ok(()), "JSON says so in a field of its own");
        let message = config(Format::Arrow).validate(&paid).unwrap_err();
        assert!(message.starts_with("stream \"orders\": deletion_column = \"delete\": must name"), "{message}");
        type Change = fn(&mut StreamConfig);
        let changes: [(Change, &str); 13] = [
            (|config| config.name = "Orders".to_owned(), "name = \"Orders\": must be 1 to 64 of a-z"),
            (|config| config.brokers.clear(), "brokers is empty"),
            (|config| config.brokers = vec!["kafka".to_owned()], "\"kafka\": must be host:port"),
            (|config| config.brokers = vec!["a:1,b:2".to_owned()], "\"a:1,b:2\": must be host:port"),
            (|config| config.topic = "a b".to_owned(), "topic = \"a b\": must be 1 to 249"),
            (|config| config.reject_topic = config.topic.clone(), "is the topic itself"),
            (|config| config.format = Format::Avro, "needs schemas"),
            (|config| config.schema_registry = "http://registry:8081".to_owned(), "only messages of format = \"avro\""),
            (
                |config| {
                    config.format = Format::Avro;
                    config.schema_registry = "https://registry".to_owned();
                },
                "must be a URL such as http://registry:8081",
            ),
            (
                |config| {
                    config.format = Format::Avro;
                    config.schemas = [("seven".to_owned(), PathBuf::from("x"))].into();
                },
                "\"seven\": must be the id of a schema",
            ),
            (|config| config.linger_ms = 1_001, "linger_ms = 1001: must be 0 to 1000"),
            (|config| config.max_message_kib = 0, "max_message_kib = 0: must be 1 to 65536"),
            (|config| config.refresh_ms = 0, "refresh_ms = 0: must be 50 to 600000"),
        ];
        for (change, says) in changes {
            let mut config = config(Format::Json);
            change(&mut config);
            let message = config.validate(&orders()).unwrap_err();
            assert!(message.contains(says), "{message:?} does not say {says:?}");
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
