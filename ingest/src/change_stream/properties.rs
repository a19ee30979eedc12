//! Settings of librdkafka: those that larder.toml passes through, and those that what Larder promises depends on and that it decides itself.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use serde::{Deserialize, Serialize};

use crate::change_stream::config::StreamConfig;

/// The group that is named where larder.toml names none. Nothing is committed to it and nobody joins it; Kafka wants a name.
const GROUP: &str = "larder";
/// How long the brokers may take to acknowledge a rejected message.
const REJECT_TIMEOUT_MS: u32 = 3_000;
/// What a fetch may bring beyond what may wait: a fetch always brings one message, however large, and Kafka counts what is compressed.
const FETCH_MARGIN_BYTES: usize = 1 << 20;
/// Largest reply of a broker that librdkafka takes by itself.
const LARGEST_REPLY_BYTES: usize = 100_000_000;
/// librdkafka's own least.
const MIN_FETCH_BYTES: usize = 1_000_000;

/// Settings that are not passed through, by the beginnings of their names, and why.
const DECIDED: &[(&str, &str)] = &[
    ("bootstrap.servers", "name them in brokers"),
    ("metadata.broker.list", "name them in brokers"),
    ("enable.auto.commit", "positions are kept in the store, with the rows"),
    ("enable.auto.offset.store", "positions are kept in the store, with the rows"),
    ("auto.commit.", "positions are kept in the store, with the rows"),
    ("offset.store.", "positions are kept in the store, with the rows"),
    (
        "auto.offset.reset",
        "begin says where a new stream begins, and messages that are gone are never passed over silently",
    ),
    ("enable.partition.eof", "the stream has to know the end"),
    ("group.instance.id", "partitions are not shared out by a group"),
    ("group.protocol", "partitions are not shared out by a group"),
    ("partition.assignment.strategy", "partitions are not shared out by a group"),
    ("queued.max.messages.kbytes", "set max_waiting_mib"),
    ("fetch.max.bytes", "it follows from max_waiting_mib"),
    ("fetch.message.max.bytes", "it follows from max_message_kib"),
    ("max.partition.fetch.bytes", "it follows from max_message_kib"),
    ("message.max.bytes", "it follows from max_message_kib"),
    ("acks", "a rejected message is acknowledged by all replicas"),
    ("request.required.acks", "a rejected message is acknowledged by all replicas"),
    ("message.timeout.ms", "a rejected message that is not acknowledged is sent again later"),
    ("delivery.timeout.ms", "a rejected message that is not acknowledged is sent again later"),
    ("queue.buffering.max.kbytes", "it follows from max_batch_kib"),
    ("transactional.id", "rejected messages are not part of a transaction"),
    ("plugin.library.paths", "no foreign code is loaded"),
    ("test.", "it is for librdkafka's own tests"),
];

/// What needs the feature kafka-tls, by the beginnings of names.
const NEEDS_TLS: &str = "this build has no TLS for Kafka; build it with the feature kafka-tls (docs/change-streams.md)";

/// Settings by name. They may hold passwords, and are not shown.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.0.keys().map(|name| (name, "..."))).finish()
    }
}

impl Properties {
    /// Refuses what Larder decides, what this build cannot do, and what librdkafka does not know. No message has a value.
    pub(crate) fn validate(&self, config: &StreamConfig) -> Result<(), String> {
        for (name, value) in &self.0 {
            if let Some((_, why)) = DECIDED.iter().find(|(decided, _)| is_or_begins(name, decided)) {
                return Err(format!("properties: \"{name}\" is decided by Larder: {why}"));
            }
            if !cfg!(feature = "kafka-tls") && needs_tls(name, value) {
                return Err(format!("properties: \"{name}\": {NEEDS_TLS}"));
            }
        }
        consumer(config).create_native_config().map(drop).map_err(|error| self.told(error))?;
        producer(config).create_native_config().map(drop).map_err(|error| self.told(error))
    }

    /// What librdkafka refuses, without the values, which it likes to repeat.
    pub(crate) fn told(&self, error: KafkaError) -> String {
        let (name, reason) = match error {
            KafkaError::ClientConfig(_, description, name, _) => (format!("\"{name}\": "), description),
            error => (String::new(), error.to_string()),
        };
        let hide = |message: String, value: &String| message.replace(value.as_str(), "...");
        let reason = self.0.values().filter(|value| value.len() > 3).fold(reason, hide);
        format!("properties: {name}{reason}")
    }
}

