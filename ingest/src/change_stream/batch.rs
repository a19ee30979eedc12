//! Messages of one partition into the store, with the position behind them in the same write. Messages that are no rows go to the reject topic first;
//! what a write as a whole is refused for is found by halving, so that one message costs no other.

use std::time::{Duration, Instant};

use larder_store::{Error as StoreError, Store, StreamSpan, TenantId, Write, Written};
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::change_stream::decode::Decoder;
use crate::change_stream::message::Message;
use crate::change_stream::rejects::Rejects;
use crate::change_stream::status::Progress;

/// What brings messages into the store.
#[derive(Debug)]
pub(crate) struct Batches {
    pub(crate) store: Store,
    pub(crate) tenant: TenantId,
    pub(crate) decoder: Decoder,
    pub(crate) rejects: Option<Rejects>,
}

/// Why a partition does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Halt {
    /// It may by itself, later.
    Wait(String),
    /// Somebody has to do something.
    Stop(String),
}

/// A partition while messages of it are written.
pub(crate) struct Part<'a> {
    /// The partition's name in the store.
    pub(crate) name: &'a str,
    pub(crate) partition: i32,
    /// Where it stands.
    pub(crate) position: u64,
    /// The present, in Unix milliseconds.
    pub(crate) now_ms: i64,
    /// Whether the stream is to end.
    pub(crate) stopping: &'a dyn Fn() -> bool,
    /// Told of each step: where the partition stands now, when the last message before that was sent, and what came of the messages of the step.
    /// What was passed stays passed, whatever comes of the rest.
    pub(crate) passed: &'a mut dyn FnMut(u64, Option<i64>, Progress),
}

impl Batches {
    /// Writes messages of a partition, in the order of their offsets.
    pub(crate) fn write(&mut self, part: &mut Part<'_>, messages: &[BorrowedMessage<'_>]) -> Result<(), Halt> {
        let messages: Vec<&BorrowedMessage<'_>> = messages.iter().collect();
        match messages.last() {
            Some(last) => self.write_up_to(part, &messages, offset(last) + 1),
            None => Ok(()),
        }
    }

    /// Writes messages, and that everything before `to` is done with.
    fn write_up_to(&mut self, part: &mut Part<'_>, messages: &[&BorrowedMessage<'_>], to: u64) -> Result<(), Halt> {
        let read: Vec<Message<'_>> = messages.iter().map(|message| view(message)).collect();
        let decoded = self.decoder.decode(&read, part.now_ms).map_err(Halt::Wait)?;
        if let (Some((first, why)), None) = (decoded.wrong.first(), &self.rejects) {
            let (before, poison) = (&messages[..*first], read[*first].offset);
            if !before.is_empty() {
                self.write_up_to(part, before, poison)?;
            }
            return Err(poisoned(part.partition, poison, why));
        }
        let wrong: Vec<_> = decoded.wrong.iter().map(|(at, why)| (messages[*at], why.as_str())).collect();
        self.reject(part, &wrong)?;
        let writes: Vec<Write<'_>> = decoded.changes.iter().map(|changes| changes.write(self.tenant)).collect();
        let (all, rejected) = (messages.len() as u64, wrong.len() as u64);
        let error = match self.write_rows(part, to, &writes) {
            Ok((written, write)) => {
                let progress = Progress { messages: all, rejected, foreign: decoded.foreign, written, write };
                (part.passed)(to, read.last().and_then(|message| message.timestamp_ms), progress);
                return Ok(());
            }
            Err(error @ (StoreError::FixInput(_) | StoreError::FixRequest(_))) => error.to_string(),
            Err(error) => return Err(Halt::Wait(error.to_string())),
        };
        if self.store.stream_position(part.name).is_some_and(|position| position != part.position) {
            return Err(Halt::Wait("somebody else has moved it".to_owned()));
        }
        (part.passed)(part.position, None, Progress { messages: rejected, rejected, ..Progress::default() });
        let is_good = |at: &usize| !decoded.wrong.iter().any(|(wrong, _)| wrong == at);
        let good: Vec<_> = (0..messages.len()).filter(is_good).map(|at| messages[at]).collect();
        match good.as_slice() {
            [] => Err(Halt::Wait(error)),
            [one] if self.rejects.is_none() => Err(poisoned(part.partition, offset(one), &error)),
            [one] => {
                self.reject(part, &[(*one, &error)])?;
                let moved = self.write_rows(part, to, &[]).map_err(|error| Halt::Wait(error.to_string()))?;
                let progress = Progress { messages: 1, rejected: 1, write: moved.1, ..Progress::default() };
                (part.passed)(to, view(one).timestamp_ms, progress);
                Ok(())
            }
            several => {
                let (first, second) = several.split_at(several.len() / 2);
                self.write_up_to(part, first, offset(second[0]))?;
                self.write_up_to(part, second, to)
            }
        }
    }

    /// Sends messages to the reject topic.
    fn reject(&self, part: &Part<'_>, rejected: &[(&BorrowedMessage<'_>, &str)]) -> Result<(), Halt> {
        let (Some(rejects), Some((first, why))) = (&self.rejects, rejected.first()) else { return Ok(()) };
        let (partition, messages) = (part.partition, rejected.len());
        tracing::warn!(
            topic = first.topic(),
            partition,
            offset = first.offset(),
            why,
            messages,
            "messages are rejected; this is the first"
        );
        rejects.send(rejected, part.stopping).map_err(Halt::Wait)
    }

    fn write_rows(
        &self,
        part: &mut Part<'_>,
        to: u64,
        writes: &[Write<'_>],
    ) -> Result<(Written, Duration), StoreError> {
        let began = Instant::now();
        let span = StreamSpan { stream: part.name, from: part.position, to };
        let written = self.store.write_from(&span, writes, part.now_ms)?;
        part.position = to;
        Ok((written, began.elapsed()))
    }
}

/// A message, as its decoders see it.
fn view<'a>(message: &'a BorrowedMessage<'_>) -> Message<'a> {
    Message {
        offset: offset(message),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key(),
        payload: message.payload(),
    }
}

/// Offsets of messages are never negative.
pub(crate) fn offset(message: &BorrowedMessage<'_>) -> u64 {
    u64::try_from(message.offset()).unwrap_or(0)
}

fn poisoned(partition: i32, offset: u64, why: &str) -> Halt {
    let next = offset + 1;
    Halt::Stop(format!(
        "message {offset} is no row of the view: {why}. Name a reject_topic for such messages and start the node again, or pass over this one: \
         larder stream move --partition {partition} --to {next}"
    ))
}
