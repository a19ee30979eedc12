//! Which rung a question is answered on: decided when its batch forms, from what waits before it and its own deadline.
//!
//! The full model is the first choice. A question takes a lower rung when the full one would be late for it, and already when the node
//! would need too large a part of its time for what is waiting (`[rungs] full_until_*`): so the line is short again before anybody is late,
//! and VIPs, whose part is the largest, keep the full model longest. Once the questions of a tenant and class take the lower rung they keep
//! to it until the line is much shorter (`full_again_below`), so that the rung does not change with every batch.
//!
//! Which rung has a model that works is not decided here: a price names only rungs that do.

use std::time::{Duration, Instant};

use crate::rung::{Choice, Rung, Source, Why};
use crate::schedule::config::{BatcherConfig, RungsConfig};
use crate::schedule::line::Entry;
use crate::schedule::price::{Cost, SAFETY};

/// Taken off the time that is left, for rendering and sending.
const MARGIN: Duration = Duration::from_millis(2);

/// A batch as far as it is formed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forming {
    /// Predicted time of its light questions, which are scored first, and of the full ones.
    light: Duration,
    full: Duration,
    /// Estimated tokens for each encoder that has any to read, whose base is paid therefore.
    tokens: Vec<(usize, usize)>,
    /// The least allowance of its full questions.
    least_allowance: Option<Duration>,
    /// The nearest deadline of its light questions, and of its full ones, which are answered at the end of the batch.
    light_deadline: Option<Instant>,
    /// Some of its light questions wait for the scorer, as the full ones do.
    light_waits: bool,
    full_deadline: Option<Instant>,
    questions: usize,
}

impl Forming {
    /// Predicted scoring time.
    pub(crate) fn cost(&self) -> Duration {
        self.light + self.full
    }

    /// Estimated tokens, by the encoder that reads them.
    pub(crate) fn into_tokens(self) -> Vec<(usize, usize)> {
        self.tokens
    }

    fn added(&self, cost: Cost) -> Duration {
        let paid = self.tokens.iter().any(|(encoder, _)| *encoder == cost.encoder);
        if paid { cost.marginal } else { cost.alone() }
    }

    /// Takes a question in and returns what it adds.
    pub(crate) fn add(&mut self, entry: &Entry, source: Source) -> Duration {
        self.questions += 1;
        let cost = match source {
            Source::Model(Rung::Full) => entry.price.full,
            Source::Model(Rung::Light) => entry.price.light,
            Source::Cached(_) | Source::Fallback => None,
        };
        let Some(cost) = cost else { return Duration::ZERO };
        let added = self.added(cost);
        match self.tokens.iter_mut().find(|(encoder, _)| *encoder == cost.encoder) {
            Some((_, tokens)) => *tokens += cost.tokens,
            None => self.tokens.push((cost.encoder, cost.tokens)),
        }
        let nearest = |known: Option<Instant>| Some(known.map_or(entry.deadline, |known| known.min(entry.deadline)));
        if source == Source::Model(Rung::Full) {
            self.full += added;
            let allowance = entry.allowance();
            self.least_allowance = Some(self.least_allowance.map_or(allowance, |least| least.min(allowance)));
            self.full_deadline = nearest(self.full_deadline);
        } else {
            self.light += added;
            self.light_waits |= !cost.at_hand;
            self.light_deadline = nearest(self.light_deadline);
        }
        added
    }
}

/// What a question's rung depends on, besides the question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub(crate) now: Instant,
    /// Until the scorer is free for this batch.
    pub(crate) committed: Duration,
    pub(crate) forming: &'a Forming,
    /// What waits before this question could be answered at the latest, all of it on its best rung.
    pub(crate) ahead: Duration,
    /// Whether the last question of its tenant and class took a lower rung because of the load.
    pub(crate) degraded: bool,
    pub(crate) batcher: &'a BatcherConfig,
    /// What everything that waits takes on its best rung.
    pub(crate) waiting: Duration,
    pub(crate) rungs: &'a RungsConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Into this batch, on that rung.
    Take(Choice),
    /// Into the next batch: this one is full.
    Leave,
    /// No rung is in time.
    TooLate,
}

/// The rung of the question whose turn it is.
pub(crate) fn choose(entry: &Entry, situation: &Situation<'_>) -> Verdict {
    let Situation { forming, rungs, .. } = situation;
    let take = |source, why| Verdict::Take(Choice { source, why });
    if entry.price.cached {
        return take(Source::Cached(Rung::Full), Why::AskedBefore);
    }
    // Trying is the only way to find out that a prediction is wrong, and with nothing else to do it costs nobody anything.
    let idle = situation.committed.is_zero() && forming.questions == 0;
    let in_time = |finish: Duration, deadline: Instant| {
        finish.mul_f64(SAFETY) <= deadline.saturating_duration_since(situation.now + MARGIN)
    };
    let until = |at_hand: bool| if at_hand { Duration::ZERO } else { situation.committed };
    // Whether those who are in the batch already stay in time, if its parts take so long.
    let harms = |light: Duration, whole: Duration| {
        let until_light = until(!forming.light_waits);
        forming.light_deadline.is_some_and(|deadline| !in_time(until_light + light, deadline))
            || forming.full_deadline.is_some_and(|deadline| !in_time(situation.committed + whole, deadline))
    };
    let wants_full = !(situation.overloaded(entry) && entry.price.light.is_some());
    let full = entry.price.full.filter(|_| wants_full);
    if let Some(cost) = full {
        let batch = forming.cost() + forming.added(cost);
        // The batch grows behind it, as far as there is something waiting: one question must not keep all others' batch small.
        let grown = batch.max(situation.limit(entry).min(forming.cost() + situation.waiting));
        if in_time(until(cost.at_hand) + grown, entry.deadline) || (idle && entry.price.light.is_none()) {
            if forming.questions > 0 && harms(forming.light, batch) {
                return Verdict::Leave;
            }
            if forming.full.is_zero() || batch <= situation.limit(entry) {
                return take(Source::Model(Rung::Full), Why::FirstChoice);
            }
            let alone =
                forming.least_allowance.map_or(situation.batcher.max_cost(), |least| situation.batcher.limit(least));
            if batch > alone || entry.price.light.is_none() {
                return Verdict::Leave;
            }
        }
    }
    if let Some(cost) = entry.price.light {
        let light = forming.light + forming.added(cost);
        if in_time(until(cost.at_hand) + light, entry.deadline) || idle {
            let whole = light + forming.full;
            if forming.questions > 0 && (whole > situation.batcher.max_cost() || harms(light, whole)) {
                return Verdict::Leave;
            }
            let why = if entry.price.full.is_some() { Why::Busy } else { Why::Resting };
            return take(Source::Model(Rung::Light), why);
        }
    }
    if !rungs.fallback {
        return Verdict::TooLate;
    }
    let resting = entry.price.full.is_none() && entry.price.light.is_none();
    take(Source::Fallback, if resting { Why::Resting } else { Why::Busy })
}

impl Situation<'_> {
    /// Whether what waits takes too large a part of the question's time.
    pub(crate) fn overloaded(&self, entry: &Entry) -> bool {
        let mut part = self.rungs.full_until(entry.class);
        if self.degraded {
            part *= self.rungs.full_again_below;
        }
        self.committed + self.forming.cost() + self.ahead > entry.allowance().mul_f64(part)
    }

    /// The most that a batch may cost with this question on the full rung.
    fn limit(&self, entry: &Entry) -> Duration {
        let allowance = entry.allowance();
        self.batcher.limit(self.forming.least_allowance.map_or(allowance, |least| least.min(allowance)))
    }
}
