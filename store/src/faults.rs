//! Faults on purpose: a slow store, a slow cold disk, cold reads that fail. A test instrument, so that whoever runs a store can see what its
//! callers make of them. While none is set, a fetch and a cold read pay one load each for it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::Error;
use crate::random::Random;

/// Which faults a store has; the default is none. Latencies are random up to the setting, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StoreFaults {
    /// Added to every fetch, on the thread that fetches.
    pub fetch_latency_ms: u64,
    /// Added to every read of the cold tier, on the thread that reads.
    pub cold_latency_ms: u64,
    /// Share of the reads of the cold tier that fail, 0 to 1.
    pub cold_error_rate: f64,
    /// Of equal seeds come equal faults, as far as the threads come in equal order.
    pub seed: u64,
}

impl StoreFaults {
    fn any(&self) -> bool {
        self.fetch_latency_ms > 0 || self.cold_latency_ms > 0 || self.cold_error_rate > 0.0
    }
}

/// How often each fault struck so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InjectedFaults {
    /// Fetches that waited.
    pub fetch_latency: u64,
    /// Cold reads that waited.
    pub cold_latency: u64,
    /// Cold reads that failed.
    pub cold_error: u64,
}

/// The faults of a store, as its threads see them.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    on: AtomicBool,
    set: Mutex<(StoreFaults, Random)>,
    fetch_latency: AtomicU64,
    cold_latency: AtomicU64,
    cold_error: AtomicU64,
}

impl Faults {
    pub(crate) fn set(&self, faults: StoreFaults) {
        *self.lock() = (faults, Random(faults.seed));
        self.on.store(faults.any(), Ordering::Relaxed);
    }

    pub(crate) fn injected(&self) -> InjectedFaults {
        InjectedFaults {
            fetch_latency: self.fetch_latency.load(Ordering::Relaxed),
            cold_latency: self.cold_latency.load(Ordering::Relaxed),
            cold_error: self.cold_error.load(Ordering::Relaxed),
        }
    }

    /// What a fetch goes through first.
    #[inline]
    pub(crate) fn before_fetch(&self) {
        if let Some(faults) = self.now() {
            self.wait(faults.fetch_latency_ms, &self.fetch_latency);
        }
    }

    /// What a read of the cold tier goes through first.
    #[inline]
    pub(crate) fn before_cold_read(&self, path: &Path) -> Result<(), Error> {
        let Some(faults) = self.now() else { return Ok(()) };
        self.wait(faults.cold_latency_ms, &self.cold_latency);
        if self.lock().1.unit() >= faults.cold_error_rate {
            return Ok(());
        }
        self.cold_error.fetch_add(1, Ordering::Relaxed);
        Err(Error::disk("read", path)(io::Error::other("a failure on purpose")))
    }

    #[inline]
    fn now(&self) -> Option<StoreFaults> {
        self.on.load(Ordering::Relaxed).then(|| self.lock().0)
    }

    fn lock(&self) -> MutexGuard<'_, (StoreFaults, Random)> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, most_ms: u64, count: &AtomicU64) {
        if most_ms == 0 {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let share = self.lock().1.unit();
        thread::sleep(Duration::from_millis(most_ms).mul_f64(share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_cold_reads_fails_and_the_seed_says_which() {
        let outcomes = |seed| {
            let faults = Faults::default();
            assert!(faults.before_cold_read(Path::new("x")).is_ok(), "off until it is set");
            faults.set(StoreFaults { cold_error_rate: 0.3, seed, ..StoreFaults::default() });
            let outcomes: Vec<bool> = (0..1000).map(|_| faults.before_cold_read(Path::new("x")).is_err()).collect();
            let failed = outcomes.iter().filter(|failed| **failed).count();
            assert!((250..350).contains(&failed), "{failed}");
            assert_eq!(faults.injected(), InjectedFaults { cold_error: failed as u64, ..InjectedFaults::default() });
            faults.set(StoreFaults::default());
            assert!((0..100).all(|_| faults.before_cold_read(Path::new("x")).is_ok()), "and off again");
            outcomes
        };
        assert_eq!(outcomes(1), outcomes(1));
        assert_ne!(outcomes(1), outcomes(2));
    }

    #[test]
    fn a_latency_is_counted_where_it_is() {
        let faults = Faults::default();
        faults.set(StoreFaults { fetch_latency_ms: 1, ..StoreFaults::default() });
        faults.before_fetch();
        assert!(faults.before_cold_read(Path::new("x")).is_ok());
        assert_eq!(faults.injected(), InjectedFaults { fetch_latency: 1, ..InjectedFaults::default() });
    }
}
