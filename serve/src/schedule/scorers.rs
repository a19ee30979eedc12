//! What the scorers have before them: the batches being scored and those that stand ready, and when the first scorer will be free.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::schedule::closing::Scorers;

/// Weight of the newest fetch in the moving average.
const NEWEST: f64 = 0.2;
/// Before the first fetch.
const UNKNOWN_FETCH: Duration = Duration::from_millis(1);
/// No fetch is taken for longer than this: a disk that hung once must not make every batch close early.
const MAX_FETCH: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Commitments {
    scorers: usize,
    /// Handed out and not begun, oldest first.
    ready: VecDeque<Work>,
    running: Vec<Running>,
    last_number: usize,
    handed_out: Option<Instant>,
    fetch: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Work {
    cost: Duration,
    questions: usize,
}

#[derive(Debug)]
struct Running {
    number: usize,
    work: Work,
    began: Instant,
}

impl Running {
    /// A batch that has taken longer than was thought will, as far as anybody knows, take as much longer again.
    fn remaining(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began).abs_diff(self.work.cost)
    }

    fn overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) > self.work.cost
    }
}

impl Commitments {
    pub(crate) fn new(scorers: usize) -> Commitments {
        Commitments {
            scorers,
            ready: VecDeque::new(),
            running: Vec::new(),
            last_number: 0,
            handed_out: None,
            fetch: UNKNOWN_FETCH,
        }
    }

    /// Whether a batch may be handed out: no more than one for each scorer stands ready.
    pub(crate) fn slot_free(&self) -> bool {
        self.ready.len() < self.scorers
    }

    /// Until the scorers are through with everything they have, if they share it well.
    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        let ready: Duration = self.ready.iter().map(|work| work.cost).sum();
        let running: Duration = self.running.iter().map(|running| running.remaining(now)).sum();
        (ready + running) / u32::try_from(self.scorers.max(1)).unwrap_or(u32::MAX)
    }

    /// When a batch that is handed out now could be begun. One in a slot is on its way to a scorer, which is as good as busy.
    pub(crate) fn scorers(&self, now: Instant) -> Scorers {
        let idle = self.running.len() + self.ready.len() < self.scorers;
        let overdue = self.running.iter().any(|running| running.overdue(now));
        let free_at = match self.running.iter().map(|running| running.remaining(now)).min() {
            _ if idle => None,
            Some(least) if !overdue => Some(now + least),
            _ => Some(now),
        };
        Scorers { free_at, fetch: self.fetch }
    }

    pub(crate) fn handed_out(&mut self, cost: Duration, questions: usize, now: Instant) {
        self.ready.push_back(Work { cost, questions });
        self.handed_out = Some(now);
    }

    /// The batch handed out last is fetched: learns how long that takes.
    pub(crate) fn fetched(&mut self, now: Instant) {
        if let Some(began) = self.handed_out.take() {
            let elapsed = now.saturating_duration_since(began).min(MAX_FETCH);
            self.fetch = self.fetch.mul_f64(1.0 - NEWEST) + elapsed.mul_f64(NEWEST);
        }
    }

    /// The batch handed out last goes to no scorer; returns how many questions it was.
    pub(crate) fn withdrawn(&mut self) -> usize {
        self.ready.pop_back().map_or(0, |work| work.questions)
    }

    pub(crate) fn began(&mut self, now: Instant) -> usize {
        self.last_number += 1;
        let work = self.ready.pop_front().unwrap_or(Work { cost: Duration::ZERO, questions: 0 });
        self.running.push(Running { number: self.last_number, work, began: now });
        self.last_number
    }

    /// Returns how many questions it was.
    pub(crate) fn ended(&mut self, number: usize, now: Instant) -> usize {
        let Some(at) = self.running.iter().position(|running| running.number == number) else { return 0 };
        let Running { work, began, .. } = self.running.swap_remove(at);
        let (took, predicted) = (now.saturating_duration_since(began), work.cost);
        tracing::debug!(questions = work.questions, ?predicted, ?took, fetch = ?self.fetch, "batch scored");
        work.questions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Whether a slot is free and an idle scorer waits, with so many batches ready and so many running.
    fn check(scorers: usize, ready: usize, running: usize) -> (bool, bool) {
        let now = Instant::now();
        let mut commitments = Commitments::new(scorers);
        for _ in 0..running {
            commitments.handed_out(MS(10), 1, now);
            commitments.began(now);
        }
        (0..ready).for_each(|_| commitments.handed_out(MS(10), 1, now));
        (commitments.slot_free(), commitments.scorers(now).free_at.is_none())
    }

    #[test]
    fn one_scorer_has_one_slot() {
        assert_eq!(check(1, 0, 0), (true, true));
        assert_eq!(check(1, 0, 1), (true, false), "the next batch is fetched meanwhile");
        assert!(!check(1, 1, 0).0 && !check(1, 1, 1).0);
    }

    #[test]
    fn two_scorers_have_two() {
        assert_eq!(check(2, 0, 1), (true, true), "the idle one is not kept waiting");
        assert_eq!(check(2, 1, 0), (true, true));
        assert_eq!(check(2, 1, 1), (true, false), "the batch in the slot is the idle one's");
        assert!(!check(2, 2, 2).0);
    }

    #[test]
    fn what_is_left_is_known_and_what_is_overdue_is_doubled() {
        let start = Instant::now();
        let mut commitments = Commitments::new(1);
        commitments.handed_out(MS(50), 3, start);
        let number = commitments.began(start);
        commitments.handed_out(MS(20), 2, start);
        assert_eq!(commitments.remaining(start + MS(10)), MS(60));
        assert_eq!(commitments.scorers(start + MS(10)).free_at, Some(start + MS(50)));
        assert_eq!(commitments.remaining(start + MS(80)), MS(50), "30 ms more than it should have");
        assert_eq!(commitments.scorers(start + MS(80)).free_at, Some(start + MS(80)), "any moment");
        assert_eq!(commitments.ended(number, start + MS(80)), 3);
        assert_eq!(commitments.remaining(start + MS(80)), MS(20));
    }

    #[test]
    fn fetches_are_averaged_and_a_hanging_disk_counts_for_little() {
        let start = Instant::now();
        let mut commitments = Commitments::new(1);
        for _ in 0..50 {
            commitments.handed_out(MS(1), 1, start);
            commitments.fetched(start + MS(3));
        }
        assert!(commitments.fetch > MS(2) && commitments.fetch <= MS(3), "{:?}", commitments.fetch);
        commitments.handed_out(MS(1), 1, start);
        commitments.fetched(start + MS(60_000));
        assert!(commitments.fetch < MS(15), "{:?}", commitments.fetch);
    }
}
