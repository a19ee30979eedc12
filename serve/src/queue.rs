//! Where admitted questions wait for a batch, and the one place that knows which scorers are busy.
//!
//! The queue is a mutex and a condition variable: pushed to by I/O threads, emptied by the fetch thread, told by each score
//! thread when it starts and ends; there is one for every device. A batch is handed out only while a slot ahead of a scorer
//! is free, so that at most one batch for each scorer is scored and one for each stands ready. Its length is bounded by
//! admission: every element holds a permit.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::batcher::{self, ClosedBy, Decision, Waiting};
use crate::config::BatcherConfig;
use crate::question::Admitted;

#[derive(Debug)]
pub(crate) struct Queue {
    config: BatcherConfig,
    /// Score threads.
    scorers: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Admitted>,
    phase: Phase,
    /// Batches that were handed out and that no scorer has begun.
    slots_taken: usize,
    scorers_busy: usize,
}

impl State {
    /// Whether a batch may be handed out: no more than one for each scorer stands ready.
    fn slot_free(&self, scorers: usize) -> bool {
        self.slots_taken < scorers
    }

    /// Whether a batch handed out now would have to wait. One in a slot is on its way to a scorer, which is as good as busy.
    fn all_busy(&self, scorers: usize) -> bool {
        self.scorers_busy + self.slots_taken >= scorers
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Nothing new; what waits is still answered.
    Draining,
    /// A worker failed: nothing is answered any more.
    Failed,
}

/// Questions to be fetched and scored together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) questions: Vec<Admitted>,
    pub(crate) closed_by: ClosedBy,
    pub(crate) closed: Instant,
}

impl Queue {
    /// For that many score threads.
    pub(crate) fn new(config: BatcherConfig, scorers: usize) -> Queue {
        Queue { config, scorers, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(crate) fn scorers(&self) -> usize {
        self.scorers
    }

    /// Adds a question; gives it back when the queue is no longer open.
    pub(crate) fn push(&self, question: Admitted) -> Result<(), Box<Admitted>> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(Box::new(question));
        }
        state.waiting.push_back(question);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for the next batch. Lost questions (expired, cancelled) are dropped on the way, which tells their callers.
    /// None when the queue was drained and is empty, or failed.
    pub(crate) fn next_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let slot_free = state.slot_free(self.scorers);
            if slot_free {
                state.waiting.retain(|question| !question.is_lost(now));
            }
            let finished = state.phase == Phase::Draining && state.waiting.is_empty();
            if finished || state.phase == Phase::Failed {
                return None;
            }
            let decision = if slot_free { self.decide(&state, now) } else { None };
            match decision {
                Some((questions, Decision::Close(closed_by))) => {
                    state.slots_taken += 1;
                    let questions = state.waiting.drain(..questions).collect();
                    return Some(Batch { questions, closed_by, closed: now });
                }
                Some((_, Decision::WaitUntil(until))) => {
                    let wait = until.saturating_duration_since(now);
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn decide(&self, state: &State, now: Instant) -> Option<(usize, Decision)> {
        let waiting = |question: &Admitted| Waiting {
            arrived: question.arrived,
            deadline: question.question.deadline,
            cost: question.permit.cost(),
        };
        let outlook = batcher::outlook(state.waiting.iter().map(waiting), &self.config)?;
        let draining = state.phase == Phase::Draining;
        let busy = state.all_busy(self.scorers);
        Some((outlook.questions, batcher::decide(&outlook, busy, draining, now, &self.config)))
    }

    /// A scorer took a batch from its slot.
    pub(crate) fn scoring_began(&self) {
        let mut state = self.lock();
        state.slots_taken -= 1;
        state.scorers_busy += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// A scorer has nothing to do.
    pub(crate) fn scoring_ended(&self) {
        self.lock().scorers_busy -= 1;
        self.changed.notify_all();
    }

    /// Takes nothing new; what waits is still handed out.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Gives everything up: callers see their question dropped.
    pub(crate) fn fail(&self) {
        let mut state = self.lock();
        state.phase = Phase::Failed;
        let lost = std::mem::take(&mut state.waiting);
        drop(state);
        self.changed.notify_all();
        drop(lost);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is handled by `fail`; the state itself is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a slot is free and whether all scorers are busy, with `taken` slots taken and `busy` scorers busy.
    fn check(scorers: usize, taken: usize, busy: usize) -> (bool, bool) {
        let state = State { slots_taken: taken, scorers_busy: busy, ..State::default() };
        (state.slot_free(scorers), state.all_busy(scorers))
    }

    #[test]
    fn one_scorer_has_one_slot() {
        assert_eq!(check(1, 0, 0), (true, false), "idle");
        assert_eq!(check(1, 0, 1), (true, true), "the next batch is fetched meanwhile");
        assert!(!check(1, 1, 0).0 && !check(1, 1, 1).0);
    }

    #[test]
    fn two_scorers_have_two() {
        assert_eq!(check(2, 0, 1), (true, false), "the idle one is not kept waiting");
        assert_eq!(check(2, 1, 0), (true, false));
        assert_eq!(check(2, 1, 1), (true, true), "the batch in the slot is the idle one's");
        assert_eq!(check(2, 1, 2), (true, true));
        assert!(!check(2, 2, 2).0);
    }

    #[test]
    fn scorers_come_and_go() {
        let queue = Queue::new(BatcherConfig::default(), 2);
        queue.lock().slots_taken = 2;
        queue.scoring_began();
        let state = queue.lock();
        assert_eq!((state.slots_taken, state.scorers_busy), (1, 1));
        drop(state);
        queue.scoring_ended();
        assert_eq!(queue.lock().scorers_busy, 0);
    }
}
