//! A thread that looks up a topic's partitions and their ends, from time to time and when it is asked: calls that wait for brokers, which the thread that
//! writes rows must not.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Error;
use crate::change_stream::client::Topic;

/// How long one question to the brokers may take; a stop waits for it.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How soon it is looked again when the brokers did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// What was found; the first is number 1.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) number: u64,
    /// Partitions with the first message and the end of each, or what is wrong.
    pub(crate) found: Result<Vec<Found>, String>,
}

/// A partition; where its ends are unknown, its leader did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) partition: i32,
    pub(crate) ends: Option<(u64, u64)>,
}

/// The handle of the thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Looks that were begun.
    begun: u64,
    /// Looks that are wanted.
    wanted: u64,
    last: Option<Look>,
    stopping: bool,
}

impl Watch {
    pub(crate) fn start(topic: Arc<Topic>, every: Duration) -> Result<Watch, Error> {
        let shared = Arc::<Shared>::default();
        let of_thread = shared.clone();
        let body = move || of_thread.run(&topic, every);
        let thread = std::thread::Builder::new().name("larder-stream-ends".to_owned()).spawn(body);
        let thread = thread.map_err(|error| Error::FixRequest(format!("a thread cannot be started: {error}")))?;
        Ok(Watch { shared, thread: Some(thread) })
    }

    /// The last look, if there was one.
    pub(crate) fn last(&self) -> Option<Look> {
        self.shared.lock().last.clone()
    }

    /// The number of the last look.
    pub(crate) fn number(&self) -> u64 {
        self.shared.lock().last.as_ref().map_or(0, |look| look.number)
    }

    /// Has it looked at once; the number of a look that begins after this call.
    pub(crate) fn look(&self) -> u64 {
        let mut state = self.shared.lock();
        state.wanted = state.begun + 1;
        self.shared.changed.notify_all();
        state.wanted
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn run(&self, topic: &Topic, every: Duration) {
        while !self.is_stopping() {
            let number = {
                let mut state = self.lock();
                state.begun += 1;
                state.begun
            };
            let found = self.find(topic);
            let pause = if found.is_ok() { every } else { every.min(AGAIN) };
            let mut state = self.lock();
            state.last = Some(Look { number, found });
            let until = Instant::now() + pause;
            while !state.stopping && state.wanted <= state.begun {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn find(&self, topic: &Topic) -> Result<Vec<Found>, String> {
        let mut found = Vec::new();
        for partition in topic.partitions(TIMEOUT)? {
            if self.is_stopping() {
                return Err("the stream stops".to_owned());
            }
            found.push(Found { partition, ends: topic.ends(partition, TIMEOUT).ok() });
        }
        if found.iter().all(|found| found.ends.is_none()) {
            return Err("the brokers do not say where any partition begins and ends".to_owned());
        }
        Ok(found)
    }
}
