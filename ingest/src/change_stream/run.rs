//! A stream at work, on one thread: learns which partitions there are, reads each from where the store says it stands, gathers messages, writes them, and
//! does what it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_store::{Shard, Store, TenantId, ViewConfig};
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::Error;
use crate::change_stream::batch::{Batches, Part, offset};
use crate::change_stream::client::{Polled, Topic};
use crate::change_stream::config::StreamConfig;
use crate::change_stream::decode::Decoder;
use crate::change_stream::partitions::Partitions;
use crate::change_stream::rejects::Rejects;
use crate::change_stream::status::{Move, Progress, StreamHandle, StreamStatus};
use crate::change_stream::watch::{Look, Watch};

/// Longest wait for a message: how late a stop may be noticed.
const POLL: Duration = Duration::from_millis(100);
/// How often whoever asks is told something new.
const TELL: Duration = Duration::from_millis(100);

/// A topic that is written into a view of a store.
#[derive(Debug)]
pub struct ChangeStream {
    config: StreamConfig,
    batches: Batches,
    partitions: Partitions,
    handle: StreamHandle,
    moves: mpsc::Receiver<Move>,
    /// What is wrong with all of it; empty = nothing.
    trouble: String,
    /// The last look that was taken in.
    looked: u64,
    /// A look of this number will say which partition is out of range.
    suspected: Option<u64>,
    /// Partitions of which a round brought all there is.
    ended: Vec<i32>,
    told: Option<Instant>,
    topic: Arc<Topic>,
}

impl ChangeStream {
    /// Prepares a stream: reads its schemas and makes its clients. No broker need answer for that.
    ///
    /// # Errors
    /// [`Error::FixSource`] for a schema that cannot be used, [`Error::FixRequest`] for settings that librdkafka refuses.
    pub fn open(
        config: &StreamConfig,
        store: &Store,
        tenant: TenantId,
        view: &ViewConfig,
        shard: Shard,
    ) -> Result<ChangeStream, Error> {
        let (decoder, rejects) = (Decoder::open(config, view, shard)?, Rejects::open(config)?);
        let topic = Arc::new(Topic::open(config)?);
        let (handle, moves) = StreamHandle::new();
        Ok(ChangeStream {
            config: config.clone(),
            batches: Batches { store: store.clone(), tenant, decoder, rejects },
            partitions: Partitions::new(config, store, topic.clone()),
            handle,
            moves,
            trouble: "the brokers have not answered yet".to_owned(),
            looked: 0,
            suspected: None,
            ended: Vec::new(),
            told: None,
            topic,
        })
    }

    /// The way to it, once it runs on a thread of its own.
    pub fn handle(&self) -> StreamHandle {
        self.handle.clone()
    }

    /// Runs until it is told to stop; `report` hears what became of messages.
    ///
    /// # Errors
    /// [`Error::FixRequest`] when a thread cannot be started.
    pub fn run(mut self, report: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        let watch = Watch::start(self.topic.clone(), Duration::from_millis(self.config.refresh_ms))?;
        // Messages of a round borrow the client, and nothing else of the stream.
        let topic = self.topic.clone();
        while !self.handle.shared.is_stopping() {
            self.take_look(&watch);
            while let Ok(told) = self.moves.try_recv() {
                let outcome = self.partitions.move_to(told.partition, told.to);
                // Whoever asked may have gone.
                let _ = told.reply.send(outcome);
            }
            self.partitions.assign_due(Instant::now());
            for (partition, messages) in self.gather(&topic, &watch) {
                self.write(partition, &messages, report);
            }
            for partition in std::mem::take(&mut self.ended) {
                if let Some(partition) = self.partitions.being_read(partition) {
                    partition.reached_end();
                }
            }
            self.tell();
        }
        Ok(())
    }

    /// Takes in what the last look found.
    fn take_look(&mut self, watch: &Watch) {
        if watch.number() == self.looked {
            return;
        }
        let Some(Look { number, found }) = watch.last() else { return };
        self.looked = number;
        match found.and_then(|found| self.partitions.meet(&found)) {
            Ok(()) => self.trouble.clear(),
            Err(trouble) => return self.in_trouble(trouble),
        }
        if self.suspected.is_some_and(|suspected| suspected <= number) {
            self.suspected = None;
            self.partitions.stop_lost(Instant::now());
        }
    }

    fn in_trouble(&mut self, trouble: String) {
        if self.trouble != trouble {
            tracing::warn!(stream = %self.config.name, trouble, "the stream is in trouble; it goes on trying");
            self.trouble = trouble;
        }
    }

    /// Waits for a message, then a little longer for more, and takes what is there, up to what may be written together.
    fn gather<'a>(&mut self, topic: &'a Topic, watch: &Watch) -> BTreeMap<i32, Vec<BorrowedMessage<'a>>> {
        let mut gathered: BTreeMap<i32, Vec<BorrowedMessage<'a>>> = BTreeMap::new();
        let (mut messages, mut bytes) = (0, 0);
        let mut until: Option<Instant> = None;
        while messages < self.config.max_batch_messages && bytes < self.config.max_batch_kib << 10 {
            let timeout = until.map_or(POLL, |until| until.saturating_duration_since(Instant::now()));
            match topic.poll(timeout) {
                Some(Polled::Message(message)) => {
                    messages += 1;
                    bytes += message.payload_len() + message.key_len();
                    if self.is_wanted(&message) {
                        gathered.entry(message.partition()).or_default().push(message);
                    }
                    until.get_or_insert_with(|| Instant::now() + Duration::from_millis(self.config.linger_ms));
                    continue;
                }
                Some(Polled::End(partition)) => self.ended.push(partition),
                Some(Polled::OutOfRange) => self.suspected = Some(watch.look()),
                // The next look says what matters, and comes soon.
                Some(Polled::Trouble(trouble)) if self.trouble.is_empty() => self.in_trouble(trouble),
                Some(Polled::Trouble(_)) => {}
                None => break,
            }
            if until.is_none() {
                break;
            }
        }
        gathered
    }

    /// Whether a message is one that its partition waits for, and not left over from before it was stopped or moved.
    fn is_wanted(&mut self, message: &BorrowedMessage<'_>) -> bool {
        let partition = self.partitions.being_read(message.partition());
        partition.is_some_and(|partition| partition.position.is_none_or(|position| position <= offset(message)))
    }

    fn write(&mut self, number: i32, messages: &[BorrowedMessage<'_>], report: &mut dyn FnMut(Progress)) {
        let (Some(partition), Some(first)) = (self.partitions.being_read(number), messages.first()) else { return };
        let (name, shared) = (partition.name.clone(), self.handle.shared.clone());
        let mut part = Part {
            name: &name,
            partition: number,
            position: partition.position.unwrap_or_else(|| offset(first)),
            now_ms: now_ms(),
            stopping: &|| shared.is_stopping(),
            passed: &mut |position, sent_ms, progress| {
                partition.passed(position, sent_ms);
                report(progress);
            },
        };
        if let Err(halt) = self.batches.write(&mut part, messages) {
            self.partitions.halt(number, halt, Instant::now());
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        if self.told.is_some_and(|told| now.duration_since(told) < TELL) {
            return;
        }
        self.told = Some(now);
        let (trouble, partitions) = (self.trouble.clone(), self.partitions.status(now_ms()));
        self.handle.shared.tell(StreamStatus { trouble, partitions });
    }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
