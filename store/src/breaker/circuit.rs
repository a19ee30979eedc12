//! The rule of a circuit breaker, without lock or clock: closed, open, and between them the one trial that decides.
//!
//! Every change of phase begins a new generation, and a call's outcome counts only in the generation that let it through: a call that began
//! before the circuit opened says nothing about the dependency as it is now.

use std::time::{Duration, Instant};

use super::{BreakerConfig, BreakerState};
use crate::random::Random;

/// Leave to call the dependency once. Whoever has it says how the call went; of a trial that nobody reports within the time-out the circuit
/// takes the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a breaker learns only from calls whose outcome it is told"]
pub struct Pass {
    pub(super) generation: u64,
    trial: bool,
}

impl Pass {
    /// A pass of a closed circuit.
    pub(super) fn of(generation: u64) -> Pass {
        Pass { generation, trial: false }
    }

    /// Whether this call decides if the circuit closes. Then it should be small.
    pub fn is_trial(self) -> bool {
        self.trial
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    Trial { until: Instant },
}

#[derive(Debug)]
pub(super) struct Circuit {
    config: BreakerConfig,
    phase: Phase,
    generation: u64,
    /// In a row.
    failures: u32,
    /// In a row, without having been closed between them.
    openings: u32,
    jitter: Random,
}

impl Circuit {
    pub(super) fn new(config: BreakerConfig, seed: u64) -> Circuit {
        Circuit { config, phase: Phase::Closed, generation: 1, failures: 0, openings: 0, jitter: Random(seed) }
    }

    /// Leave to call, or the time after which asking again may help.
    pub(super) fn ask(&mut self, now: Instant) -> Result<Pass, Duration> {
        loop {
            match self.phase {
                Phase::Closed => return Ok(Pass::of(self.generation)),
                Phase::Open { until } | Phase::Trial { until } if now < until => return Err(until - now),
                Phase::Open { .. } => {
                    self.enter(Phase::Trial { until: now + self.config.timeout });
                    return Ok(Pass { generation: self.generation, trial: true });
                }
                // As if it had failed when its time was up, however much later somebody asks.
                Phase::Trial { until } => self.open(until),
            }
        }
    }

    /// Takes note that a call went well; true when that closed the circuit.
    pub(super) fn succeeded(&mut self, pass: Pass) -> bool {
        if pass.generation != self.generation {
            return false;
        }
        self.failures = 0;
        let closes = pass.trial;
        if closes {
            self.openings = 0;
            self.enter(Phase::Closed);
        }
        closes
    }

