//! How a stream is doing, for whoever asks, and the way to tell it something.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use larder_store::Written;

use crate::Error;

/// How long a stream may take to do what it is told; it may be waiting for the disk, or for acknowledgements.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream at a glance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamStatus {
    /// What is wrong with the stream as a whole; empty = nothing.
    pub trouble: String,
    /// Its partitions, by number; none before the brokers first answered.
    pub partitions: Vec<PartitionStatus>,
}

/// A partition at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: i32,
    /// Whether it is read.
    pub state: PartitionState,
    /// Why it is not read; empty where it is.
    pub why: String,
    /// Behind the last message whose rows are in the store; none before the first.
    pub position: Option<u64>,
    /// The first message that the brokers have, and behind the last, as of the last look.
    pub ends: Option<(u64, u64)>,
    /// Messages that are there and not in the store.
    pub lag: Option<u64>,
    /// How old what was last written is, while there is more.
    pub behind: Option<Duration>,
}

/// Whether a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionState {
    /// It is.
    Running,
    /// It will be by itself, when what is in the way is gone.
    Waiting,
    /// Not until somebody does something.
    Stopped,
}

impl PartitionState {
    /// All of them.
    pub const ALL: [PartitionState; 3] = [PartitionState::Running, PartitionState::Waiting, PartitionState::Stopped];

    /// As it is shown.
    pub fn label(self) -> &'static str {
        match self {
            PartitionState::Running => "running",
            PartitionState::Waiting => "waiting",
            PartitionState::Stopped => "stopped",
        }
    }
}

/// Messages of one partition that are done with, and what came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages that were passed.
    pub messages: u64,
    /// What the store made of their rows.
    pub written: Written,
    /// Of the messages: how many went to the reject topic.
    pub rejected: u64,
    /// Rows and deletions that are other shards'.
    pub foreign: u64,
    /// How long the rows took to be on disk.
    pub write: Duration,
}

/// Where a partition is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveTo {
    /// At the first message there is.
    Earliest,
    /// Behind the last one.
    Latest,
    /// At a position.
    Position(u64),
}

impl FromStr for MoveTo {
    type Err = String;

    fn from_str(text: &str) -> Result<MoveTo, String> {
        match text {
            "earliest" => Ok(MoveTo::Earliest),
            "latest" => Ok(MoveTo::Latest),
            position => position.parse().map(MoveTo::Position).map_err(|_| {
                format!("\"{text}\" is no position: earliest, latest or the offset of a message is expected")
            }),
        }
    }
}

/// A partition that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Its number.
    pub partition: i32,
    /// Where it stood; none where nothing had been written from it.
    pub from: Option<u64>,
    /// Where it goes on.
    pub to: u64,
}

/// What a stream is told.
#[derive(Debug)]
pub(crate) struct Move {
    /// None means all of them.
    pub(crate) partition: Option<i32>,
    pub(crate) to: MoveTo,
    pub(crate) reply: mpsc::SyncSender<Result<Vec<Moved>, String>>,
}

/// The way to a stream that runs on a thread of its own. Clones are ways to the same.
#[derive(Debug, Clone)]
pub struct StreamHandle {
    pub(crate) shared: Arc<Shared>,
    moves: mpsc::Sender<Move>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    status: Mutex<StreamStatus>,
    stopping: AtomicBool,
}

impl StreamHandle {
    pub(crate) fn new() -> (StreamHandle, mpsc::Receiver<Move>) {
        let (moves, told) = mpsc::channel();
        (StreamHandle { shared: Arc::default(), moves }, told)
    }

    /// How it was doing a moment ago.
    pub fn status(&self) -> StreamStatus {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it end after what it is doing; within a few seconds, wherever it waits.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Has a partition, or all of them, go on elsewhere, whether it runs or was stopped. This waits until it is done.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a partition or a position that there is not, where the brokers cannot be asked for it, or where the store does not
    /// take it.
    pub fn move_to(&self, partition: Option<i32>, to: MoveTo) -> Result<Vec<Moved>, Error> {
        let ended = || Error::FixRequest("the stream does not run".to_owned());
        let (reply, outcome) = mpsc::sync_channel(1);
        self.moves.send(Move { partition, to, reply }).map_err(|_| ended())?;
        match outcome.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome.map_err(Error::FixRequest),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ended()),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(Error::FixRequest(format!(
                "the stream did not answer within {} s; see `larder inspect` for what came of it",
                PATIENCE.as_secs()
            ))),
        }
    }
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn tell(&self, status: StreamStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_go_is_two_words_or_a_number() {
        assert_eq!(("earliest".parse(), "17".parse()), (Ok(MoveTo::Earliest), Ok(MoveTo::Position(17))));
        for wrong in ["", "-1", "first", "99999999999999999999"] {
            assert!(wrong.parse::<MoveTo>().unwrap_err().contains("earliest, latest or the offset"), "{wrong}");
        }
    }

    #[test]
    fn a_stream_that_does_not_run_is_told_so() {
        let (handle, moves) = StreamHandle::new();
        drop(moves);
        assert_eq!(handle.move_to(None, MoveTo::Latest).unwrap_err().to_string(), "the stream does not run");
    }
}
