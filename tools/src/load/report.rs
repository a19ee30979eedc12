//! What a run found, as figures: the type that is printed, drawn, written as JSON and read back by `larder plan`.
//!
//! Every question that was offered ends in exactly one of answered, refused, expired, failed, not_sent and unfinished.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Above this share of a core the generator may have been the limit, and the run is void.
pub const MAX_GENERATOR_CPU: f64 = 0.8;
/// A generator whose sends are later than this at the 99th percentile was starved, whatever its CPU time says.
pub const MAX_LAG_P99_MS: f64 = 20.0;

/// Everything a run found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The command line, or what stands for it.
    pub command: String,
    /// When the run began, Unix milliseconds UTC.
    pub started_ms: i64,
    /// The built-in scenario that was played, if one was.
    pub scenario: Option<String>,
    /// The seed of arrivals and draws.
    pub seed: u64,
    /// The deadline of every question, counted from when it was due.
    pub deadline_ms: f64,
    /// Connections to each node.
    pub connections: usize,
    /// Ended before its time.
    pub interrupted: bool,
    /// The generator may have been the limit: the figures say nothing of the node.
    pub void: bool,
    /// The whole run, without its warm-up.
    #[serde(flatten)]
    pub totals: Totals,
    /// How the generator itself fared.
    pub generator: Generator,
    /// By class.
    pub classes: BTreeMap<String, Totals>,
    /// By tenant; the node's default one is called "(default)".
    pub tenants: BTreeMap<String, Totals>,
    /// By phase of the load, in their order; empty where there is only one.
    pub phases: Vec<Phase>,
    /// By shard, in their order and named "i/n"; empty where one node has everybody.
    #[serde(default)]
    pub shards: Vec<Phase>,
    /// What a search found, if one was made.
    pub capacity: Option<Capacity>,
    /// How the end of a long run compares with its beginning.
    pub drift: Option<Drift>,
    /// What was said of the first failure of each kind.
    pub first_failures: BTreeMap<String, String>,
    /// Latency of the answers by percentile: of all, then of each class.
    pub distribution: Vec<Distribution>,
    /// Second by second.
    pub series: Vec<Second>,
}

/// Counts, rates and latencies of a part of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// How long it was offered.
    pub seconds: f64,
    /// Questions that were due.
    pub offered: u64,
    /// The same each second.
    pub offered_per_s: f64,
    /// Answers, whatever made them and however late.
    pub answered: u64,
    /// The same each second.
    pub answered_per_s: f64,
    /// Answers within the deadline, counted from when the question was due.
    pub in_time: u64,
    /// In time / offered.
    pub in_time_share: f64,
    /// Answers in time from a model rung: full or light.
    pub goodput: u64,
    /// The same each second.
    pub goodput_per_s: f64,
    /// Answers on the rung full / answers.
    pub full_share: f64,
    /// Answers that hand over to a person.
    pub handed_over: u64,
    /// Settled questions whose right answer is known.
    pub labelled: u64,
    /// Right answers in time among them.
    pub correct: u64,
    /// The same each second.
    pub correct_per_s: f64,
    /// Refusals by the node.
    pub refused: u64,
    /// Questions whose time ran out.
    pub expired: u64,
    /// Broken connections and faults of the node.
    pub failed: u64,
    /// Kept back because too many were in flight.
    pub not_sent: u64,
    /// Still on their way when the run was ended.
    pub unfinished: u64,
    /// Refusals by reason.
    pub refused_by: BTreeMap<String, u64>,
    /// Failures by kind.
    pub failed_by: BTreeMap<String, u64>,
    /// Answers by rung.
    pub rungs: BTreeMap<String, RungCounts>,
    /// Of answers, from when their question was due.
    pub latency_ms: Option<Latency>,
    /// Of refusals, from when their question was due.
    pub refusal_latency_ms: Option<Latency>,
}

/// Answers of one rung.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungCounts {
    /// All.
    pub answered: u64,
    /// Those in time.
    pub in_time: u64,
    /// Those in time that are known to be right.
    pub correct: u64,
}

/// Percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // Each is its name.
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// A named part of the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Its figures.
    #[serde(flatten)]
    pub totals: Totals,
}

/// How the generator fared: what it could not do, the node cannot be blamed for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// Threads that sent.
    pub threads: usize,
    /// Of its core, by the busiest thread over the whole run.
    pub cpu_share: f64,
    /// The same in that thread's busiest second.
    pub cpu_share_busiest_second: f64,
    /// How much later than due questions were sent.
    pub lag_ms: Option<Latency>,
}

