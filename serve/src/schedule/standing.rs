//! A standing queue is one that does not empty between bursts: waiting in it delays everybody and serves nobody.
//!
//! The rule is CoDel's (Nichols, Jacobson 2012), in the form that folly and Envoy use for servers: when even the least wait of an interval
//! was above the target, questions that would wait for more than a part of their time are not let in. A burst may use its whole deadline,
//! because with it the least wait is small. Each tenant's questions of a class are a queue by themselves (FQ-CoDel, RFC 8290): the waits of
//! those who ask little say nothing about the queue of one who floods.

use std::time::{Duration, Instant};

/// Intervals are so many targets long.
const INTERVAL: u32 = 10;
/// The part of its time that a question may take while the queue stands: the rest is for what nobody can predict.
const PART: f64 = 0.75;

#[derive(Debug)]
pub(crate) struct StandingQueue {
    target: Duration,
    interval_ends: Option<Instant>,
    least: Duration,
    standing: bool,
}

impl StandingQueue {
    /// A target of nothing is never exceeded.
    pub(crate) fn new(target: Duration) -> StandingQueue {
        StandingQueue { target, interval_ends: None, least: Duration::MAX, standing: false }
    }

    /// Learns how long a question waited for its batch.
    pub(crate) fn waited(&mut self, wait: Duration, now: Instant) {
        if self.target.is_zero() {
            return;
        }
        match self.interval_ends {
            Some(ends) if now < ends => self.least = self.least.min(wait),
            begun => {
                self.standing = begun.is_some() && self.least > self.target && self.least != Duration::MAX;
                self.least = wait;
                self.interval_ends = Some(now + self.target * INTERVAL);
            }
        }
        if wait <= self.target {
            self.standing = false;
        }
    }

    /// The longest that a question may have to wait for its answer, if it has `allowance` in all; none without a standing queue.
    pub(crate) fn limit(&self, allowance: Duration, now: Instant) -> Option<Duration> {
        // Where nobody was served for long there is nothing to go by.
        let known = self.interval_ends.is_some_and(|ends| now < ends + self.target * INTERVAL);
        (self.standing && known).then(|| allowance.mul_f64(PART))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Whether the queue stands after waits of so many milliseconds, one every 10 ms.
    fn stands(waits: impl IntoIterator<Item = u64>) -> bool {
        let start = Instant::now();
        let mut queue = StandingQueue::new(MS(20));
        let mut now = start;
        for wait in waits {
            now += MS(10);
            queue.waited(MS(wait), now);
        }
        queue.limit(MS(100), now).is_some()
    }

    #[test]
    fn only_a_wait_that_never_ends_is_a_standing_queue() {
        assert!(!stands([100; 20]), "a burst of less than an interval");
        assert!(stands([100; 45]));
        assert!(stands([21; 45]));
        assert!(!stands([20; 45]), "at the target");
        assert!(!stands((0..90).map(|at| if at % 15 == 0 { 1 } else { 100 })), "it empties between bursts");
        assert!(!stands([100; 45].into_iter().chain([5])), "one that did not wait ends it at once");
    }

    #[test]
    fn the_limit_is_a_part_of_the_questions_time() {
        let start = Instant::now();
        let mut queue = StandingQueue::new(MS(20));
        (0..60).for_each(|at| queue.waited(MS(100), start + MS(10 * at)));
        let now = start + MS(600);
        assert_eq!(queue.limit(MS(100), now), Some(MS(75)));
        assert_eq!(queue.limit(MS(30_000), now), Some(MS(22_500)));
        assert_eq!(queue.limit(MS(100), now + MS(60_000)), None, "nobody was served since");
    }

    #[test]
    fn without_a_target_nothing_stands() {
        let mut queue = StandingQueue::new(Duration::ZERO);
        let now = Instant::now();
        (0..100).for_each(|at| queue.waited(MS(500), now + MS(at)));
        assert_eq!(queue.limit(MS(100), now), None);
    }
}
