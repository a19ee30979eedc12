//! Letting questions in: at once or not at all.
//!
//! A question that is let in gets a `Permit`, which stands for its predicted work until it is dropped, wherever that
//! happens: answered, expired, cancelled, or lost to a panic. The backlog is the sum of the permits, so it includes what
//! waits, what is fetched and what is being scored. Nothing waits here: who does not fit is told so, and when to come back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::AdmissionConfig;
use crate::error::Refusal;

/// The door of the node.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    config: AdmissionConfig,
    /// Score threads, which share the backlog.
    scorers: usize,
    backlog: Arc<Mutex<Backlog>>,
}

/// Work let in and not yet done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    pub(crate) questions: usize,
    pub(crate) cost: Duration,
}

/// The right to be worked on. Dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Permit {
    cost: Duration,
    backlog: Arc<Mutex<Backlog>>,
}

impl Admission {
    /// For that many score threads.
    pub(crate) fn new(config: AdmissionConfig, scorers: usize) -> Admission {
        Admission { config, scorers, backlog: Arc::default() }
    }

    /// Lets a question of predicted `cost` in, if it fits and can be answered within `remaining`.
    pub(crate) fn admit(&self, cost: Duration, remaining: Duration) -> Result<Permit, Refusal> {
        let mut backlog = lock(&self.backlog);
        judge(*backlog, cost, remaining, self.scorers, &self.config)?;
        backlog.questions += 1;
        backlog.cost += cost;
        Ok(Permit { cost, backlog: self.backlog.clone() })
    }

    pub(crate) fn backlog(&self) -> Backlog {
        *lock(&self.backlog)
    }
}

impl Permit {
    /// Predicted scoring time.
    pub(crate) fn cost(&self) -> Duration {
        self.cost
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut backlog = lock(&self.backlog);
        backlog.questions -= 1;
        backlog.cost = backlog.cost.saturating_sub(self.cost);
    }
}

/// Whether a question fits: a pure function of the backlog, the question and the limits.
fn judge(
    backlog: Backlog,
    cost: Duration,
    remaining: Duration,
    scorers: usize,
    config: &AdmissionConfig,
) -> Result<(), Refusal> {
    let limit = Duration::from_millis(config.max_backlog_ms);
    // A single question larger than the limit is let into an empty node, or it could never be answered.
    let full = backlog.questions >= config.max_questions || (backlog.questions > 0 && backlog.cost + cost > limit);
    if full {
        return Err(Refusal::QueueFull { retry_after: retry_after(backlog.cost / 2) });
    }
    let predicted = backlog.cost / u32::try_from(scorers).unwrap_or(u32::MAX) + cost;
    if predicted > remaining {
        return Err(Refusal::PredictedLate { predicted, remaining, retry_after: retry_after(predicted - remaining) });
    }
    Ok(())
}

/// A hint of at least 10 ms: less only makes clients hammer.
pub(crate) fn retry_after(work: Duration) -> Duration {
    work.max(Duration::from_millis(10))
}

fn lock(backlog: &Mutex<Backlog>) -> MutexGuard<'_, Backlog> {
    // The two numbers are always changed together without a panic in between.
    backlog.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission::new(AdmissionConfig { max_questions: 2, max_backlog_ms: 100 }, 1)
    }

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_dropped_permit_gives_its_room_back() {
        let admission = admission();
        let permit = admission.admit(MS(40), MS(300)).unwrap();
        assert_eq!(admission.backlog(), Backlog { questions: 1, cost: MS(40) });
        drop(permit);
        assert_eq!(admission.backlog(), Backlog::default());
    }

    #[test]
    fn too_many_questions_are_refused_with_a_time_to_return() {
        let admission = admission();
        let _held = [admission.admit(MS(20), MS(300)).unwrap(), admission.admit(MS(20), MS(300)).unwrap()];
        assert_eq!(admission.admit(MS(1), MS(300)).unwrap_err(), Refusal::QueueFull { retry_after: MS(20) });
    }

    #[test]
    fn too_much_work_is_refused_but_an_empty_node_takes_anything() {
        let admission = admission();
        let _held = admission.admit(MS(500), MS(1_000)).unwrap();
        assert!(matches!(admission.admit(MS(1), MS(1_000)), Err(Refusal::QueueFull { .. })));
    }

    #[test]
    fn what_would_come_too_late_is_refused_before_any_work() {
        let admission = admission();
        let _held = admission.admit(MS(60), MS(300)).unwrap();
        let refusal = admission.admit(MS(30), MS(50)).unwrap_err();
        assert_eq!(refusal, Refusal::PredictedLate { predicted: MS(90), remaining: MS(50), retry_after: MS(40) });
    }

    #[test]
    fn two_scorers_do_the_backlog_in_half_the_time() {
        let admission = Admission::new(AdmissionConfig { max_questions: 3, max_backlog_ms: 100 }, 2);
        let _held = admission.admit(MS(60), MS(300)).unwrap();
        assert!(matches!(admission.admit(MS(20), MS(49)), Err(Refusal::PredictedLate { .. })));
        assert!(admission.admit(MS(20), MS(50)).is_ok());
    }
}
