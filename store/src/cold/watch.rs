//! Watches over the reads of the cold pool, and tells the breaker how they went.
//!
//! A read fails that the operating system refuses or that takes longer than the time-out. One that is merely too late for its fetch does not:
//! a disk that turns needs longer than a fetch waits, and still fills the hot tier. Nor does one that finds a damaged page: the disk answered,
//! and whoever keeps asking for that page must not take the others' rows away. A disk that hangs returns nothing at all, so that nobody would ever
//! report a failure; therefore a fetch of which no job was answered counts as a failure while a thread has been at one read for longer than
//! the time-out.
//!
//! When the breaker opens, what is queued is forgotten: it would only stand in the way of the trial.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Error;
use crate::breaker::{Breaker, Pass};
use crate::cold::call::{ColdOutcome, Values};
use crate::cold::queue::SharedQueue;
use crate::faults::Faults;

/// What the pool's threads and its fetches know of each other.
pub(crate) struct Watch {
    pub(crate) breaker: Breaker,
    faults: Arc<Faults>,
    queue: Arc<SharedQueue>,
    started: Instant,
    /// For each thread when its read began, in milliseconds from the start, plus one; 0 between reads.
    reading_since: Box<[AtomicU64]>,
}

impl Watch {
    pub(crate) fn new(threads: usize, queue: Arc<SharedQueue>, breaker: Breaker, faults: Arc<Faults>) -> Watch {
        Watch {
            breaker,
            faults,
            queue,
            started: Instant::now(),
            reading_since: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Runs a read on one of the threads and reports how it went. The read does not panic.
    pub(crate) fn read(
        &self,
        thread: usize,
        pass: Pass,
        path: &Path,
        read: impl FnOnce() -> Result<Values, Error>,
    ) -> Result<Values, Error> {
        let began = Instant::now();
        self.reading_since[thread].store(self.millis(began) + 1, Ordering::Relaxed);
        let values = self.faults.before_cold_read(path).and_then(|()| read());
        self.reading_since[thread].store(0, Ordering::Relaxed);
        let ended = Instant::now();
        let answered = matches!(values, Ok(_) | Err(Error::RestoreStore { .. }));
        if answered && ended - began <= self.timeout() {
            self.breaker.succeeded(pass);
        } else {
            self.failed(pass, ended);
        }
        values
    }

    /// Looks at what a fetch got by its deadline. A trial is left to its own time-out: one thread may hang while another one makes it.
    pub(crate) fn fetch_ended(&self, pass: Pass, outcomes: &[ColdOutcome], now: Instant) {
        let nothing = !outcomes.iter().any(|outcome| matches!(outcome, ColdOutcome::Read(_)));
        if nothing && !pass.is_trial() && self.hangs(now) {
            self.failed(pass, now);
        }
    }

    /// Whether a thread has been at one read for longer than the time-out.
    fn hangs(&self, now: Instant) -> bool {
        let too_old = self.millis(now).saturating_sub(self.timeout().as_millis() as u64);
        let since = self.reading_since.iter().map(|since| since.load(Ordering::Relaxed));
        since.filter(|since| *since > 0).any(|since| since - 1 < too_old)
    }

    fn failed(&self, pass: Pass, now: Instant) {
        if self.breaker.failed(pass, now) {
            for task in self.queue.clear() {
                task.call.refuse(task.index);
            }
        }
    }

    fn timeout(&self) -> Duration {
        self.breaker.config().timeout
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_millis() as u64
    }
}
