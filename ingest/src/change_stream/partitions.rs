//! The partitions of a stream: which there are, where each stands, which are read, and where an operator moves them. The stored position is the only
//! truth: whatever goes wrong with a partition, it is left, and later read again from there.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use larder_store::Store;

use crate::change_stream::batch::Halt;
use crate::change_stream::client::{From, Topic};
use crate::change_stream::config::{Begin, StreamConfig};
use crate::change_stream::partition::{Partition, Reading};
use crate::change_stream::status::{MoveTo, Moved, PartitionState, PartitionStatus};
use crate::change_stream::watch::Found;

/// How long a question to the brokers may take that a move needs.
const ASK: Duration = Duration::from_secs(5);

/// All partitions that are known so far.
#[derive(Debug)]
pub(crate) struct Partitions {
    config: StreamConfig,
    store: Store,
    topic: Arc<Topic>,
    known: BTreeMap<i32, Partition>,
    random: RandomState,
}

impl Partitions {
    pub(crate) fn new(config: &StreamConfig, store: &Store, topic: Arc<Topic>) -> Partitions {
        let (config, store) = (config.clone(), store.clone());
        Partitions { config, store, topic, known: BTreeMap::new(), random: RandomState::new() }
    }

    /// A partition that is read; others have no messages to give.
    pub(crate) fn being_read(&mut self, number: i32) -> Option<&mut Partition> {
        self.known.get_mut(&number).filter(|partition| partition.is_assigned)
    }

    /// Takes in partitions that are new, and the ends of all; or says what is in the way.
    pub(crate) fn meet(&mut self, found: &[Found]) -> Result<(), String> {
        let stored = |partition: i32| self.store.stream_position(&self.config.partition_name(partition));
        // A partition that is added to a topic that is read already is read from its beginning, or what came before it was found would be missed.
        let is_new = !found.iter().any(|found| stored(found.partition).is_some());
        let begins_at_end = is_new && self.config.begin == Begin::Latest;
        if let (true, Some(Found { partition, .. })) = (begins_at_end, found.iter().find(|found| found.ends.is_none()))
        {
            // One that answers later would look like one that was added, and be read from its beginning.
            return Err(format!("partition {partition} does not say where it ends, where the stream is to begin"));
        }
        for Found { partition, ends } in found {
            if !self.known.contains_key(partition) {
                let name = self.config.partition_name(*partition);
                let mut position = stored(*partition);
                if let (None, true, Some((_, end))) = (position, begins_at_end, ends) {
                    // Written down at once, or a restart before the first message would begin behind what came meanwhile.
                    self.store.move_stream(&name, *end).map_err(|error| error.to_string())?;
                    position = Some(*end);
                }
                tracing::info!(stream = %self.config.name, partition, position, "a partition is read");
                self.known.insert(*partition, Partition::new(name, position));
            }
            if let (Some(known), Some((first, end))) = (self.known.get_mut(partition), ends) {
                known.looked_up(*first, *end);
            }
        }
        Ok(())
    }

    /// The brokers did not have what was next of some partition: stops those that the last look shows to be lost, and has the others begin anew.
    pub(crate) fn stop_lost(&mut self, now: Instant) {
        let read: Vec<i32> =
            self.known.iter().filter(|(_, partition)| partition.is_assigned).map(|(at, _)| *at).collect();
        for number in read {
            let Some(partition) = self.known.get(&number) else { continue };
            let halt = match (partition.is_lost(), partition.position, partition.ends) {
                (true, Some(position), Some((first, end))) => Halt::Stop(format!(
                    "the brokers do not have message {position}, which is next: they have {first} to {end}. If what is missing is to be \
                     passed over: larder stream move --partition {number} --to {}",
                    if position < first { "earliest" } else { "latest" }
                )),
                _ => Halt::Wait("the brokers did not have what is next of some partition".to_owned()),
            };
            self.halt(number, halt, now);
        }
    }

    /// Leaves a partition, for a while or until somebody does something.
    pub(crate) fn halt(&mut self, number: i32, halt: Halt, now: Instant) {
        let chance = self.chance(number);
        let Some(partition) = self.known.get_mut(&number) else { return };
        leave(&self.topic, number, partition);
        let stream = &self.config.name;
        match halt {
            Halt::Wait(why) => {
                tracing::warn!(%stream, partition = number, why, "a partition waits");
                partition.wait(why, now, chance);
            }
            Halt::Stop(why) => {
                let why = why.replace("larder stream move", &format!("larder stream move {stream}"));
                tracing::error!(%stream, partition = number, why, "a partition is stopped");
                partition.stop(why);
            }
        }
    }

    /// Begins to read what is to be read and is not.
    pub(crate) fn assign_due(&mut self, now: Instant) {
        let due = self.known.iter().filter(|(_, partition)| !partition.is_assigned && partition.is_due(now));
        let due: Vec<(i32, From)> =
            due.map(|(at, due)| (*at, due.position.map_or(From::Earliest, From::Position))).collect();
        for (number, from) in due {
            match (self.topic.assign(number, from), self.known.get_mut(&number)) {
                (Ok(()), Some(partition)) => {
                    partition.is_assigned = true;
                    partition.reading = Reading::Running;
                }
                (Ok(()), None) => {}
                (Err(error), _) => self.halt(number, Halt::Wait(error), now),
            }
        }
    }

