//! A partition: where it stands, whether it is read, and what is in the way if it is not. Times are handed in.

use std::time::{Duration, Instant};

/// The first wait after a failure, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// One partition of a stream's topic.
#[derive(Debug)]
pub(crate) struct Partition {
    /// In the store.
    pub(crate) name: String,
    pub(crate) reading: Reading,
    /// Whether the client fetches it.
    pub(crate) is_assigned: bool,
    /// Behind the last message whose rows are in the store; none before the first, where it begins at the earliest.
    pub(crate) position: Option<u64>,
    /// The first message there is, and behind the last, when that was last looked up.
    pub(crate) ends: Option<(u64, u64)>,
    /// When the last message that was passed was sent.
    pub(crate) passed_ms: Option<i64>,
    at_end: AtEnd,
    failures: u32,
}

/// Whether a partition is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    Running,
    /// Something is in the way that may end by itself.
    Waiting {
        until: Instant,
        why: String,
    },
    /// Somebody has to do something.
    Stopped {
        why: String,
    },
}

/// Positions may end in records that nobody is given, the marks of transactions, so that the last message is no proof of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    No,
    /// The client has said so; the end was not looked up since.
    Yes,
    /// The same, and this is the end.
    Known(u64),
}

impl Partition {
    pub(crate) fn new(name: String, position: Option<u64>) -> Partition {
        let (reading, at_end) = (Reading::Running, AtEnd::No);
        Partition { name, reading, is_assigned: false, position, ends: None, passed_ms: None, at_end, failures: 0 }
    }

    /// Whether it is time that it is read (again).
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        match &self.reading {
            Reading::Running => true,
            Reading::Waiting { until, .. } => *until <= now,
            Reading::Stopped { .. } => false,
        }
    }

    /// Messages up to a position are done with.
    pub(crate) fn passed(&mut self, position: u64, sent_ms: Option<i64>) {
        self.position = Some(position);
        self.passed_ms = sent_ms.or(self.passed_ms);
        self.failures = 0;
        self.at_end = AtEnd::No;
    }

    /// It waits, longer each time; `chance` is between 0 and 1 and keeps partitions from coming back all at once.
    pub(crate) fn wait(&mut self, why: String, now: Instant, chance: f64) -> Duration {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.min(16)).min(LONGEST_WAIT);
        let wait = doubled.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        self.failures += 1;
        self.reading = Reading::Waiting { until: now + wait, why };
        wait
    }

    /// It is not read until somebody moves it or starts the node again.
    pub(crate) fn stop(&mut self, why: String) {
        self.reading = Reading::Stopped { why };
    }

    /// It goes on somewhere, as if it had always stood there.
    pub(crate) fn moved(&mut self, position: u64) {
        self.position = Some(position);
        self.reading = Reading::Running;
        self.at_end = AtEnd::No;
        self.failures = 0;
    }

    /// The client has given all there is.
    pub(crate) fn reached_end(&mut self) {
        self.at_end = AtEnd::Yes;
    }

    /// Its ends were looked up.
    pub(crate) fn looked_up(&mut self, first: u64, end: u64) {
        self.ends = Some((first, end));
        match self.at_end {
            AtEnd::Yes => self.at_end = AtEnd::Known(end),
            AtEnd::Known(known) if known != end => self.at_end = AtEnd::No,
            AtEnd::Known(_) | AtEnd::No => {}
        }
    }

    /// Whether the broker does not have any more what is to be read next, or never had it.
    pub(crate) fn is_lost(&self) -> bool {
        self.position.zip(self.ends).is_some_and(|(position, (first, end))| position < first || position > end)
    }

    /// Messages that are there and not yet passed.
    pub(crate) fn lag(&self) -> Option<u64> {
        let (first, end) = self.ends?;
        match self.at_end {
            AtEnd::Known(known) if known == end => Some(0),
            _ => Some(end.saturating_sub(self.position.unwrap_or(first))),
        }
    }

    /// How old what is passed is, while there is more.
    pub(crate) fn behind(&self, now_ms: i64) -> Option<Duration> {
        if self.lag()? == 0 {
            return Some(Duration::ZERO);
        }
        let age_ms = now_ms.saturating_sub(self.passed_ms?);
        Some(Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_with_the_first_success() {
        let (mut partition, now) = (Partition::new("p".to_owned(), Some(5)), Instant::now());
        let waits: Vec<u128> = (0..9).map(|_| partition.wait("full".to_owned(), now, 1.0).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(partition.wait("full".to_owned(), now, 0.0), Duration::from_secs(15));
        assert!(!partition.is_due(now) && partition.is_due(now + Duration::from_secs(15)));
        partition.passed(6, None);
        assert_eq!(partition.wait("full".to_owned(), now, 1.0), FIRST_WAIT);
        partition.stop("lost".to_owned());
        assert!(!partition.is_due(now + Duration::from_secs(3_600)));
        partition.moved(2);
        assert!(partition.is_due(now) && partition.position == Some(2));
    }

    #[test]
    fn what_is_left_is_counted_to_the_end_that_was_looked_up() {
        let mut partition = Partition::new("p".to_owned(), None);
        assert_eq!((partition.lag(), partition.is_lost()), (None, false));
        partition.looked_up(10, 20);
        assert_eq!((partition.lag(), partition.is_lost(), partition.behind(9)), (Some(10), false, None));
        partition.passed(19, Some(1_000));
        assert_eq!((partition.lag(), partition.behind(3_500)), (Some(1), Some(Duration::from_millis(2_500))));
        // The last record is the mark of a transaction.
        partition.reached_end();
        assert_eq!(partition.lag(), Some(1), "nobody knows yet where the end is");
        partition.looked_up(10, 20);
        assert_eq!((partition.lag(), partition.behind(3_500)), (Some(0), Some(Duration::ZERO)));
        partition.looked_up(10, 22);
        assert_eq!(partition.lag(), Some(3));
    }

    #[test]
    fn what_the_broker_does_not_have_is_lost() {
        for (position, lost) in [(9, true), (10, false), (20, false), (21, true)] {
            let mut partition = Partition::new("p".to_owned(), Some(position));
            partition.looked_up(10, 20);
            assert_eq!(partition.is_lost(), lost, "{position}");
        }
    }
}
