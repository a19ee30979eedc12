//! How many questions may be in the node at once: a limit that follows what the node gets done in time, whatever it is that slows it.
//!
//! Additive increase, multiplicative decrease, as TCP and Clipper (Crankshaw and others, NSDI 2017) have it, a step at a time: when more than a few
//! of the questions that a step settled had been let in and missed their deadlines, too many were let in, and a tenth is taken off; when
//! the limit was nearly reached and they were answered in time, a little is added. The predictions of admission come first; this is for when
//! they are wrong, because a disk hangs or another process takes the cores.

use std::time::{Duration, Instant};

/// What a bad step leaves of the limit.
const DECREASE: f64 = 0.9;
/// What a good step adds, as a part of the limit's least and one at least.
const INCREASE: f64 = 0.25;
/// How long a step takes.
const STEP: Duration = Duration::from_millis(100);
/// The part of a step's questions that may be late: one that had bad luck says nothing.
const TOLERATED: f64 = 0.05;
/// A good step in which less than this part of the limit was used says nothing about it.
const USED: f64 = 0.5;

#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    least: f64,
    most: f64,
    limit: f64,
    step_ends: Option<Instant>,
    answered: usize,
    late: usize,
}

impl ConcurrencyLimit {
    /// Between `least` and `most`, beginning with `most`.
    pub(crate) fn new(least: usize, most: usize) -> ConcurrencyLimit {
        let (least, most) = (least.min(most) as f64, most as f64);
        ConcurrencyLimit { least, most, limit: most, step_ends: None, answered: 0, late: 0 }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Questions were answered in time while so many were in the node.
    pub(crate) fn answered(&mut self, questions: usize, in_flight: usize, now: Instant) {
        self.answered += questions;
        self.step(in_flight, now);
    }

    /// A question was let in and its deadline passed, while so many were in the node.
    pub(crate) fn late(&mut self, in_flight: usize, now: Instant) {
        self.late += 1;
        self.step(in_flight, now);
    }

    fn step(&mut self, in_flight: usize, now: Instant) {
        match self.step_ends {
            Some(ends) if now >= ends => {}
            Some(_) => return,
            None => {
                self.step_ends = Some(now + STEP);
                return;
            }
        }
        self.step_ends = None;
        let (late, settled) = (self.late as f64, (self.late + self.answered) as f64);
        (self.late, self.answered) = (0, 0);
        if late > settled * TOLERATED {
            // A limit far above what is there would take long to be felt.
            let felt = self.limit.min(in_flight.max(1) as f64);
            self.limit = (felt * DECREASE).max(self.least);
        } else if in_flight as f64 >= self.limit * USED {
            self.limit = (self.limit + (self.least * INCREASE).max(1.0)).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// The limit after steps, each with so many answered, late and in flight.
    fn limit(steps: impl IntoIterator<Item = (usize, usize, usize)>) -> usize {
        let mut limit = ConcurrencyLimit::new(16, 1_000);
        let mut now = Instant::now();
        for (answered, late, in_flight) in steps {
            limit.answered(answered, in_flight, now);
            (0..late).for_each(|_| limit.late(in_flight, now));
            now += MS(101);
            limit.answered(0, in_flight, now);
        }
        limit.limit()
    }

    #[test]
    fn late_questions_bring_it_down_to_the_least_and_answers_bring_it_back() {
        assert_eq!(limit([(10, 10, 100)]), 90, "felt at once");
        assert_eq!(limit([(100, 5, 100)]), 1_000, "a few are bad luck");
        let bad = [(10, 10, 100); 30];
        assert_eq!(limit(bad), 16);
        assert_eq!(limit(bad.into_iter().chain([(1_000, 0, 4); 50])), 16, "four at once say nothing about more");
        assert_eq!(limit(bad.into_iter().chain([(30, 0, 900); 10])), 16 + 40);
        assert_eq!(limit(bad.into_iter().chain([(30, 0, 900); 500])), 1_000);
    }
}