/// What a search for the capacity found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// The highest rate at which enough answers were in time, in questions a second; 0 where none was.
    pub qps: f64,
    /// The share of answers in time that was asked for.
    pub least_in_time_share: f64,
    /// The generator, or the highest rate allowed, was the limit: the node can do more.
    pub limited_by_generator: bool,
    /// Every step, in the order they were made.
    pub steps: Vec<Step>,
}

/// One step of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The rate offered.
    pub rate: f64,
    /// Enough answers were in time.
    pub held: bool,
    /// The generator was the limit.
    pub void: bool,
    /// Its figures.
    #[serde(flatten)]
    pub totals: Totals,
}

/// The last fifth of a run beside its first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Median of the seconds' p99 in the first fifth.
    pub first_p99_ms: f64,
    /// The same in the last fifth.
    pub last_p99_ms: f64,
    /// The second over the first.
    pub ratio: f64,
}

/// Latency by percentile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// "all" or a class.
    pub name: String,
    /// Percentile and milliseconds.
    pub points: Vec<(f64, f64)>,
}

/// What became of the questions that were due in one second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// From the end of the warm-up.
    pub second: u64,
    /// Due.
    pub offered: u64,
    /// Answered.
    pub answered: u64,
    /// Answered in time.
    pub in_time: u64,
    /// Answered in time by a model rung.
    pub goodput: u64,
    /// Refused.
    pub refused: u64,
    /// Out of time.
    pub expired: u64,
    /// Failed.
    pub failed: u64,
    /// Kept back.
    pub not_sent: u64,
    /// Answers by rung.
    pub rungs: BTreeMap<String, u64>,
    /// Latency of the answers.
    pub p50_ms: Option<f64>,
    /// The same.
    pub p99_ms: Option<f64>,
}

impl Second {
    /// Answers on the rung full / answers; none where nothing was answered.
    pub fn full_share(&self) -> Option<f64> {
        let full = self.rungs.get("full").copied().unwrap_or_default();
        (self.answered > 0).then(|| full as f64 / self.answered as f64)
    }
}

impl Step {
    /// "held", "missed" or "void".
    pub fn verdict(&self) -> &'static str {
        match (self.void, self.held) {
            (true, _) => "void",
            (false, true) => "held",
            (false, false) => "missed",
        }
    }
}

impl Generator {
    /// Whether the generator, and not the node, may have been the limit.
    pub fn starved(&self) -> bool {
        self.overworked() || self.lag_ms.is_some_and(|lag| lag.p99 > MAX_LAG_P99_MS)
    }

    /// Whether it took more of its core than leaves room for every send.
    pub fn overworked(&self) -> bool {
        self.cpu_share > MAX_GENERATOR_CPU
    }
}

impl Report {
    /// Compares the end of the run with its beginning; none for a run too short to tell.
    pub(crate) fn drift(series: &[Second]) -> Option<Drift> {
        let fifth = series.len() / 5;
        if fifth < 2 {
            return None;
        }
        let first_p99_ms = median_p99(&series[..fifth])?;
        let last_p99_ms = median_p99(&series[series.len() - fifth..])?;
        let ratio = super::slice::round(last_p99_ms / first_p99_ms);
        Some(Drift { first_p99_ms, last_p99_ms, ratio })
    }
}

fn median_p99(seconds: &[Second]) -> Option<f64> {
    let mut found: Vec<f64> = seconds.iter().filter_map(|second| second.p99_ms).collect();
    found.sort_by(f64::total_cmp);
    found.get(found.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_compares_the_last_fifth_with_the_first() {
        let second =
            |second: u64| Second { second, p99_ms: Some(if second < 50 { 10.0 } else { 30.0 }), ..Second::default() };
        let series: Vec<Second> = (0..100).map(second).collect();
        assert_eq!(Report::drift(&series), Some(Drift { first_p99_ms: 10.0, last_p99_ms: 30.0, ratio: 3.0 }));
        assert_eq!(Report::drift(&series[..9]), None);
    }

    #[test]
    fn a_generator_without_cpu_or_on_time_is_void() {
        let lag = |p99| Some(Latency { mean: 0.0, p50: 0.0, p90: 0.0, p99, p999: p99, max: p99 });
        assert!(!Generator { cpu_share: 0.8, lag_ms: lag(1.0), ..Generator::default() }.starved());
        assert!(Generator { cpu_share: 0.81, lag_ms: lag(1.0), ..Generator::default() }.starved());
        assert!(Generator { cpu_share: 0.1, lag_ms: lag(50.0), ..Generator::default() }.starved());
    }

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let report = Report {
            totals: Totals { offered: 3, ..Totals::default() },
            capacity: Some(Capacity { qps: 620.0, ..Capacity::default() }),
            ..Report::default()
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["offered"], 3, "the totals are flat");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}
