//! What `[[stream]]` may say. Each message has the key, the value and what is allowed.

use std::fmt::Display;

use larder_store::{FeatureConfig, ViewConfig};
use reqwest::Url;

use crate::change_stream::config::{Format, StreamConfig};

/// Longest name of a stream; it is part of its partitions' names in the store.
const MAX_NAME_BYTES: usize = 64;
/// Longest name of a topic, as Kafka has it.
const MAX_TOPIC_BYTES: usize = 249;

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
}

fn within<T: PartialOrd + Display + Copy>(key: &str, value: T, least: T, most: T) -> Result<(), String> {
    if value < least || value > most {
        return Err(format!("{key} = {value}: must be {least} to {most}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::change_stream::config::tests::{config, orders};

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
}
