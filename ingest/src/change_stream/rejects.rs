//! The reject topic: messages that are no rows, as they came, with headers that say where they were and what is wrong with them. A message is gone from
//! its partition only when all replicas of the reject topic have it; after a crash between the two it may be there twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};

use crate::Error;
use crate::change_stream::client::Log;
use crate::change_stream::config::StreamConfig;
use crate::change_stream::properties;

/// How long the acknowledgements may take that librdkafka itself does not give up on before.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what has been acknowledged, and whether the stream stops.
const POLL: Duration = Duration::from_millis(2);
/// Bits of the tag that a message comes back with that are its place; those above are the attempt's.
const PLACE_BITS: u32 = 20;

/// Writes to the reject topic.
pub(crate) struct Rejects {
    producer: BaseProducer<Deliveries>,
    topic: String,
    stream: String,
    max_bytes: usize,
    /// Counts; what comes back from an attempt that was given up is no acknowledgement of the next.
    attempt: AtomicUsize,
}

/// What has become of messages, by the tags they were sent with.
struct Deliveries {
    log: Log,
    outcomes: Mutex<Vec<(usize, Option<KafkaError>)>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, tag: usize) {
        let error = delivery.as_ref().err().map(|(error, _)| error.clone());
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((tag, error));
    }
}

impl Rejects {
    /// None where the config names no reject topic.
    pub(crate) fn open(config: &StreamConfig) -> Result<Option<Rejects>, Error> {
        if config.reject_topic.is_empty() {
            return Ok(None);
        }
        let context = Deliveries { log: Log { stream: config.name.clone() }, outcomes: Mutex::default() };
        let producer = properties::producer(config).create_with_context(context);
        let refused = |error: KafkaError| Error::FixRequest(config.properties.told(error));
        Ok(Some(Rejects {
            producer: producer.map_err(refused)?,
            topic: config.reject_topic.clone(),
            stream: config.name.clone(),
            max_bytes: config.max_message_kib << 10,
            attempt: AtomicUsize::new(0),
        }))
    }

    /// Sends messages and waits until they are acknowledged; or says why one of them is not.
    pub(crate) fn send(
        &self,
        rejected: &[(&BorrowedMessage<'_>, &str)],
        stopping: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        let mut whole = vec![true; rejected.len()];
        let mut left: Vec<usize> = (0..rejected.len()).collect();
        while !left.is_empty() {
            let failed = self.send_once(rejected, &left, &whole, stopping)?;
            // A broker may take less than its other topic does; what is wrong, and where, is told all the same.
            let too_large =
                |error: &KafkaError| error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge);
            for (place, error) in &failed {
                if !whole[*place] || !too_large(error) {
                    return Err(format!("the reject topic {} takes no message: {error}", self.topic));
                }
                whole[*place] = false;
            }
            left = failed.into_iter().map(|(place, _)| place).collect();
        }
        Ok(())
    }

    /// Those that were not acknowledged, and why.
    fn send_once(
        &self,
        rejected: &[(&BorrowedMessage<'_>, &str)],
        places: &[usize],
        whole: &[bool],
        stopping: &dyn Fn() -> bool,
    ) -> Result<Vec<(usize, KafkaError)>, String> {
        let attempt = self.attempt.fetch_add(1, Ordering::Relaxed) << PLACE_BITS;
        let deadline = Instant::now() + PATIENCE;
        let given_up = || stopping() || Instant::now() > deadline;
        let (mut failed, mut waiting) = (Vec::new(), 0);
        for place in places {
            let (message, reason) = rejected[*place];
            match self.enqueue(attempt | place, message, reason, whole[*place], &given_up) {
                Ok(()) => waiting += 1,
                Err(error) => failed.push((*place, error)),
            }
        }
        while waiting > 0 {
            self.producer.poll(POLL);
            let told =
                std::mem::take(&mut *self.producer.context().outcomes.lock().unwrap_or_else(PoisonError::into_inner));
            for (tag, error) in told.into_iter().filter(|(tag, _)| tag >> PLACE_BITS == attempt >> PLACE_BITS) {
                waiting -= 1;
                failed.extend(error.map(|error| (tag - attempt, error)));
            }
            if waiting > 0 && given_up() {
                self.producer.purge(PurgeConfig::default().queue().inflight());
                return Err(format!("the reject topic {} does not acknowledge", self.topic));
            }
        }
        Ok(failed)
    }

    fn enqueue(
        &self,
        tag: usize,
        message: &BorrowedMessage<'_>,
        reason: &str,
        whole: bool,
        given_up: &dyn Fn() -> bool,
    ) -> Result<(), KafkaError> {
        let (partition, offset) = (message.partition().to_string(), message.offset().to_string());
        let payload = message.payload();
        let fits = whole && payload.is_none_or(|payload| payload.len() <= self.max_bytes);
        let mut headers = message.headers().map_or_else(OwnedHeaders::new, |headers| headers.detach());
        let told = [
            ("larder.stream", self.stream.as_str()),
            ("larder.topic", message.topic()),
            ("larder.partition", &partition),
            ("larder.offset", &offset),
            ("larder.reason", reason),
        ];
        let left_out = payload.filter(|_| !fits).map(|payload| payload.len().to_string());
        let left_out = left_out.as_deref().map(|bytes| ("larder.payload_left_out_bytes", bytes));
        for (key, value) in told.into_iter().chain(left_out) {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = BaseRecord::with_opaque_to(&self.topic, tag).headers(headers);
        if let Some(key) = message.key() {
            record = record.key(key);
        }
        if let Some(payload) = payload.filter(|_| fits) {
            record = record.payload(payload);
        }
        if let Some(sent_ms) = message.timestamp().to_millis() {
            record = record.timestamp(sent_ms);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) if !given_up() => {
                    record = returned;
                    self.producer.poll(POLL);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
}

impl std::fmt::Debug for Rejects {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rejects").field("topic", &self.topic).finish_non_exhaustive()
    }
}
