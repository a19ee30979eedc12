//! Who is let in, who is next, on which rung and in which batch: everything the node decides about questions, in one place, with the clock as
//! an argument and without a thread. `queue` puts threads around it.
//!
//! A question is let in or refused at once, by what waits, what its tenant may ask and whether it can be answered in time on the cheapest
//! rung (`admission`). It waits in a line that is fair between classes and tenants (`line`). A batch is formed while a slot ahead of a scorer is
//! free, when `closing` says so, and every question in it is given its rung (`ladder`). So at most one batch for each scorer is
//! scored and one for each stands ready, and whoever comes waits behind no more than those two and what is fairly before it. Nobody whose batch
//! was formed is ever taken out of it; who still waits may have to go for somebody of a higher class.

pub(crate) mod admission;
pub(crate) mod closing;
pub(crate) mod concurrency;
pub(crate) mod config;
pub(crate) mod ladder;
pub(crate) mod line;
pub(crate) mod price;
pub(crate) mod scorers;
#[cfg(test)]
mod simulation;
pub(crate) mod standing;
pub(crate) mod token_bucket;

use std::time::{Duration, Instant};

use crate::context::Class;
use crate::error::Refusal;
use crate::rung::Choice;
use crate::schedule::admission::{Admission, Permit};
use crate::schedule::closing::{ClosedBy, Decision, Outlook, decide};
use crate::schedule::config::{BatcherConfig, RungsConfig};
use crate::schedule::ladder::{Forming, Situation, Verdict, choose};
use crate::schedule::line::{Entry, Line, Sum};
use crate::schedule::scorers::Commitments;

/// Newcomers that are dearer than those who wait may send several of them away, but not a whole queue.
const MAX_EVICTED: usize = 8;

/// `T` is what travels with a question.
#[derive(Debug)]
pub(crate) struct Schedule<T> {
    batcher: BatcherConfig,
    rungs: RungsConfig,
    line: Line<T>,
    admission: Admission,
    commitments: Commitments,
    draining: bool,
}

/// A question that was let in.
#[derive(Debug)]
pub(crate) struct Entered<T> {
    /// Its number in the line.
    pub(crate) id: u64,
    /// Who had to go for it, with their refusals.
    pub(crate) evicted: Vec<(T, Refusal)>,
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Next<T> {
    /// Fetch and score these.
    Batch(Formed<T>),
    /// Look again at this time, or when something changes.
    WaitUntil(Instant),
    /// Look again when something changes.
    Wait,
}

/// Questions that will be fetched and scored together.
#[derive(Debug)]
pub(crate) struct Formed<T> {
    pub(crate) questions: Vec<(T, Choice)>,
    /// Questions that no rung could answer in time any more.
    pub(crate) late: Vec<(T, Refusal)>,
    pub(crate) closed_by: ClosedBy,
    /// Estimated tokens, by the encoder that reads them.
    pub(crate) tokens: Vec<(usize, usize)>,
}

impl<T> Schedule<T> {
    /// For that many score threads.
    pub(crate) fn new(admission: Admission, batcher: BatcherConfig, rungs: RungsConfig, scorers: usize) -> Schedule<T> {
        let line = Line::new(|class| admission.weight(class));
        Schedule { batcher, rungs, line, admission, commitments: Commitments::new(scorers), draining: false }
    }

    /// Lets a question in, or says why not.
    pub(crate) fn enter(
        &mut self,
        entry: Entry,
        now: Instant,
        payload: impl FnOnce(Permit) -> T,
    ) -> Result<Entered<T>, Refusal> {
        let committed = self.commitments.remaining(now);
        let mut evicted = Vec::new();
        let batch_limit = self.batcher.limit(entry.allowance());
        self.admission.check(&entry, &self.line, committed, batch_limit, now)?;
        while let Err(refusal) = self.admission.room(&entry, &self.line, committed, evicted.len()) {
            let victim = self.line.victim(&entry).and_then(|id| self.line.remove(id));
            match victim {
                Some(victim) => evicted.push((victim, self.admission.eviction(&self.line))),
                None if evicted.is_empty() => return Err(refusal),
                None => break,
            }
            if evicted.len() >= MAX_EVICTED {
                // A dear question in place of many cheap ones: the limit is exceeded by it, once.
                break;
            }
        }
        let permit = self.admission.let_in(&entry);
        let id = self.line.push(entry, payload(permit));
        Ok(Entered { id, evicted })
    }

    /// Takes out a question whose caller has gone or whose deadline has passed; none if its batch was formed before.
    pub(crate) fn leave(&mut self, id: u64) -> Option<T> {
        self.line.remove(id)
    }

