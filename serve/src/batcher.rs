//! When a batch closes and how much it takes: pure functions of the queue, the scorer and the clock.
//!
//! A batch is formed only when the slot ahead of the scorer is free (the queue sees to that). With an idle scorer it
//! closes at once, since waiting would waste the scorer's time. With a busy one it waits a little for others, then
//! closes so that its features are fetched while the batch before it is scored.

use std::time::{Duration, Instant};

use crate::config::BatcherConfig;

/// Why a batch closed; a label in metrics and a field of every reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClosedBy {
    /// As many questions or as much work as a batch may hold.
    Full,
    /// The scorer had nothing to do.
    SlotFree,
    /// The oldest question had waited long enough.
    OldestWait,
    /// Waiting longer would make an answer late.
    Deadline,
    /// The node is stopping.
    Draining,
}

impl ClosedBy {
    pub(crate) fn label(self) -> &'static str {
        match self {
            ClosedBy::Full => "full",
            ClosedBy::SlotFree => "slot_free",
            ClosedBy::OldestWait => "oldest_wait",
            ClosedBy::Deadline => "deadline",
            ClosedBy::Draining => "draining",
        }
    }
}

/// The questions the next batch would take, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Whether the limits of a batch, and not the end of the queue, cut it.
    pub(crate) full: bool,
    pub(crate) questions: usize,
    /// Predicted scoring time of them together.
    pub(crate) cost: Duration,
    /// When the oldest of them arrived.
    pub(crate) oldest: Instant,
    pub(crate) nearest_deadline: Instant,
}

/// What one waiting question adds to an outlook.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) cost: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Close(ClosedBy),
    /// Nothing to do before this time, unless a question arrives or the scorer finishes.
    WaitUntil(Instant),
}

/// The longest prefix of the queue that one batch may hold; none of an empty queue.
pub(crate) fn outlook(queue: impl Iterator<Item = Waiting>, config: &BatcherConfig) -> Option<Outlook> {
    let max_cost = Duration::from_millis(config.max_cost_ms);
    let mut outlook: Option<Outlook> = None;
    for waiting in queue {
        let Some(sum) = &mut outlook else {
            outlook = Some(Outlook {
                full: config.max_questions <= 1 || waiting.cost >= max_cost,
                questions: 1,
                cost: waiting.cost,
                oldest: waiting.arrived,
                nearest_deadline: waiting.deadline,
            });
            continue;
        };
        if sum.full || sum.cost + waiting.cost > max_cost {
            sum.full = true;
            break;
        }
        sum.questions += 1;
        sum.cost += waiting.cost;
        sum.oldest = sum.oldest.min(waiting.arrived);
        sum.nearest_deadline = sum.nearest_deadline.min(waiting.deadline);
        sum.full = sum.questions >= config.max_questions;
    }
    outlook
}

/// Whether to close the batch of that outlook now.
pub(crate) fn decide(
    outlook: &Outlook,
    scorer_busy: bool,
    draining: bool,
    now: Instant,
    config: &BatcherConfig,
) -> Decision {
    if outlook.full {
        return Decision::Close(ClosedBy::Full);
    }
    if draining {
        return Decision::Close(ClosedBy::Draining);
    }
    if !scorer_busy {
        return Decision::Close(ClosedBy::SlotFree);
    }
    let patience = outlook.oldest + Duration::from_micros(config.max_wait_us);
    let latest_start = outlook.nearest_deadline.checked_sub(outlook.cost).unwrap_or(now);
    if now >= latest_start {
        Decision::Close(ClosedBy::Deadline)
    } else if now >= patience {
        Decision::Close(ClosedBy::OldestWait)
    } else {
        Decision::WaitUntil(patience.min(latest_start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BatcherConfig = BatcherConfig { max_questions: 3, max_cost_ms: 50, max_wait_us: 2_000 };
    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn waiting(start: Instant, arrived_ms: u64, deadline_ms: u64, cost_ms: u64) -> Waiting {
        Waiting { arrived: start + MS(arrived_ms), deadline: start + MS(deadline_ms), cost: MS(cost_ms) }
    }

    fn check(queue: &[(u64, u64, u64)], busy: bool, draining: bool, now_ms: u64) -> Option<(usize, Decision)> {
        let start = Instant::now();
        let queue = queue.iter().map(|&(arrived, deadline, cost)| waiting(start, arrived, deadline, cost));
        let outlook = outlook(queue, &CONFIG)?;
        let decision = match decide(&outlook, busy, draining, start + MS(now_ms), &CONFIG) {
            Decision::WaitUntil(until) => Decision::WaitUntil(Instant::now() + (until - start)),
            close => close,
        };
        Some((outlook.questions, decision))
    }

    #[test]
    fn an_empty_queue_forms_no_batch() {
        assert_eq!(check(&[], false, false, 0), None);
    }

    #[test]
    fn an_idle_scorer_is_not_kept_waiting() {
        assert_eq!(check(&[(0, 300, 5)], false, false, 0), Some((1, Decision::Close(ClosedBy::SlotFree))));
    }

    #[test]
    fn a_busy_scorer_leaves_time_for_others() {
        let start = Instant::now();
        let outlook = outlook([waiting(start, 0, 300, 5)].into_iter(), &CONFIG).unwrap();
        assert_eq!(decide(&outlook, true, false, start, &CONFIG), Decision::WaitUntil(start + MS(2)));
    }

    #[test]
    fn the_oldest_question_bounds_the_wait() {
        assert_eq!(
            check(&[(0, 300, 5), (1, 300, 5)], true, false, 2),
            Some((2, Decision::Close(ClosedBy::OldestWait)))
        );
    }

    #[test]
    fn the_nearest_deadline_bounds_the_wait() {
        let start = Instant::now();
        let queue = [waiting(start, 0, 300, 5), waiting(start, 0, 11, 5)];
        let outlook = outlook(queue.into_iter(), &CONFIG).unwrap();
        assert_eq!(decide(&outlook, true, false, start, &CONFIG), Decision::WaitUntil(start + MS(1)));
        assert_eq!(decide(&outlook, true, false, start + MS(1), &CONFIG), Decision::Close(ClosedBy::Deadline));
    }

    #[test]
    fn a_full_batch_closes_by_number_or_by_cost() {
        let by_number = [(0, 300, 5); 4];
        assert_eq!(check(&by_number, true, false, 0), Some((3, Decision::Close(ClosedBy::Full))));
        let by_cost = [(0, 300, 30), (0, 300, 30)];
        assert_eq!(check(&by_cost, true, false, 0), Some((1, Decision::Close(ClosedBy::Full))));
    }

    #[test]
    fn a_question_larger_than_a_batch_goes_alone() {
        assert_eq!(check(&[(0, 900, 80), (0, 900, 1)], true, false, 0), Some((1, Decision::Close(ClosedBy::Full))));
    }

    #[test]
    fn a_stopping_node_waits_for_nobody() {
        assert_eq!(check(&[(0, 300, 5)], true, true, 0), Some((1, Decision::Close(ClosedBy::Draining))));
    }
}
