//! A circuit breaker: a dependency that has failed several times in a row is left alone for a while, and then tried with one call.
//!
//! It is for what an answer can do without: while it is open, whoever needs the dependency goes on at once without what it would give, and
//! the dependency is not pressed while it recovers. The store uses one for its cold tier; the node has one for each encoder.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use larder_store::{Breaker, BreakerConfig, BreakerState};
//!
//! let breaker = Breaker::new("disk", BreakerConfig { failures: 1, ..BreakerConfig::default() }, 0);
//! let now = Instant::now();
//! let pass = breaker.ask(now).unwrap();
//! breaker.failed(pass, now);
//! assert!(breaker.ask(now).is_err(), "open");
//! let later = now + Duration::from_secs(40);
//! let trial = breaker.ask(later).unwrap();
//! assert!(trial.is_trial());
//! breaker.succeeded(trial);
//! assert_eq!(breaker.status(later).state, BreakerState::Closed);
//! ```

mod circuit;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::breaker::circuit::Circuit;
use crate::metrics;

pub use crate::breaker::circuit::Pass;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it, at least 1.
    pub failures: u32,
    /// How long it is open the first time. Each failed trial doubles it.
    pub open: Duration,
    /// The longest it is open.
    pub max_open: Duration,
    /// A call that takes longer has failed: the caller reports it so. A trial that nobody reports by then has failed too.
    pub timeout: Duration,
}

impl Default for BreakerConfig {
    /// 5 failures, 30 s doubling up to 5 minutes, 1.5 s.
    fn default() -> BreakerConfig {
        BreakerConfig {
            failures: 5,
            open: Duration::from_secs(30),
            max_open: Duration::from_secs(300),
            timeout: Duration::from_millis(1500),
        }
    }
}

/// Whether a dependency is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// It is.
    Closed,
    /// The next call, or the one on its way, decides.
    HalfOpen,
    /// It is not.
    Open,
}

impl BreakerState {
    /// Every state.
    pub const ALL: [BreakerState; 3] = [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open];

    /// The state's name in metrics and status replies.
    pub fn label(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        }
    }
}

/// A breaker as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerStatus {
    /// What it guards.
    pub dependency: String,
    /// Whether that is called.
    pub state: BreakerState,
    /// In a row.
    pub failures: u32,
    /// How long until it is tried again; zero where it is not open.
    pub retry_in: Duration,
}

/// A breaker; callers of all threads share it. The clock is an argument of every call.
#[derive(Debug)]
pub struct Breaker {
    dependency: String,
    config: BreakerConfig,
    circuit: Mutex<Circuit>,
    /// The generation of a closed circuit without failures, which is nearly always, or 0: then asking is one load.
    calm: AtomicU64,
}

impl Breaker {
    /// A closed breaker. `dependency` is a label of its metrics, so it names no tenant; of equal seeds come equal jitters.
    pub fn new(dependency: impl Into<String>, config: BreakerConfig, seed: u64) -> Breaker {
        let circuit = Circuit::new(config, seed);
        let calm = AtomicU64::new(circuit.calm().unwrap_or(0));
        Breaker { dependency: dependency.into(), config, circuit: Mutex::new(circuit), calm }
    }

    /// How it is set.
    pub fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// Leave to call the dependency; the outcome is to be reported with [`succeeded`](Breaker::succeeded) or [`failed`](Breaker::failed).
    ///
    /// # Errors
    /// The breaker is open, or its trial is on its way: the time after which asking again may help.
    pub fn ask(&self, now: Instant) -> Result<Pass, Duration> {
        match self.calm.load(Ordering::Acquire) {
            0 => self.change(|circuit| circuit.ask(now)),
            generation => Ok(Pass::of(generation)),
        }
    }

    /// Whether it is of no use to ask: it is open, and no trial is due.
    pub fn is_open(&self, now: Instant) -> bool {
        self.calm.load(Ordering::Acquire) == 0 && self.lock().state(now).0 == BreakerState::Open
    }

    /// Says that a call went well.
    pub fn succeeded(&self, pass: Pass) {
        if self.calm.load(Ordering::Acquire) == pass.generation {
            return;
        }
        if self.change(|circuit| circuit.succeeded(pass)) {
            tracing::info!(dependency = self.dependency, "breaker closed: the dependency answers again");
        }
    }

    /// Says that a call failed, or took longer than the time-out. True when that opened the breaker.
    pub fn failed(&self, pass: Pass, now: Instant) -> bool {
        let (opened, failures, retry_in) =
            self.change(|circuit| (circuit.failed(pass, now), circuit.failures(), circuit.state(now).1));
        if opened {
            metrics::record_breaker_opening(&self.dependency);
            let retry_in_s = retry_in.as_secs_f64();
            tracing::warn!(dependency = self.dependency, failures, retry_in_s, "breaker open: going on without it");
        }
        opened
    }

    /// How it is.
    pub fn status(&self, now: Instant) -> BreakerStatus {
        let circuit = self.lock();
        let (state, retry_in) = circuit.state(now);
        BreakerStatus { dependency: self.dependency.clone(), state, failures: circuit.failures(), retry_in }
    }

    /// Sets the gauges of its state, which are read when somebody asks.
    pub fn observe(&self, now: Instant) {
        metrics::set_breaker_state(&self.dependency, self.status(now).state);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuit = self.lock();
        let outcome = change(&mut circuit);
        self.calm.store(circuit.calm().unwrap_or(0), Ordering::Release);
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        // Each change is one call that does not panic halfway.
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_ends_the_calm_and_a_success_restores_it() {
        let (breaker, now) = (Breaker::new("test", BreakerConfig::default(), 0), Instant::now());
        let pass = breaker.ask(now).unwrap();
        for _ in 0..3 {
            assert!(!breaker.failed(pass, now));
        }
        assert_eq!((breaker.calm.load(Ordering::Relaxed), breaker.status(now).failures), (0, 3));
        breaker.succeeded(pass);
        assert_ne!(breaker.calm.load(Ordering::Relaxed), 0);
        assert_eq!(breaker.status(now).failures, 0);
        assert_eq!((1..=5).map(|_| breaker.failed(pass, now)).collect::<Vec<_>>(), [false, false, false, false, true]);
        let status = breaker.status(now);
        assert_eq!((status.state, breaker.ask(now)), (BreakerState::Open, Err(status.retry_in)));
        assert!(breaker.is_open(now) && !breaker.is_open(now + status.retry_in));
    }

    #[test]
    fn of_many_who_ask_at_once_one_has_the_trial() {
        let config = BreakerConfig { failures: 1, open: Duration::ZERO, ..BreakerConfig::default() };
        let (breaker, now) = (Breaker::new("test", config, 0), Instant::now());
        let pass = breaker.ask(now).unwrap();
        assert!(breaker.failed(pass, now));
        let trials = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| breaker.ask(now).is_ok())).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).filter(|trial| *trial).count()
        });
        assert_eq!(trials, 1);
    }
}
