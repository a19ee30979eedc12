//! The client of Kafka that reads a topic; with `rejects.rs` all that is known of rdkafka. Partitions are assigned one by one, each at a position of our
//! own: no group shares them out, and nothing is committed to the brokers.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};

use crate::Error;
use crate::change_stream::config::StreamConfig;
use crate::change_stream::properties;

/// Most partitions of a topic.
const MAX_PARTITIONS: usize = 4_096;

/// Reads a topic; may be asked by several threads.
pub(crate) struct Topic {
    consumer: BaseConsumer<Log>,
    topic: String,
}

/// What a poll brought.
pub(crate) enum Polled<'a> {
    Message(BorrowedMessage<'a>),
    /// All of a partition has been given.
    End(i32),
    /// The brokers do not have what was to be read next of some partition, and do not say of which.
    OutOfRange,
    /// Something is wrong, and the client tries again by itself.
    Trouble(String),
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Earliest,
    Position(u64),
}

impl Topic {
    pub(crate) fn open(config: &StreamConfig) -> Result<Topic, Error> {
        let log = Log { stream: config.name.clone() };
        let consumer = properties::consumer(config).create_with_context(log);
        let refused = |error: KafkaError| Error::FixRequest(config.properties.told(error));
        Ok(Topic { consumer: consumer.map_err(refused)?, topic: config.topic.clone() })
    }

    /// Begins to read a partition; what was fetched of it before is forgotten.
    pub(crate) fn assign(&self, partition: i32, from: From) -> Result<(), String> {
        let offset = match from {
            From::Earliest => Offset::Beginning,
            From::Position(position) => Offset::Offset(i64::try_from(position).unwrap_or(i64::MAX)),
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, offset).map_err(|error| error.to_string())?;
        self.consumer.incremental_assign(&list).map_err(|error| error.to_string())
    }

    /// Ends reading a partition that is read.
    pub(crate) fn unassign(&self, partition: i32) -> Result<(), String> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        self.consumer.incremental_unassign(&list).map_err(|error| error.to_string())
    }

    pub(crate) fn poll(&self, timeout: Duration) -> Option<Polled<'_>> {
        Some(match self.consumer.poll(timeout)? {
            Ok(message) => Polled::Message(message),
            Err(KafkaError::PartitionEOF(partition)) => Polled::End(partition),
            Err(error) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Polled::OutOfRange,
                _ => Polled::Trouble(error.to_string()),
            },
        })
    }

    /// The numbers of the topic's partitions.
    pub(crate) fn partitions(&self, timeout: Duration) -> Result<Vec<i32>, String> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), timeout);
        let metadata = metadata.map_err(|error| format!("the brokers do not answer: {error}"))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let absent = || format!("there is no topic {}", self.topic);
        let topic = topic.ok_or_else(absent)?;
        if let Some(error) = topic.error() {
            return Err(format!("topic {}: {}", self.topic, RDKafkaErrorCode::from(error)));
        }
        match topic.partitions().len() {
            0 => Err(absent()),
            1..=MAX_PARTITIONS => Ok(topic.partitions().iter().map(|partition| partition.id()).collect()),
            more => Err(format!("topic {} has {more} partitions; a stream has at most {MAX_PARTITIONS}", self.topic)),
        }
    }

    /// The first message of a partition, and behind the last.
    pub(crate) fn ends(&self, partition: i32, timeout: Duration) -> Result<(u64, u64), String> {
        let ends = self.consumer.fetch_watermarks(&self.topic, partition, timeout);
        let (first, end) = ends
            .map_err(|error| format!("the brokers do not say where partition {partition} begins and ends: {error}"))?;
        Ok((u64::try_from(first).unwrap_or(0), u64::try_from(end).unwrap_or(0)))
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Topic").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// What librdkafka says, in the node's log.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) stream: String,
}

impl ClientContext for Log {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let stream = &self.stream;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(%stream, facility, message, "librdkafka");
            }
            _ => tracing::debug!(%stream, facility, message, "librdkafka"),
        }
    }

    /// The same comes from polling, where it becomes the stream's state.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(stream = %self.stream, %error, reason, "librdkafka");
    }
}

impl ConsumerContext for Log {}
