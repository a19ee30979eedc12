//! When a batch closes: a pure function of what waits, the scorers and the clock.
//!
//! A batch is formed only while the slot ahead of a scorer is free (the schedule sees to that). With an idle scorer it closes at once, since
//! waiting would waste the scorer's time. With a busy one it waits for others until the scorer will soon be free: then it is fetched while
//! the batch before it is still scored, and holds as many as possible, and a VIP that comes meanwhile is in it.

use std::time::{Duration, Instant};

use crate::schedule::config::BatcherConfig;
use crate::schedule::line::Entry;

/// Why a batch closed; a label in metrics and a field of every reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClosedBy {
    /// As many questions as a batch may hold.
    Full,
    /// As much predicted work as a batch may hold.
    Cost,
    /// A scorer had nothing to do, or soon would have.
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
            ClosedBy::Cost => "cost",
            ClosedBy::SlotFree => "slot_free",
            ClosedBy::OldestWait => "oldest_wait",
            ClosedBy::Deadline => "deadline",
            ClosedBy::Draining => "draining",
        }
    }
}

/// The waiting questions, summed up as far as one batch may hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outlook {
    pub(crate) questions: usize,
    /// Predicted scoring time of them together.
    pub(crate) cost: Duration,
    /// When the oldest of them arrived.
    pub(crate) oldest: Instant,
    pub(crate) nearest_deadline: Instant,
}

/// What a batch would be handed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scorers {
    /// When the first of them will be free; none while one is idle.
    pub(crate) free_at: Option<Instant>,
    /// What fetching a batch has taken lately.
    pub(crate) fetch: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Close(ClosedBy),
    /// Nothing to do before this time, unless a question arrives or a scorer finishes.
    WaitUntil(Instant),
}

impl Outlook {
    /// Of waiting questions; none of nobody.
    pub(crate) fn of<'a>(waiting: impl Iterator<Item = &'a Entry>, cost: Duration) -> Option<Outlook> {
        let one =
            |entry: &Entry| Outlook { questions: 1, cost, oldest: entry.arrived, nearest_deadline: entry.deadline };
        waiting.map(one).reduce(|sum, next| Outlook {
            questions: sum.questions + 1,
            cost,
            oldest: sum.oldest.min(next.oldest),
            nearest_deadline: sum.nearest_deadline.min(next.nearest_deadline),
        })
    }
}

/// Whether to close the batch of that outlook now.
pub(crate) fn decide(
    outlook: &Outlook,
    scorers: &Scorers,
    draining: bool,
    now: Instant,
    config: &BatcherConfig,
) -> Decision {
    if outlook.questions >= config.max_questions {
        return Decision::Close(ClosedBy::Full);
    }
    if outlook.cost >= config.max_cost() {
        return Decision::Close(ClosedBy::Cost);
    }
    if draining {
        return Decision::Close(ClosedBy::Draining);
    }
    let Some(free_at) = scorers.free_at else { return Decision::Close(ClosedBy::SlotFree) };
    let before = |at: Instant, lead: Duration| at.checked_sub(lead).unwrap_or(now);
    let reasons = [
        (before(free_at, scorers.fetch), ClosedBy::SlotFree),
        (before(outlook.nearest_deadline, outlook.cost + scorers.fetch), ClosedBy::Deadline),
        (outlook.oldest + Duration::from_micros(config.max_wait_us), ClosedBy::OldestWait),
    ];
    match reasons.iter().find(|(at, _)| *at <= now) {
        Some((_, closed_by)) => Decision::Close(*closed_by),
        None => Decision::WaitUntil(reasons.iter().map(|(at, _)| *at).min().unwrap_or(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BatcherConfig = BatcherConfig { max_questions: 3, max_cost_ms: 50, max_wait_us: 20_000 };
    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Of `questions` that arrived at 0 ms, with a nearest deadline at that many milliseconds and 5 ms of work together; the scorer will be
    /// free at `free_ms`, a fetch takes 1 ms. A time to wait until is given in milliseconds.
    fn check(
        questions: usize,
        deadline_ms: u64,
        free_ms: Option<u64>,
        draining: bool,
        now_ms: u64,
    ) -> Result<ClosedBy, u128> {
        let start = Instant::now();
        let outlook = Outlook { questions, cost: MS(5), oldest: start, nearest_deadline: start + MS(deadline_ms) };
        let scorers = Scorers { free_at: free_ms.map(|free| start + MS(free)), fetch: MS(1) };
        match decide(&outlook, &scorers, draining, start + MS(now_ms), &CONFIG) {
            Decision::Close(closed_by) => Ok(closed_by),
            Decision::WaitUntil(at) => Err((at - start).as_millis()),
        }
    }

    #[test]
    fn an_idle_scorer_is_not_kept_waiting() {
        assert_eq!(check(1, 300, None, false, 0), Ok(ClosedBy::SlotFree));
    }

    #[test]
    fn a_busy_scorer_leaves_time_for_others_and_none_for_itself() {
        assert_eq!(check(1, 300, Some(10), false, 0), Err(9), "until it is fetched in time for the scorer");
        assert_eq!(check(1, 300, Some(10), false, 9), Ok(ClosedBy::SlotFree));
        assert_eq!(check(1, 300, Some(10), false, 12), Ok(ClosedBy::SlotFree), "late itself");
    }

    #[test]
    fn the_oldest_question_bounds_the_wait() {
        assert_eq!(check(2, 300, Some(60), false, 0), Err(20));
        assert_eq!(check(2, 300, Some(60), false, 20), Ok(ClosedBy::OldestWait));
    }

    #[test]
    fn the_nearest_deadline_bounds_the_wait() {
        assert_eq!(check(2, 15, Some(60), false, 0), Err(9));
        assert_eq!(check(2, 15, Some(60), false, 9), Ok(ClosedBy::Deadline));
    }

    #[test]
    fn a_full_batch_closes_and_a_stopping_node_waits_for_nobody() {
        assert_eq!(check(3, 300, Some(60), false, 0), Ok(ClosedBy::Full));
        assert_eq!(check(1, 300, Some(60), true, 0), Ok(ClosedBy::Draining));
    }
}
