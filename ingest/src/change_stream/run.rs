//! A stream at work: finds partitions, begins to read each where the store says it stands, gathers messages, writes them, and does what is in the way of
//! that no more than it must. One thread does all of it; the stored position is the only truth, and whatever goes wrong, a partition goes back to it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_store::{Shard, Store, TenantId, ViewConfig};
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::Error;
use crate::change_stream::batch::{Batches, Halt, Part, offset};
use crate::change_stream::client::{From, Polled, Topic};
use crate::change_stream::config::{Begin, StreamConfig};
use crate::change_stream::decode::Decoder;
use crate::change_stream::partition::{Partition, Reading};
use crate::change_stream::rejects::Rejects;
use crate::change_stream::status::{
    Move, MoveTo, Moved, PartitionState, PartitionStatus, Progress, StreamHandle, StreamStatus,
};
use crate::change_stream::watch::{Found, Look, Watch};

/// Longest wait for a message: how late a stop may be noticed.
const POLL: Duration = Duration::from_millis(100);
/// How often whoever asks is told something new.
const TELL: Duration = Duration::from_millis(100);
/// How long a question to the brokers may take that a move needs.
const ASK: Duration = Duration::from_secs(5);

/// A topic that is written into a view of a store.
#[derive(Debug)]
pub struct ChangeStream {
    config: StreamConfig,
    topic: Arc<Topic>,
    partitions: BTreeMap<i32, Partition>,
    batches: Batches,
    handle: StreamHandle,
    moves: mpsc::Receiver<Move>,
    trouble: String,
    /// The last look that was taken in.
    looked: u64,
    /// Partitions of which a round brought all there is.
    ended: Vec<i32>,
    /// A look of this number will say which partition is out of range.
    suspected: Option<u64>,
    told: Option<Instant>,
    random: RandomState,
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
        let (handle, moves) = StreamHandle::new();
        let batches = Batches {
            store: store.clone(),
            tenant,
            decoder: Decoder::open(config, view, shard)?,
            rejects: Rejects::open(config)?,
        };
        Ok(ChangeStream {
            topic: Arc::new(Topic::open(config)?),
            config: config.clone(),
            partitions: BTreeMap::new(),
            batches,
            handle,
            moves,
            trouble: "the brokers have not answered yet".to_owned(),
            looked: 0,
            ended: Vec::new(),
            suspected: None,
            told: None,
            random: RandomState::new(),
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
        // The partitions borrow nothing of the client, but the messages of a round do.
        let topic = self.topic.clone();
        while !self.handle.shared.is_stopping() {
            self.take_look(&watch);
            while let Ok(told) = self.moves.try_recv() {
                let outcome = self.move_to(told.partition, told.to);
                // Whoever asked may have gone.
                let _ = told.reply.send(outcome);
            }
            self.assign_due(Instant::now());
            let gathered = self.gather(&topic, &watch);
            for (partition, messages) in gathered {
                self.write(partition, &messages, report);
            }
            for partition in std::mem::take(&mut self.ended) {
                self.partitions.get_mut(&partition).filter(|ended| ended.is_assigned).map(Partition::reached_end);
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
        match found {
            Err(trouble) => self.in_trouble(trouble),
            Ok(found) => {
                self.trouble.clear();
                self.meet(&found);
                if self.suspected.is_some_and(|suspected| suspected <= number) {
                    self.suspected = None;
                    self.stop_lost();
                }
            }
        }
    }

    fn in_trouble(&mut self, trouble: String) {
        if self.trouble != trouble {
            tracing::warn!(stream = %self.config.name, trouble, "the stream is in trouble; it goes on trying");
            self.trouble = trouble;
        }
    }

    /// Takes in partitions that are new, and the ends of all.
    fn meet(&mut self, found: &[Found]) {
        let stored = |partition: i32| self.batches.store.stream_position(&self.config.partition_name(partition));
        // A partition that is added to a topic that is read already is read from its beginning, or what came before it was found would be missed.
        let is_new = !found.iter().any(|found| stored(found.partition).is_some());
        let unanswered = found.iter().find(|found| found.ends.is_none());
        if let (Begin::Latest, true, Some(Found { partition, .. })) = (self.config.begin, is_new, unanswered) {
            // One that answers later would look like one that was added, and be read from its beginning.
            return self
                .in_trouble(format!("partition {partition} does not say where it ends, where the stream is to begin"));
        }
        for Found { partition, ends } in found {
            if !self.partitions.contains_key(partition) {
                let name = self.config.partition_name(*partition);
                let position = match (stored(*partition), self.config.begin) {
                    (Some(position), _) => Some(position),
                    (None, Begin::Latest) if is_new => {
                        // Written down at once, or a restart before the first message would begin behind what came meanwhile.
                        let Some((_, end)) = ends else { continue };
                        match self.batches.store.move_stream(&name, *end) {
                            Ok(_) => Some(*end),
                            Err(error) => {
                                self.in_trouble(error.to_string());
                                return;
                            }
                        }
                    }
                    (None, _) => None,
                };
                tracing::info!(stream = %self.config.name, partition, position, "a partition is read");
                self.partitions.insert(*partition, Partition::new(name, position));
            }
            if let (Some(known), Some((first, end))) = (self.partitions.get_mut(partition), ends) {
                known.looked_up(*first, *end);
            }
        }
    }

    /// Of what was out of range, stops what is lost, and has the rest begin anew.
    fn stop_lost(&mut self) {
        for (number, partition) in &mut self.partitions {
            if !partition.is_assigned {
                continue;
            }
            leave(&self.topic, *number, partition);
            if !partition.is_lost() {
                continue;
            }
            let (position, (first, end)) = (partition.position.unwrap_or(0), partition.ends.unwrap_or((0, 0)));
            let why = format!(
                "the brokers do not have message {position}, which is next: they have {first} to {end}. If what is missing is to be passed \
                 over: larder stream move {} --partition {number} --to {}",
                self.config.name,
                if position < first { "earliest" } else { "latest" }
            );
            tracing::error!(stream = %self.config.name, partition = number, why, "a partition is stopped");
            partition.stop(why);
        }
    }

    /// Begins to read what is to be read and is not.
    fn assign_due(&mut self, now: Instant) {
        for (number, partition) in &mut self.partitions {
            if partition.is_assigned || !partition.is_due(now) {
                continue;
            }
            let from = partition.position.map_or(From::Earliest, From::Position);
            match self.topic.assign(*number, from) {
                Ok(()) => {
                    partition.is_assigned = true;
                    partition.reading = Reading::Running;
                }
                Err(error) => {
                    partition.wait(error, now, chance(&self.random, *number));
                }
            }
        }
    }

    /// Waits for a message, then a little longer for more, up to what may be written together.
    fn gather<'a>(&mut self, topic: &'a Topic, watch: &Watch) -> BTreeMap<i32, Vec<BorrowedMessage<'a>>> {
        let mut gathered: BTreeMap<i32, Vec<BorrowedMessage<'a>>> = BTreeMap::new();
        let (mut messages, mut bytes) = (0, 0);
        let mut until: Option<Instant> = None;
        loop {
            let timeout = until.map_or(POLL, |until| until.saturating_duration_since(Instant::now()));
            match topic.poll(timeout) {
                None => return gathered,
                Some(Polled::Message(message)) => {
                    messages += 1;
                    bytes += message.payload_len() + message.key_len();
                    if self.is_wanted(&message) {
                        gathered.entry(message.partition()).or_default().push(message);
                    }
                    until.get_or_insert_with(|| Instant::now() + Duration::from_millis(self.config.linger_ms));
                    if messages >= self.config.max_batch_messages || bytes >= self.config.max_batch_kib << 10 {
                        return gathered;
                    }
                }
                Some(Polled::End(partition)) => self.ended.push(partition),
                Some(Polled::OutOfRange) => self.suspected = Some(watch.look()),
                // The next look says what matters, and comes soon.
                Some(Polled::Trouble(trouble)) if self.trouble.is_empty() => self.in_trouble(trouble),
                Some(Polled::Trouble(_)) => {}
            }
            if until.is_none_or(|until| until <= Instant::now()) {
                return gathered;
            }
        }
    }

    /// Whether a message is one that its partition waits for, and not left over from before it was stopped or moved.
    fn is_wanted(&self, message: &BorrowedMessage<'_>) -> bool {
        let partition = self.partitions.get(&message.partition()).filter(|partition| partition.is_assigned);
        partition.is_some_and(|partition| partition.position.is_none_or(|position| position <= offset(message)))
    }

    fn write(&mut self, number: i32, messages: &[BorrowedMessage<'_>], report: &mut dyn FnMut(Progress)) {
        let (Some(partition), Some(first)) = (self.partitions.get_mut(&number), messages.first()) else { return };
        let name = partition.name.clone();
        let shared = self.handle.shared.clone();
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
        let Err(halt) = self.batches.write(&mut part, messages) else { return };
        leave(&self.topic, number, partition);
        let stream = &self.config.name;
        match halt {
            Halt::Wait(why) => {
                tracing::warn!(%stream, partition = number, why, "a partition waits");
                partition.wait(why, Instant::now(), chance(&self.random, number));
            }
            Halt::Stop(why) => {
                let why = why.replace("larder stream move", &format!("larder stream move {stream}"));
                tracing::error!(%stream, partition = number, why, "a partition is stopped");
                partition.stop(why);
            }
        }
    }

    fn move_to(&mut self, partition: Option<i32>, to: MoveTo) -> Result<Vec<Moved>, String> {
        let known: Vec<i32> = self.partitions.keys().copied().collect();
        let chosen = match partition {
            Some(partition) if !known.contains(&partition) => {
                return Err(format!(
                    "topic {} has no partition {partition} that is known; known are {known:?}",
                    self.config.topic
                ));
            }
            Some(partition) => vec![partition],
            None if known.is_empty() => return Err(format!("no partition is known yet: {}", self.trouble)),
            None => known,
        };
        let mut targets = Vec::with_capacity(chosen.len());
        for partition in chosen {
            let (first, end) = self.topic.ends(partition, ASK)?;
            let target = match to {
                MoveTo::Earliest => first,
                MoveTo::Latest => end,
                MoveTo::Position(position) if (first..=end).contains(&position) => position,
                MoveTo::Position(position) => {
                    return Err(format!(
                        "partition {partition} cannot go on at {position}: the brokers have {first} to {end}"
                    ));
                }
            };
            targets.push((partition, target));
        }
        targets.into_iter().map(|(number, to)| self.move_one(number, to)).collect()
    }

    fn move_one(&mut self, number: i32, to: u64) -> Result<Moved, String> {
        let partition = self.partitions.get_mut(&number).ok_or_else(|| format!("there is no partition {number}"))?;
        let from = self.batches.store.move_stream(&partition.name, to).map_err(|error| error.to_string())?;
        leave(&self.topic, number, partition);
        partition.moved(to);
        tracing::warn!(stream = %self.config.name, partition = number, from, to, "a partition was moved");
        Ok(Moved { partition: number, from, to })
    }

    fn tell(&mut self) {
        let now = Instant::now();
        if self.told.is_some_and(|told| now.duration_since(told) < TELL) {
            return;
        }
        self.told = Some(now);
        let now_ms = now_ms();
        let partitions = self.partitions.iter().map(|(number, partition)| {
            let (state, why) = match &partition.reading {
                Reading::Running => (PartitionState::Running, String::new()),
                Reading::Waiting { why, .. } => (PartitionState::Waiting, why.clone()),
                Reading::Stopped { why } => (PartitionState::Stopped, why.clone()),
            };
            let Partition { position, ends, .. } = partition;
            let (lag, behind) = (partition.lag(), partition.behind(now_ms));
            PartitionStatus { partition: *number, state, why, position: *position, ends: *ends, lag, behind }
        });
        self.handle.shared.tell(StreamStatus { trouble: self.trouble.clone(), partitions: partitions.collect() });
    }
}

/// Ends reading a partition, if it is read.
fn leave(topic: &Topic, number: i32, partition: &mut Partition) {
    if !std::mem::take(&mut partition.is_assigned) {
        return;
    }
    if let Err(error) = topic.unassign(number) {
        tracing::warn!(partition = number, error, "a partition cannot be left; what comes of it is passed over");
    }
}

/// A number between 0 and 1 that is another each time.
fn chance(random: &RandomState, number: i32) -> f64 {
    (random.hash_one((number, SystemTime::now())) >> 11) as f64 / (1_u64 << 53) as f64
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use larder_store::StoreConfig;

    use super::*;
    use crate::change_stream::config::Format;
    use crate::change_stream::config::tests::{config, orders};

    /// A stream of a store, whose brokers nobody asks.
    fn stream(store: &Store, begin: Begin) -> ChangeStream {
        let config = StreamConfig { begin, ..config(Format::Json) };
        ChangeStream::open(&config, store, TenantId(1), &orders(), Shard::default()).unwrap()
    }

    fn found(partition: i32, end: u64) -> Found {
        Found { partition, ends: Some((2, end)) }
    }

    #[test]
    fn a_new_stream_begins_where_it_is_told_and_a_new_partition_at_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[orders()]).unwrap();
        let mut new = stream(&store, Begin::Latest);
        new.meet(&[found(0, 10), Found { partition: 1, ends: None }]);
        assert!(new.partitions.is_empty() && new.trouble.contains("partition 1 does not say where it ends"));
        new.meet(&[found(0, 10), found(1, 20)]);
        let positions = |stream: &ChangeStream| -> Vec<Option<u64>> {
            stream.partitions.values().map(|partition| partition.position).collect()
        };
        assert_eq!(positions(&new), [Some(10), Some(20)]);
        new.meet(&[found(0, 12), found(1, 20), found(2, 5)]);
        assert_eq!(positions(&new), [Some(10), Some(20), None], "added later, and read from its beginning");
        assert_eq!((new.partitions[&0].lag(), new.partitions[&2].lag()), (Some(2), Some(3)));
        drop(new);
        let mut again = stream(&store, Begin::Latest);
        again.meet(&[found(0, 99), found(1, 99), found(2, 99)]);
        assert_eq!(positions(&again), [Some(10), Some(20), None], "the store remembers");
        let stored = store.stream_positions();
        let name = |partition: i32| format!("kafka/orders/shop.orders/{partition}");
        assert_eq!(stored, [(name(0), 10), (name(1), 20)]);
    }
}