    /// Has a partition, or all of them, go on elsewhere; all or none, as far as it can be known before.
    pub(crate) fn move_to(&mut self, partition: Option<i32>, to: MoveTo) -> Result<Vec<Moved>, String> {
        let known: Vec<i32> = self.known.keys().copied().collect();
        let chosen = match partition {
            Some(partition) if known.contains(&partition) => vec![partition],
            None if !known.is_empty() => known,
            Some(partition) => return Err(format!("no partition {partition} is known; known are {known:?}")),
            None => return Err("no partition is known yet: the brokers have not said which there are".to_owned()),
        };
        let target = |partition: i32| {
            let (first, end) = self.topic.ends(partition, ASK)?;
            match to {
                MoveTo::Earliest => Ok((partition, first)),
                MoveTo::Latest => Ok((partition, end)),
                MoveTo::Position(position) if (first..=end).contains(&position) => Ok((partition, position)),
                MoveTo::Position(position) => {
                    Err(format!("partition {partition} cannot go on at {position}: the brokers have {first} to {end}"))
                }
            }
        };
        let targets = chosen.into_iter().map(target).collect::<Result<Vec<_>, String>>()?;
        targets.into_iter().map(|(number, to)| self.move_one(number, to)).collect()
    }

    fn move_one(&mut self, number: i32, to: u64) -> Result<Moved, String> {
        let partition = self.known.get_mut(&number).ok_or_else(|| format!("no partition {number} is known"))?;
        let from = self.store.move_stream(&partition.name, to).map_err(|error| error.to_string())?;
        leave(&self.topic, number, partition);
        partition.moved(to);
        tracing::warn!(stream = %self.config.name, partition = number, from, to, "a partition was moved");
        Ok(Moved { partition: number, from, to })
    }

    /// How each is doing, by number.
    pub(crate) fn status(&self, now_ms: i64) -> Vec<PartitionStatus> {
        let status = |(number, partition): (&i32, &Partition)| {
            let (state, why) = match &partition.reading {
                Reading::Running => (PartitionState::Running, String::new()),
                Reading::Waiting { why, .. } => (PartitionState::Waiting, why.clone()),
                Reading::Stopped { why } => (PartitionState::Stopped, why.clone()),
            };
            let Partition { position, ends, .. } = partition;
            let (lag, behind) = (partition.lag(), partition.behind(now_ms));
            PartitionStatus { partition: *number, state, why, position: *position, ends: *ends, lag, behind }
        };
        self.known.iter().map(status).collect()
    }

    /// A number between 0 and 1 that is another each time.
    fn chance(&self, number: i32) -> f64 {
        (self.random.hash_one((number, SystemTime::now())) >> 11) as f64 / (1_u64 << 53) as f64
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

#[cfg(test)]
mod tests {
    use larder_store::StoreConfig;

    use super::*;
    use crate::change_stream::config::Format;
    use crate::change_stream::config::tests::{config, orders};

    /// Partitions of a stream whose brokers nobody asks.
    fn partitions(store: &Store, begin: Begin) -> Partitions {
        let config = StreamConfig { begin, ..config(Format::Json) };
        Partitions::new(&config, store, Arc::new(Topic::open(&config).unwrap()))
    }

    fn found(partition: i32, end: u64) -> Found {
        Found { partition, ends: Some((2, end)) }
    }

    fn positions(partitions: &Partitions) -> Vec<Option<u64>> {
        partitions.known.values().map(|partition| partition.position).collect()
    }

    #[test]
    fn a_new_stream_begins_where_it_is_told_and_a_new_partition_at_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[orders()]).unwrap();
        let mut new = partitions(&store, Begin::Latest);
        let trouble = new.meet(&[found(0, 10), Found { partition: 1, ends: None }]).unwrap_err();
        assert!(trouble.contains("partition 1 does not say where it ends") && new.known.is_empty(), "{trouble}");
        new.meet(&[found(0, 10), found(1, 20)]).unwrap();
        assert_eq!(positions(&new), [Some(10), Some(20)]);
        new.meet(&[found(0, 12), found(1, 20), found(2, 5)]).unwrap();
        assert_eq!(positions(&new), [Some(10), Some(20), None], "added later, and read from its beginning");
        let lags: Vec<_> = new.status(0).into_iter().map(|status| status.lag).collect();
        assert_eq!(lags, [Some(2), Some(0), Some(3)]);
        let mut again = partitions(&store, Begin::Latest);
        again.meet(&[found(0, 99), found(1, 99), found(2, 99)]).unwrap();
        assert_eq!(positions(&again), [Some(10), Some(20), None], "the store remembers");
        let name = |partition: i32| format!("kafka/orders/shop.orders/{partition}");
        assert_eq!(store.stream_positions(), [(name(0), 10), (name(1), 20)]);
    }

    #[test]
    fn what_is_lost_stops_and_says_what_to_do_and_the_rest_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[orders()]).unwrap();
        store.move_stream("kafka/orders/shop.orders/0", 1).unwrap();
        store.move_stream("kafka/orders/shop.orders/1", 5).unwrap();
        let (mut partitions, now) = (partitions(&store, Begin::Earliest), Instant::now());
        partitions.meet(&[found(0, 10), found(1, 10)]).unwrap();
        partitions.assign_due(now);
        assert!(partitions.being_read(0).is_some() && partitions.being_read(1).is_some());
        partitions.stop_lost(now);
        let status = partitions.status(0);
        let says = "do not have message 1, which is next: they have 2 to 10. If what is missing is to be passed over: \
                    larder stream move orders --partition 0 --to earliest";
        assert!(status[0].state == PartitionState::Stopped && status[0].why.contains(says), "{}", status[0].why);
        assert_eq!(status[1].state, PartitionState::Waiting);
        partitions.assign_due(now + Duration::from_secs(1));
        assert!(partitions.being_read(0).is_none() && partitions.being_read(1).is_some());
    }
}