fn is_or_begins(name: &str, decided: &str) -> bool {
    if decided.ends_with('.') { name.starts_with(decided) } else { name == decided }
}

fn needs_tls(name: &str, value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    match name {
        "security.protocol" => matches!(value.as_str(), "ssl" | "sasl_ssl"),
        "sasl.mechanism" | "sasl.mechanisms" => value.starts_with("scram") || value == "oauthbearer",
        _ => name.starts_with("ssl."),
    }
}

/// What reads the topic.
pub(crate) fn consumer(config: &StreamConfig) -> ClientConfig {
    let (message, waiting) = (config.max_message_kib << 10, config.max_waiting_mib << 20);
    let fetch = (waiting.max(message) + FETCH_MARGIN_BYTES).max(MIN_FETCH_BYTES);
    let mut client = common(config);
    client
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", (config.max_waiting_mib << 10).to_string())
        .set("fetch.message.max.bytes", message.to_string())
        .set("fetch.max.bytes", fetch.to_string());
    let largest = (fetch + FETCH_MARGIN_BYTES).max(LARGEST_REPLY_BYTES).to_string();
    for (name, value) in [("group.id", GROUP), ("fetch.wait.max.ms", "100"), ("receive.message.max.bytes", &largest)] {
        if client.get(name).is_none() {
            client.set(name, value);
        }
    }
    client
}

/// What writes rejected messages.
pub(crate) fn producer(config: &StreamConfig) -> ClientConfig {
    let message = (config.max_message_kib << 10) + FETCH_MARGIN_BYTES;
    let mut client = common(config);
    client
        .set("acks", "all")
        .set("message.timeout.ms", REJECT_TIMEOUT_MS.to_string())
        .set("message.max.bytes", message.to_string())
        .set("queue.buffering.max.kbytes", (config.max_message_kib + config.max_batch_kib).to_string())
        .set("linger.ms", "1");
    // What is the consumer's alone would be warned of.
    for name in ["group.id", "fetch.wait.max.ms", "isolation.level", "session.timeout.ms"] {
        client.remove(name);
    }
    client
}

fn common(config: &StreamConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (name, value) in &config.properties.0 {
        client.set(name, value);
    }
    client.set("bootstrap.servers", config.brokers.join(","));
    if client.get("client.id").is_none() {
        client.set("client.id", format!("larder-{}", config.name));
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change_stream::config::Format;
    use crate::change_stream::config::tests::config;

    fn validate(properties: &[(&str, &str)]) -> Result<(), String> {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = StreamConfig { properties: Properties(properties.collect()), ..config(Format::Json) };
        config.properties.validate(&config)
    }

    #[test]
    fn what_larder_decides_and_what_nobody_knows_is_refused() {
        assert_eq!(
            validate(&[("client.id", "shop"), ("group.id", "shop"), ("isolation.level", "read_uncommitted")]),
            Ok(())
        );
        for (name, value, says) in [
            ("auto.offset.reset", "latest", "\"auto.offset.reset\" is decided by Larder: begin says"),
            ("auto.commit.interval.ms", "1", "is decided by Larder: positions are kept in the store"),
            ("test.mock.num.brokers", "3", "is decided by Larder"),
            ("no.such.thing", "1", "\"no.such.thing\""),
            ("socket.timeout.ms", "soon", "\"socket.timeout.ms\""),
        ] {
            let message = validate(&[(name, value)]).unwrap_err();
            assert!(message.starts_with("properties: ") && message.contains(says), "{message:?} does not say {says:?}");
        }
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn what_needs_tls_is_refused_by_a_build_without() {
        for (name, value) in
            [("security.protocol", "SASL_SSL"), ("ssl.ca.location", "/ca"), ("sasl.mechanism", "SCRAM-SHA-512")]
        {
            let message = validate(&[(name, value)]).unwrap_err();
            assert!(message.contains(name) && message.contains("feature kafka-tls"), "{message}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let properties = Properties([("sasl.password".to_owned(), "hunter22".to_owned())].into());
        assert_eq!(format!("{properties:?}"), r#"{"sasl.password": "..."}"#);
        let message = validate(&[("security.protocol", "hunter22")]).unwrap_err();
        assert!(!message.contains("hunter22") && message.contains("security.protocol"), "{message}");
    }
}
