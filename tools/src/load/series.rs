//! What happened in each second of a run, by when its questions were due.
//!
//! The latencies of a second are kept until nothing of it can still be on its way, then only its percentiles are.

use std::collections::VecDeque;

use super::outcome::{Outcome, is_model_rung};
use super::report::Second;
use super::slice::count;

/// The seconds of a run.
#[derive(Debug)]
pub(crate) struct Series {
    closed: Vec<Second>,
    open: VecDeque<Open>,
    /// Seconds after which nothing more is heard of a question.
    horizon: usize,
}

#[derive(Debug, Default)]
struct Open {
    second: Second,
    latencies_us: Vec<u32>,
}

impl Series {
    /// For questions that are heard of within so many seconds.
    pub(crate) fn new(horizon: usize) -> Series {
        Series { closed: Vec::new(), open: VecDeque::new(), horizon }
    }

    /// A question was due in that second, which is the newest.
    pub(crate) fn offered(&mut self, second: usize) {
        if let Some(open) = self.open_at(second) {
            open.second.offered += 1;
        }
        while self.closed.len() + self.horizon < second
            && let Some(open) = self.open.pop_front()
        {
            self.closed.push(open.closed());
        }
    }

    /// What became of a question of that second.
    pub(crate) fn settled(&mut self, second: usize, outcome: &Outcome, latency_us: u64, in_time: bool) {
        let Some(Open { second, latencies_us }) = self.open_at(second) else { return };
        match outcome {
            Outcome::Answered { rung, .. } => {
                second.answered += 1;
                second.in_time += u64::from(in_time);
                second.goodput += u64::from(in_time && is_model_rung(rung));
                count(&mut second.rungs, rung);
                latencies_us.push(u32::try_from(latency_us).unwrap_or(u32::MAX));
            }
            Outcome::Refused(_) => second.refused += 1,
            Outcome::Expired => second.expired += 1,
            Outcome::Failed { .. } => second.failed += 1,
            Outcome::NotSent => second.not_sent += 1,
        }
    }

    /// The newest second of which everything is known by now, or nearly so: `back` seconds before the newest.
    pub(crate) fn recent(&self, back: usize) -> Option<Second> {
        let at = self.open.len().checked_sub(back + 1)?;
        let open = &self.open[at];
        Some(Open { second: open.second.clone(), latencies_us: open.latencies_us.clone() }.closed())
    }

    /// All seconds, in their order.
    pub(crate) fn finish(mut self) -> Vec<Second> {
        self.closed.extend(self.open.drain(..).map(Open::closed));
        self.closed
    }

    fn open_at(&mut self, second: usize) -> Option<&mut Open> {
        let at = second.checked_sub(self.closed.len())?;
        while self.open.len() <= at {
            let second = self.closed.len() + self.open.len();
            self.open
                .push_back(Open { second: Second { second: second as u64, ..Second::default() }, ..Open::default() });
        }
        self.open.get_mut(at)
    }
}

impl Open {
    fn closed(mut self) -> Second {
        self.latencies_us.sort_unstable();
        let at = |quantile: f64| {
            let rank = (quantile * self.latencies_us.len() as f64).ceil() as usize;
            self.latencies_us.get(rank.saturating_sub(1)).map(|us| f64::from(*us) / 1_000.0)
        };
        Second { p50_ms: at(0.5), p99_ms: at(0.99), ..self.second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered() -> Outcome {
        Outcome::Answered { rung: "full".into(), handed_over: false, correct: false }
    }

    #[test]
    fn a_question_counts_for_the_second_it_was_due_in_until_that_has_closed() {
        let mut series = Series::new(2);
        for second in [0, 0, 1, 3] {
            series.offered(second);
        }
        series.settled(1, &Outcome::Refused("x".into()), 10, true);
        series.settled(3, &answered(), 5_000, true);
        for ms in [200, 100] {
            series.settled(0, &answered(), ms * 1_000, true);
        }
        let found = series.finish();
        assert_eq!(found.iter().map(|second| second.second).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!((found[0].offered, found[0].answered), (2, 0), "second 0 had closed");
        assert_eq!((found[1].refused, found[2].offered, found[3].goodput), (1, 0, 1));
        assert_eq!((found[3].p50_ms, found[3].p99_ms, found[2].p50_ms), (Some(5.0), Some(5.0), None));
    }

    #[test]
    fn percentiles_of_a_second_are_exact() {
        let mut series = Series::new(10);
        series.offered(0);
        for ms in 1..=100 {
            series.settled(0, &answered(), ms * 1_000, true);
        }
        assert_eq!(series.recent(0).unwrap().p99_ms, Some(99.0));
        assert!(series.recent(1).is_none());
        let second = &series.finish()[0];
        assert_eq!((second.p50_ms, second.p99_ms, second.answered), (Some(50.0), Some(99.0), 100));
    }
}
