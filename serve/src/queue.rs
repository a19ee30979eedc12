//! Where admitted questions wait for a batch, and the one place that knows whether the scorer is busy.
//!
//! The queue is a mutex and a condition variable: pushed to by I/O threads, emptied by the fetch thread, told by the score
//! thread when it starts and ends. A batch is handed out only while the slot ahead of the scorer is free, so that at most
//! one batch is scored and one stands ready. Its length is bounded by admission: every element holds a permit.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::batcher::{self, ClosedBy, Decision, Waiting};
use crate::config::BatcherConfig;
use crate::question::Admitted;

#[derive(Debug)]
pub(crate) struct Queue {
    config: BatcherConfig,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Admitted>,
    phase: Phase,
    /// A batch was handed out and the scorer has not begun it.
    slot_taken: bool,
    scorer_busy: bool,
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
    pub(crate) fn new(config: BatcherConfig) -> Queue {
        Queue { config, state: Mutex::default(), changed: Condvar::new() }
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
            if !state.slot_taken {
                state.waiting.retain(|question| !question.is_lost(now));
            }
            let finished = state.phase == Phase::Draining && state.waiting.is_empty();
            if finished || state.phase == Phase::Failed {
                return None;
            }
            let decision = if state.slot_taken { None } else { self.decide(&state, now) };
            match decision {
                Some((questions, Decision::Close(closed_by))) => {
                    state.slot_taken = true;
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
        Some((outlook.questions, batcher::decide(&outlook, state.scorer_busy, draining, now, &self.config)))
    }

    /// The scorer took the batch from the slot.
    pub(crate) fn scoring_began(&self) {
        let mut state = self.lock();
        state.slot_taken = false;
        state.scorer_busy = true;
        drop(state);
        self.changed.notify_all();
    }

    /// The scorer has nothing to do.
    pub(crate) fn scoring_ended(&self) {
        self.lock().scorer_busy = false;
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
