//! The node's metrics: every name once, with its unit and its labels. No label names a tenant, a user or a text.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_store::FetchStats;

use crate::context::Class;
use crate::error::Refusal;
use crate::node::Shared;
use crate::question::{BatchInfo, Timings};
use crate::rung::Rung;

/// Questions, by class and outcome ("answered", "handed_over", or the reason of the refusal).
pub(crate) const QUESTIONS: &str = "larder_questions_total";
/// Answers, by the rung that made them.
pub(crate) const ANSWERS: &str = "larder_answers_total";
/// Batches, or parts of one, that a rung failed to rank, by rung.
pub(crate) const RUNG_FAILURES: &str = "larder_rung_failures_total";
/// Bytes of the encoders' weights in memory, by rung; an encoder of two rungs counts for both.
pub(crate) const ENCODER_BYTES: &str = "larder_encoder_memory_bytes";
/// Time from a question's arrival to its answer, in seconds.
pub(crate) const ANSWER_SECONDS: &str = "larder_answer_seconds";
/// Time in each stage, in seconds, by stage.
pub(crate) const STAGE_SECONDS: &str = "larder_stage_seconds";
/// Batches, by the reason why they closed.
pub(crate) const BATCHES: &str = "larder_batches_total";
/// Questions in a batch.
pub(crate) const BATCH_SIZE: &str = "larder_batch_questions";
/// Time of a batch's forward and ranking, in seconds.
pub(crate) const BATCH_SCORE_SECONDS: &str = "larder_batch_score_seconds";
/// Batches whose features could not be read.
pub(crate) const FETCH_ERRORS: &str = "larder_fetch_errors_total";
/// Questions let in and not yet answered.
pub(crate) const BACKLOG_QUESTIONS: &str = "larder_backlog_questions";
/// Predicted work let in and not yet done, in seconds of the scorer.
pub(crate) const BACKLOG_SECONDS: &str = "larder_backlog_seconds";
/// 1 for the state the node is in, 0 for the others, by state.
pub(crate) const STATE: &str = "larder_node_state";

/// Gives every metric its unit and its help text, the store's and the model's too; once per process, after the recorder is
/// installed.
pub(crate) fn describe() {
    larder_store::describe_metrics();
    larder_model::describe_metrics();
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(QUESTIONS, Unit::Count, "Questions, by class and outcome.");
    describe_counter!(ANSWERS, Unit::Count, "Answers, by the rung that made them.");
    describe_counter!(RUNG_FAILURES, Unit::Count, "Batches, or parts of one, that a rung failed to rank, by rung.");
    describe_gauge!(ENCODER_BYTES, Unit::Bytes, "Encoder weights in memory, by rung.");
    describe_histogram!(ANSWER_SECONDS, Unit::Seconds, "From a question's arrival to its answer.");
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "Time in each stage.");
    describe_counter!(BATCHES, Unit::Count, "Batches, by the reason why they closed.");
    describe_histogram!(BATCH_SIZE, Unit::Count, "Questions in a batch.");
    describe_histogram!(BATCH_SCORE_SECONDS, Unit::Seconds, "Forward and ranking of a batch.");
    describe_counter!(FETCH_ERRORS, Unit::Count, "Batches whose features could not be read.");
    describe_gauge!(BACKLOG_QUESTIONS, Unit::Count, "Questions let in and not yet answered.");
    describe_gauge!(BACKLOG_SECONDS, Unit::Seconds, "Predicted work let in and not yet done.");
    describe_gauge!(STATE, Unit::Count, "1 for the state the node is in.");
}

/// The figures that GetNodeStatus reports, beside the same ones in Prometheus form.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) answered: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) hot_hits: AtomicU64,
    pub(crate) warm_hits: AtomicU64,
    pub(crate) cold_hits: AtomicU64,
    pub(crate) not_in_time: AtomicU64,
}

impl Counters {
    pub(crate) fn answered(&self, class: Class, handed_over: bool, rung: Rung) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let outcome = if handed_over { "handed_over" } else { "answered" };
        metrics::counter!(QUESTIONS, "class" => class.label(), "outcome" => outcome).increment(1);
        metrics::counter!(ANSWERS, "rung" => rung.label()).increment(1);
    }

    pub(crate) fn refused(&self, class: Class, refusal: &Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(QUESTIONS, "class" => class.label(), "outcome" => refusal.code().1).increment(1);
    }

    pub(crate) fn batch_closed(&self, batch: &BatchInfo) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(BATCHES, "closed_by" => batch.closed_by.label()).increment(1);
        metrics::histogram!(BATCH_SIZE).record(batch.size as f64);
    }

    /// Prometheus has the tiers' hits from the store itself.
    pub(crate) fn fetched(&self, stats: &FetchStats) {
        self.hot_hits.fetch_add(stats.hot_hits, Ordering::Relaxed);
        self.warm_hits.fetch_add(stats.warm_hits, Ordering::Relaxed);
        self.cold_hits.fetch_add(stats.cold_hits, Ordering::Relaxed);
        self.not_in_time.fetch_add(stats.not_in_time, Ordering::Relaxed);
    }
}

pub(crate) fn batch_scored(elapsed: Duration) {
    metrics::histogram!(BATCH_SCORE_SECONDS).record(elapsed);
}

pub(crate) fn rung_failed(rung: Rung) {
    metrics::counter!(RUNG_FAILURES, "rung" => rung.label()).increment(1);
}

pub(crate) fn fetch_failed() {
    metrics::counter!(FETCH_ERRORS).increment(1);
}

pub(crate) fn stages(timings: &Timings) {
    let stages = [
        ("queue", timings.queue),
        ("tokenize", timings.tokenize),
        ("fetch", timings.fetch),
        ("ready", timings.ready),
        ("score", timings.score),
        ("render", timings.render),
    ];
    for (stage, elapsed) in stages {
        metrics::histogram!(STAGE_SECONDS, "stage" => stage).record(elapsed);
    }
    metrics::histogram!(ANSWER_SECONDS).record(timings.total);
}

/// Sets the gauges, which are read when somebody asks.
pub(crate) fn observe_node(shared: &Shared) {
    let current = shared.life.state().label();
    for state in ["warming", "serving", "draining", "failed"] {
        metrics::gauge!(STATE, "state" => state).set(if state == current { 1.0 } else { 0.0 });
    }
    if let Some(engine) = shared.engine() {
        let backlog = engine.admission.backlog();
        metrics::gauge!(BACKLOG_QUESTIONS).set(backlog.questions as f64);
        metrics::gauge!(BACKLOG_SECONDS).set(backlog.cost.as_secs_f64());
        for rung in Rung::ALL {
            let of_rung = engine.encoders.iter().filter(|loaded| loaded.rungs.contains(&rung));
            let bytes: usize = of_rung.map(|loaded| loaded.encoder.memory_bytes()).sum();
            metrics::gauge!(ENCODER_BYTES, "rung" => rung.label()).set(bytes as f64);
        }
        engine.store.observe();
        engine.devices.observe();
    }
}