    /// A question whose batch was formed was not answered before its deadline, which was thought to be enough.
    pub(crate) fn late(&mut self, now: Instant) {
        self.admission.late(now);
    }

    /// What the fetch thread should do, which has nothing to do.
    pub(crate) fn next(&mut self, now: Instant) -> Next<T> {
        if !self.commitments.slot_free() {
            return Next::Wait;
        }
        let Some(outlook) = self.outlook() else { return Next::Wait };
        match decide(&outlook, &self.commitments.scorers(now), self.draining, now, &self.batcher) {
            Decision::WaitUntil(at) => Next::WaitUntil(at),
            Decision::Close(closed_by) => Next::Batch(self.form(closed_by, now)),
        }
    }

    /// Beyond a full batch, who exactly waits makes no difference.
    fn outlook(&self) -> Option<Outlook> {
        Outlook::of(self.line.entries().take(self.batcher.max_questions), self.line.total().best)
    }

    fn form(&mut self, closed_by: ClosedBy, now: Instant) -> Formed<T> {
        let committed = self.commitments.remaining(now);
        let (mut questions, mut late, mut closed_by) = (Vec::new(), Vec::new(), closed_by);
        let mut forming = Forming::default();
        while questions.len() < self.batcher.max_questions {
            let Some((id, entry)) = self.line.next() else { break };
            let situation = Situation {
                now,
                committed,
                forming: &forming,
                ahead: self.line.ahead(entry.class, entry.tenant, |sum: &Sum| sum.best),
                degraded: self.line.degraded(entry.class, entry.tenant),
                batcher: &self.batcher,
                waiting: self.line.total().best,
                rungs: &self.rungs,
            };
            match choose(&entry, &situation) {
                Verdict::Take(choice) => {
                    let overloaded = situation.overloaded(&entry);
                    self.line.set_degraded(entry.class, entry.tenant, overloaded);
                    self.admission.waited(&entry, now);
                    let cost = forming.add(&entry, choice.source);
                    questions.extend(self.line.serve(id, cost).map(|question| (question, choice)));
                }
                Verdict::Leave => {
                    closed_by = ClosedBy::Cost;
                    break;
                }
                Verdict::TooLate => {
                    let refusal = self.admission.too_late(&entry, &self.line, committed, now);
                    late.extend(self.line.remove(id).map(|question| (question, refusal)));
                }
            }
        }
        Formed { questions, late, closed_by, tokens: forming.into_tokens() }
    }

    /// A batch of so many questions goes to the fetch thread, and then to the next free scorer for so long.
    pub(crate) fn handed_out(&mut self, cost: Duration, questions: usize, now: Instant) {
        self.commitments.handed_out(cost, questions, now);
    }

    /// The batch that was handed out last is fetched. If nothing of it goes to a scorer, its slot is free again.
    pub(crate) fn fetched(&mut self, to_scorer: bool, now: Instant) {
        self.commitments.fetched(now);
        if !to_scorer {
            let questions = self.commitments.withdrawn();
            self.admission.answered(questions, now);
        }
    }

    /// A scorer took the oldest batch from the slots; its number is handed back when it is done.
    pub(crate) fn scoring_began(&mut self, now: Instant) -> usize {
        self.commitments.began(now)
    }

    /// A scorer has nothing to do.
    pub(crate) fn scoring_ended(&mut self, number: usize, now: Instant) {
        let questions = self.commitments.ended(number, now);
        self.admission.answered(questions, now);
    }

    /// Whether a batch may be handed out.
    pub(crate) fn slot_free(&self) -> bool {
        self.commitments.slot_free()
    }

    /// Waits for nobody any more.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// Everybody out.
    pub(crate) fn clear(&mut self) -> Vec<T> {
        self.line.clear()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.line.total().questions
    }

    /// What the node has let in and not yet done.
    pub(crate) fn backlog(&self, now: Instant) -> Backlog {
        Backlog {
            questions: self.admission.in_flight(),
            cost: self.line.total().cheapest + self.commitments.remaining(now),
            waiting: Class::ALL.map(|class| self.line.of_class(class).questions),
            limit: self.admission.limit(),
        }
    }
}

/// The node's work, for figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Let in and not yet answered.
    pub(crate) questions: usize,
    /// Predicted time until all of that is done, on the cheapest rungs.
    pub(crate) cost: Duration,
    /// Waiting for a batch, by class in the order of `Class::ALL`.
    pub(crate) waiting: [usize; 3],
    /// How many questions may be in the node at once.
    pub(crate) limit: usize,
}