    /// Takes note that a call failed; true when that opened the circuit.
    pub(super) fn failed(&mut self, pass: Pass, now: Instant) -> bool {
        if pass.generation != self.generation {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let opens = pass.trial || self.failures >= self.config.failures;
        if opens {
            self.open(now);
        }
        opens
    }

    /// The generation, if the circuit is closed and has nothing to forget.
    pub(super) fn calm(&self) -> Option<u64> {
        (matches!(self.phase, Phase::Closed) && self.failures == 0).then_some(self.generation)
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The state, and the time until the next trial.
    pub(super) fn state(&self, now: Instant) -> (BreakerState, Duration) {
        match self.phase {
            Phase::Closed => (BreakerState::Closed, Duration::ZERO),
            Phase::Open { until } if now < until => (BreakerState::Open, until - now),
            Phase::Open { .. } | Phase::Trial { .. } => (BreakerState::HalfOpen, Duration::ZERO),
        }
    }

    fn open(&mut self, at: Instant) {
        let doubled = self.config.open.saturating_mul(1_u32.checked_shl(self.openings).unwrap_or(u32::MAX));
        let rest = doubled.min(self.config.max_open);
        self.openings = self.openings.saturating_add(1);
        let until = at + rest + rest.mul_f64(MAX_JITTER * self.jitter.unit());
        self.enter(Phase::Open { until });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

/// An opening lasts up to this share longer, so that nodes that opened together do not try together.
pub(super) const MAX_JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn circuit() -> Circuit {
        Circuit::new(BreakerConfig::default(), 1)
    }

    /// Fails it until it is open; the time until the trial.
    fn open(circuit: &mut Circuit, now: Instant) -> Duration {
        for _ in 0..5 {
            let pass = circuit.ask(now).unwrap();
            assert!(!pass.is_trial());
            circuit.failed(pass, now);
        }
        circuit.ask(now).unwrap_err()
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (mut circuit, now) = (circuit(), Instant::now());
        for _ in 0..4 {
            let pass = circuit.ask(now).unwrap();
            assert!(!circuit.failed(pass, now));
        }
        let pass = circuit.ask(now).unwrap();
        assert!(!circuit.succeeded(pass), "it was closed");
        assert!(open(&mut circuit, now) >= S(30));
        assert_eq!(circuit.state(now).0, BreakerState::Open);
    }

    #[test]
    fn one_trial_closes_it() {
        let (mut circuit, now) = (circuit(), Instant::now());
        let rest = open(&mut circuit, now);
        assert!(circuit.ask(now + rest - Duration::from_nanos(1)).is_err());
        let then = now + rest;
        assert_eq!(circuit.state(then), (BreakerState::HalfOpen, Duration::ZERO));
        let trial = circuit.ask(then).unwrap();
        assert!(trial.is_trial());
        assert_eq!(circuit.ask(then), Err(BreakerConfig::default().timeout), "one at a time");
        assert!(circuit.succeeded(trial));
        assert_eq!((circuit.state(then).0, circuit.failures()), (BreakerState::Closed, 0));
        assert!(!circuit.ask(then).unwrap().is_trial());
    }

    #[test]
    fn each_failed_trial_doubles_the_rest_up_to_a_bound_and_closing_starts_anew() {
        let (mut circuit, mut now) = (circuit(), Instant::now());
        let mut rest = open(&mut circuit, now);
        let mut rests = vec![rest];
        for _ in 0..5 {
            now += rest;
            let trial = circuit.ask(now).unwrap();
            assert!(circuit.failed(trial, now));
            rest = circuit.ask(now).unwrap_err();
            rests.push(rest);
        }
        for (rest, least) in rests.iter().zip([30, 60, 120, 240, 300, 300].map(S)) {
            assert!((least..=least.mul_f64(1.0 + MAX_JITTER)).contains(rest), "{rests:?}");
        }
        now += rest;
        let trial = circuit.ask(now).unwrap();
        circuit.succeeded(trial);
        assert!(open(&mut circuit, now) <= S(33), "the next outage is a new one");
    }

    #[test]
    fn the_jitter_is_of_the_seed() {
        let now = Instant::now();
        let rest = |seed| open(&mut Circuit::new(BreakerConfig::default(), seed), now);
        assert_eq!(rest(7), rest(7));
        assert_ne!(rest(7), rest(8));
    }

    #[test]
    fn a_trial_that_nobody_reports_has_failed() {
        let (mut circuit, now) = (circuit(), Instant::now());
        let then = now + open(&mut circuit, now);
        let trial = circuit.ask(then).unwrap();
        let late = then + BreakerConfig::default().timeout;
        assert!(circuit.ask(late).unwrap_err() >= S(60), "open again, and for longer");
        assert!(!circuit.succeeded(trial), "what is heard of it later changes nothing");
        assert_eq!(circuit.state(late).0, BreakerState::Open);
        assert!(circuit.ask(late + S(3600)).unwrap().is_trial(), "however late somebody asks");
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_afterwards() {
        let (mut circuit, now) = (circuit(), Instant::now());
        let old = circuit.ask(now).unwrap();
        let then = now + open(&mut circuit, now);
        let trial = circuit.ask(then).unwrap();
        assert!(!circuit.succeeded(old) && !circuit.failed(old, then));
        assert!(circuit.succeeded(trial));
    }
}
