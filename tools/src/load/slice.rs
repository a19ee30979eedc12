//! Counts and latencies of one part of a load: of all of it, of a class, of a tenant, of a phase.

use std::collections::BTreeMap;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::outcome::{Outcome, is_model_rung};
use super::report::{Latency, RungCounts, Totals};

/// Digits of a latency that are kept.
const DIGITS: u8 = 3;
/// The longest latency that is told from longer ones: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Latencies in microseconds.
pub(crate) fn latencies() -> Result<Histogram<u32>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_US, DIGITS)?)
}

/// What is counted of a part.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    totals: Totals,
    answers: Histogram<u32>,
    refusals: Histogram<u32>,
}

impl Slice {
    pub(crate) fn new() -> Result<Slice> {
        Ok(Slice { totals: Totals::default(), answers: latencies()?, refusals: latencies()? })
    }

    /// A question was due.
    pub(crate) fn offered(&mut self) {
        self.totals.offered += 1;
    }

    /// What became of it, so many microseconds after it was due. `labelled`: its right answer is known.
    pub(crate) fn settled(&mut self, outcome: &Outcome, latency_us: u64, in_time: bool, labelled: bool) {
        let totals = &mut self.totals;
        totals.labelled += u64::from(labelled);
        match outcome {
            Outcome::Answered { rung, handed_over, correct } => {
                totals.answered += 1;
                totals.in_time += u64::from(in_time);
                totals.handed_over += u64::from(*handed_over);
                totals.goodput += u64::from(in_time && is_model_rung(rung));
                totals.correct += u64::from(in_time && *correct);
                if !totals.rungs.contains_key(rung.as_ref()) {
                    totals.rungs.insert(rung.to_string(), RungCounts::default());
                }
                if let Some(counts) = totals.rungs.get_mut(rung.as_ref()) {
                    counts.answered += 1;
                    counts.in_time += u64::from(in_time);
                    counts.correct += u64::from(in_time && *correct);
                }
                self.answers.saturating_record(latency_us);
            }
            Outcome::Refused(reason) => {
                totals.refused += 1;
                count(&mut totals.refused_by, reason);
                self.refusals.saturating_record(latency_us);
            }
            Outcome::Expired => totals.expired += 1,
            Outcome::Failed { kind, .. } => {
                totals.failed += 1;
                count(&mut totals.failed_by, kind);
            }
            Outcome::NotSent => totals.not_sent += 1,
        }
    }

    /// Its figures, of a part that was offered for so many seconds. What was neither settled nor kept back is unfinished.
    pub(crate) fn totals(&self, seconds: f64) -> Totals {
        let mut totals = self.totals.clone();
        let settled = totals.answered + totals.refused + totals.expired + totals.failed + totals.not_sent;
        totals.unfinished = totals.offered.saturating_sub(settled);
        let per_second = |count: u64| if seconds > 0.0 { round(count as f64 / seconds) } else { 0.0 };
        totals.seconds = round(seconds);
        totals.offered_per_s = per_second(totals.offered);
        totals.answered_per_s = per_second(totals.answered);
        totals.goodput_per_s = per_second(totals.goodput);
        totals.correct_per_s = per_second(totals.correct);
        totals.in_time_share = share(totals.in_time, totals.offered);
        totals.full_share = share(totals.rungs.get("full").map_or(0, |rung| rung.answered), totals.answered);
        totals.latency_ms = latency(&self.answers);
        totals.refusal_latency_ms = latency(&self.refusals);
        totals
    }

    /// The latency below which a share of the answers came, in milliseconds; none where nothing was answered.
    pub(crate) fn answer_ms_at(&self, quantile: f64) -> Option<f64> {
        (!self.answers.is_empty()).then(|| milliseconds(self.answers.value_at_quantile(quantile)))
    }
}

/// One more of that name.
pub(crate) fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}

pub(crate) fn latency(histogram: &Histogram<u32>) -> Option<Latency> {
    let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
    (!histogram.is_empty()).then(|| Latency {
        mean: round(histogram.mean() / 1_000.0),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: milliseconds(histogram.max()),
    })
}

/// Of a whole; 0 where there is none.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1e6).round() / 1e6 }
}

/// To a thousandth, so that reports stay readable.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(rung: &'static str, correct: bool) -> Outcome {
        Outcome::Answered { rung: rung.into(), handed_over: false, correct }
    }

    #[test]
    fn every_question_ends_in_one_count_and_goodput_is_in_time_and_from_a_model() {
        let mut slice = Slice::new().unwrap();
        let settle = |slice: &mut Slice, outcome: &Outcome, ms: u64, in_time| {
            slice.offered();
            slice.settled(outcome, ms * 1_000, in_time, true);
        };
        settle(&mut slice, &answered("full", true), 10, true);
        settle(&mut slice, &answered("light", false), 20, true);
        settle(&mut slice, &answered("fallback", false), 5, true);
        settle(&mut slice, &answered("full", true), 400, false);
        settle(&mut slice, &Outcome::Refused("queue_full".into()), 1, true);
        settle(&mut slice, &Outcome::Expired, 300, false);
        settle(&mut slice, &Outcome::Failed { kind: "connection".into(), message: String::new() }, 1, false);
        settle(&mut slice, &Outcome::NotSent, 0, false);
        slice.offered();
        let totals = slice.totals(2.0);
        assert_eq!((totals.offered, totals.answered, totals.in_time, totals.goodput, totals.correct), (9, 4, 3, 2, 1));
        assert_eq!((totals.refused, totals.expired, totals.failed, totals.not_sent), (1, 1, 1, 1));
        assert_eq!(totals.unfinished, 1, "the one of which nothing was heard");
        assert_eq!((totals.offered_per_s, totals.goodput_per_s), (4.5, 1.0));
        assert_eq!((totals.in_time_share, totals.full_share), (0.333333, 0.5));
        assert_eq!(totals.rungs["full"], RungCounts { answered: 2, in_time: 1, correct: 1 });
        assert_eq!(totals.refused_by["queue_full"], 1);
        let latency = totals.latency_ms.unwrap();
        assert!((latency.max - 400.0).abs() < 0.5 && (latency.p50 - 10.0).abs() < 0.1, "{latency:?}");
    }

    #[test]
    fn a_part_without_answers_has_no_latency() {
        let totals = Slice::new().unwrap().totals(0.0);
        assert_eq!((totals.latency_ms, totals.in_time_share, totals.offered_per_s), (None, 0.0, 0.0));
    }
}
