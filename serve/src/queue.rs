//! Where admitted questions wait for a batch: the schedule, with threads around it.
//!
//! A mutex and a condition variable: I/O threads let questions in, the fetch thread takes batches, each score thread says when it
//! starts and ends; there is one for every device. A caller who goes away, or whose deadline passes, takes its question out by dropping its
//! `Place`, at that moment and not when a batch happens to form.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cost::CostModel;
use crate::error::Refusal;
use crate::question::{Admitted, Chosen};
use crate::schedule::admission::Permit;
use crate::schedule::closing::ClosedBy;
use crate::schedule::line::Entry;
use crate::schedule::{Backlog, Entered, Formed, Next, Schedule};

#[derive(Debug)]
pub(crate) struct Queue {
    /// Of the encoders, by their numbers; none of those that are at hand. What a whole batch takes is better known than its questions' parts.
    costs: Vec<Option<Arc<CostModel>>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    schedule: Schedule<Admitted>,
    phase: Phase,
    /// The fetch thread waits for a change.
    idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing new; what waits is still answered.
    Draining,
    /// A worker failed: nothing is answered any more.
    Failed,
}

/// Questions to be fetched and scored together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) questions: Vec<Chosen>,
    pub(crate) closed_by: ClosedBy,
    pub(crate) closed: Instant,
}

/// A question's place in the queue, held by whoever waits for the answer. Dropping it takes the question out, if its batch was not
/// formed yet.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    id: u64,
    answered: bool,
}

impl Place {
    /// There is nothing to be taken out any more.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }

    /// The deadline passed: takes the question out and lets admission know.
    pub(crate) fn expired(mut self) {
        self.answered = true;
        let now = Instant::now();
        let mut state = self.queue.lock();
        let question = state.schedule.leave(self.id);
        if question.is_none() {
            state.schedule.late(now);
        }
        drop(state);
        drop(question);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.answered {
            let question = self.queue.lock().schedule.leave(self.id);
            drop(question);
        }
    }
}

/// A scorer at work on a batch.
#[derive(Debug)]
pub(crate) struct Scoring<'a> {
    queue: &'a Queue,
    number: usize,
}

impl Drop for Scoring<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.schedule.scoring_ended(self.number, Instant::now());
        self.queue.wake(state);
    }
}

impl Queue {
    pub(crate) fn new(schedule: Schedule<Admitted>, costs: Vec<Option<Arc<CostModel>>>) -> Queue {
        Queue { costs, state: Mutex::new(State { schedule, phase: Phase::Open, idle: false }), changed: Condvar::new() }
    }

    /// Lets a question in, or says why not.
    pub(crate) fn enter(
        self: &Arc<Self>,
        entry: Entry,
        now: Instant,
        question: impl FnOnce(Permit) -> Admitted,
    ) -> Result<Place, Refusal> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(Refusal::draining());
        }
        let Entered { id, evicted } = state.schedule.enter(entry, now, question)?;
        self.wake(state);
        for (question, refusal) in evicted {
            question.finish(Err(refusal));
        }
        Ok(Place { queue: self.clone(), id, answered: false })
    }

    /// Waits for the next batch. None when the queue was drained and is
    /// empty, or failed.
    pub(crate) fn next_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let finished = state.phase == Phase::Draining && state.schedule.waiting() == 0;
            if finished || state.phase == Phase::Failed {
                return None;
            }
            match state.schedule.next(now) {
                Next::Batch(mut formed) => {
                    if !formed.late.is_empty() {
                        drop(state);
                        formed.late.drain(..).for_each(|(question, refusal)| question.finish(Err(refusal)));
                        state = self.lock();
                    }
                    if !formed.questions.is_empty() {
                        let cost = self.predict(&formed);
                        state.schedule.handed_out(cost, formed.questions.len(), now);
                        let chosen = |(question, choice)| Chosen { question, choice };
                        let questions = formed.questions.into_iter().map(chosen).collect();
                        return Some(Batch { questions, closed_by: formed.closed_by, closed: now });
                    }
                }
                Next::WaitUntil(until) => {
                    state.idle = true;
                    let wait = until.saturating_duration_since(now);
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                    state.idle = false;
                }
                Next::Wait => {
                    state.idle = true;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle = false;
                }
            }
        }
    }

    /// How long a whole batch will keep a scorer busy.
    fn predict(&self, formed: &Formed<Admitted>) -> Duration {
        let of_encoder = |(encoder, tokens): &(usize, usize)| {
            self.costs.get(*encoder).and_then(Option::as_ref).map_or(Duration::ZERO, |cost| cost.predict(*tokens))
        };
        formed.tokens.iter().map(of_encoder).sum()
    }

    /// The batch that was handed out last is fetched; the slot is given back when none of it goes to a scorer.
    pub(crate) fn fetched(&self, to_scorer: bool) {
        let mut state = self.lock();
        state.schedule.fetched(to_scorer, Instant::now());
    }

    /// A scorer took a batch from its slot; it is at work until the result is dropped.
    pub(crate) fn scoring(&self) -> Scoring<'_> {
        let mut state = self.lock();
        let number = state.schedule.scoring_began(Instant::now());
        self.wake(state);
        Scoring { queue: self, number }
    }

    /// Takes nothing new; what waits is still handed out.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
            state.schedule.drain();
        }
        self.wake(state);
    }

    /// Gives everything up: callers see their question dropped.
    pub(crate) fn fail(&self) {
        let mut state = self.lock();
        state.phase = Phase::Failed;
        let lost = state.schedule.clear();
        self.wake(state);
        drop(lost);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().schedule.waiting()
    }

    pub(crate) fn backlog(&self) -> Backlog {
        self.lock().schedule.backlog(Instant::now())
    }

    /// Wakes the fetch thread if it has something to look at: without a free slot it has not, whoever comes.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let wake = state.idle && (state.schedule.slot_free() || state.phase != Phase::Open);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is handled by `fail`; the state itself is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::config::NodeConfig;
    use crate::engine::schedule;

    use super::*;

    /// An empty queue of one scorer.
    pub(crate) fn queue() -> Queue {
        Queue::new(schedule(&NodeConfig::default(), 1), Vec::new())
    }
}
