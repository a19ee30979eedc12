//! The node's metrics: every name once, with its unit and its labels. No label names a tenant, a user or a text.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_ingest::{PartitionState, StreamProgress, StreamStatus};
use larder_store::{FetchStats, Written};
use metrics::{Counter, Histogram};

use crate::context::Class;
use crate::error::Refusal;
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::question::BatchInfo;
use crate::rung::{Choice, Rung};
use crate::streams::Streams;

/// Questions, by class and outcome ("answered", "handed_over", or the reason of the refusal).
pub(crate) const QUESTIONS: &str = "larder_questions_total";
/// Answers, by the rung that made them and why it did.
pub(crate) const ANSWERS: &str = "larder_answers_total";
/// Batches, or parts of one, that a rung failed to rank, by rung.
pub(crate) const RUNG_FAILURES: &str = "larder_rung_failures_total";
/// Bytes of the encoders' weights in memory, by rung; an encoder of two rungs counts for both.
pub(crate) const ENCODER_BYTES: &str = "larder_encoder_memory_bytes";
/// Time from a question's arrival to its answer, in seconds.
pub(crate) const ANSWER_SECONDS: &str = "larder_answer_seconds";
/// Time in each stage, in seconds, by stage: of a question in queue and render, of a batch in tokenize and fetch, of a rung's part of a batch in
/// ready and score.
pub(crate) const STAGE_SECONDS: &str = "larder_stage_seconds";
/// Batches, by the reason why they closed.
pub(crate) const BATCHES: &str = "larder_batches_total";
/// Questions in a batch.
pub(crate) const BATCH_SIZE: &str = "larder_batch_questions";
/// Time of a forward and its ranking, in seconds, by rung.
pub(crate) const BATCH_SCORE_SECONDS: &str = "larder_batch_score_seconds";
/// Questions looked for in the answer cache, by outcome: hit, miss.
pub(crate) const ANSWER_CACHE_LOOKUPS: &str = "larder_answer_cache_lookups_total";
/// Bytes that the answer cache holds.
pub(crate) const ANSWER_CACHE_BYTES: &str = "larder_answer_cache_bytes";
/// Batches whose features could not be read.
pub(crate) const FETCH_ERRORS: &str = "larder_fetch_errors_total";
/// Questions let in and not yet answered.
pub(crate) const BACKLOG_QUESTIONS: &str = "larder_backlog_questions";
/// Predicted work let in and not yet done, in seconds of the scorer.
pub(crate) const BACKLOG_SECONDS: &str = "larder_backlog_seconds";
/// Submit calls, by outcome: accepted, repeated (the question was there already), refused.
pub(crate) const LANE_SUBMISSIONS: &str = "larder_lane_submissions_total";
/// One Submit call, in seconds; most of it is the wait for the disk.
pub(crate) const LANE_SUBMIT_SECONDS: &str = "larder_lane_submit_seconds";
/// Questions of the async lane that were settled, by outcome: answered, failed, expired, withdrawn.
pub(crate) const LANE_SETTLED: &str = "larder_lane_settled_total";
/// Questions of the async lane that went into the node and came back to wait, by the reason of the refusal.
pub(crate) const LANE_PUT_BACK: &str = "larder_lane_put_back_total";
/// Questions of the async lane that wait or are being answered.
pub(crate) const LANE_WAITING: &str = "larder_lane_waiting_questions";
/// Of these, those that are being answered.
pub(crate) const LANE_IN_FLIGHT: &str = "larder_lane_in_flight_questions";
/// Age of the oldest of them, in seconds.
pub(crate) const LANE_OLDEST_SECONDS: &str = "larder_lane_oldest_seconds";
/// Answers that were to be kept for feedback, by outcome: kept, dropped (the thread did not follow), too_large, erased, failed (the disk).
pub(crate) const FEEDBACK_ANSWERS: &str = "larder_feedback_answers_total";
/// Feedback calls, by outcome: recorded, repeated, changed, or the reason of the refusal.
pub(crate) const FEEDBACK_GIVEN: &str = "larder_feedback_given_total";
/// What was said of answers, by the rung that made them and verdict: helped, not_helped; a changed one counts again.
pub(crate) const FEEDBACK_VERDICTS: &str = "larder_feedback_verdicts_total";
/// Batches of live rows, by outcome: written, or the reason of the refusal.
pub(crate) const ROWS_BATCHES: &str = "larder_rows_batches_total";
/// Live rows and deletions of batches that were taken, by outcome: stored, late (stored too, but something newer was there), erased (left out).
pub(crate) const ROWS: &str = "larder_rows_total";
/// One durable write of live rows, of as many batches as share it, in seconds.
pub(crate) const ROWS_WRITE_SECONDS: &str = "larder_rows_write_seconds";
/// From the arrival of a batch of live rows until it is on disk and acknowledged, in seconds.
pub(crate) const ROWS_ACKNOWLEDGED_SECONDS: &str = "larder_rows_acknowledged_seconds";
/// From the arrival of a live row until a fetch had it, in seconds; of the rows that the probe fetches.
pub(crate) const ROWS_FRESHNESS_SECONDS: &str = "larder_rows_freshness_seconds";
/// From the event time of such a row until then, in seconds: as true as the clocks of those who write. Buckets are `EVENT_AGE_BUCKETS`.
pub(crate) const ROWS_EVENT_FRESHNESS_SECONDS: &str = "larder_rows_event_freshness_seconds";
/// Upper bounds of its buckets, in seconds: an event may have waited long elsewhere.
pub(crate) const EVENT_AGE_BUCKETS: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3_600.0, 86_400.0];
/// Fetches of the freshness probe, by outcome: seen, not_seen, not_in_time, failed.
pub(crate) const ROWS_PROBES: &str = "larder_rows_probes_total";
/// Batches of live rows that were read and are not yet written.
pub(crate) const ROWS_WAITING: &str = "larder_rows_waiting_batches";
/// Messages of a topic that are done with, by stream and outcome: written (their rows are in the store or need not be), rejected.
pub(crate) const STREAM_MESSAGES: &str = "larder_stream_messages_total";
/// Rows and deletions of messages, by stream and outcome: stored, late (stored too, but something newer was there), erased (left out), foreign (of
/// another shard, left out).
pub(crate) const STREAM_ROWS: &str = "larder_stream_rows_total";
/// One durable write of the rows of messages, in seconds, by stream.
pub(crate) const STREAM_WRITE_SECONDS: &str = "larder_stream_write_seconds";
/// Messages that are in a topic and not in the store, by stream and partition.
pub(crate) const STREAM_LAG: &str = "larder_stream_lag_messages";
/// Age of what was last written of the partition that is furthest behind, in seconds, by stream; 0 where nothing is left.
pub(crate) const STREAM_BEHIND_SECONDS: &str = "larder_stream_behind_seconds";
/// Partitions by stream and state: running, waiting, stopped.
pub(crate) const STREAM_PARTITIONS: &str = "larder_stream_partitions";
/// 1 for a stream whose topic cannot be read as a whole, by stream.
pub(crate) const STREAM_IN_TROUBLE: &str = "larder_stream_in_trouble";
/// Questions waiting for a batch, by class.
pub(crate) const WAITING: &str = "larder_waiting_questions";
/// How many questions may be in the node at once.
pub(crate) const CONCURRENCY_LIMIT: &str = "larder_concurrency_limit";
/// Faults on purpose that struck, by fault; only of a process that allows chaos.
pub(crate) const CHAOS_INJECTED: &str = "larder_chaos_injected_total";
/// 1 for the state the node is in, 0 for the others, by state.
pub(crate) const STATE: &str = "larder_node_state";

/// Gives every metric its unit and its help text, the store's and the model's too; once per process, after the recorder is
/// installed.
pub(crate) fn describe() {
    larder_store::describe_metrics();
    larder_model::describe_metrics();
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(QUESTIONS, Unit::Count, "Questions, by class and outcome.");
    describe_counter!(ANSWERS, Unit::Count, "Answers, by the rung that made them and why.");
    describe_counter!(RUNG_FAILURES, Unit::Count, "Batches, or parts of one, that a rung failed to rank, by rung.");
    describe_gauge!(ENCODER_BYTES, Unit::Bytes, "Encoder weights in memory, by rung.");
    describe_histogram!(ANSWER_SECONDS, Unit::Seconds, "From a question's arrival to its answer.");
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "Time in each stage.");
    describe_counter!(BATCHES, Unit::Count, "Batches, by the reason why they closed.");
    describe_histogram!(BATCH_SIZE, Unit::Count, "Questions in a batch.");
    describe_histogram!(BATCH_SCORE_SECONDS, Unit::Seconds, "A batch's forward and ranking on a rung.");
    describe_counter!(ANSWER_CACHE_LOOKUPS, Unit::Count, "Questions looked for in the answer cache.");
    describe_gauge!(ANSWER_CACHE_BYTES, Unit::Bytes, "Bytes held by the answer cache.");
    describe_counter!(FETCH_ERRORS, Unit::Count, "Batches whose features could not be read.");
    describe_gauge!(BACKLOG_QUESTIONS, Unit::Count, "Questions let in and not yet answered.");
    describe_gauge!(BACKLOG_SECONDS, Unit::Seconds, "Predicted work let in and not yet done.");
    describe_counter!(LANE_SUBMISSIONS, Unit::Count, "Submit calls, by outcome.");
    describe_histogram!(LANE_SUBMIT_SECONDS, Unit::Seconds, "One Submit call.");
    describe_counter!(LANE_SETTLED, Unit::Count, "Questions of the async lane that were settled, by outcome.");
    describe_counter!(LANE_PUT_BACK, Unit::Count, "Questions of the async lane that the node had no room for.");
    describe_gauge!(LANE_WAITING, Unit::Count, "Questions of the async lane that wait or are being answered.");
    describe_gauge!(LANE_IN_FLIGHT, Unit::Count, "Questions of the async lane that are being answered.");
    describe_gauge!(LANE_OLDEST_SECONDS, Unit::Seconds, "Age of the oldest question of the async lane.");
    describe_counter!(FEEDBACK_ANSWERS, Unit::Count, "Answers that were to be kept for feedback, by outcome.");
    describe_counter!(FEEDBACK_GIVEN, Unit::Count, "Feedback calls, by outcome.");
    describe_counter!(FEEDBACK_VERDICTS, Unit::Count, "What was said of answers, by rung and verdict.");
    describe_counter!(ROWS_BATCHES, Unit::Count, "Batches of live rows, by outcome.");
    describe_counter!(ROWS, Unit::Count, "Live rows and deletions of batches that were taken, by outcome.");
    describe_histogram!(ROWS_WRITE_SECONDS, Unit::Seconds, "One durable write of live rows.");
    describe_histogram!(
        ROWS_ACKNOWLEDGED_SECONDS,
        Unit::Seconds,
        "From the arrival of live rows until they are on disk and acknowledged."
    );
    describe_histogram!(
        ROWS_FRESHNESS_SECONDS,
        Unit::Seconds,
        "From the arrival of a live row until a fetch had it, of the rows that the probe fetches."
    );
    describe_histogram!(
        ROWS_EVENT_FRESHNESS_SECONDS,
        Unit::Seconds,
        "From the event time of such a row, by the clock of its writer, until a fetch had it."
    );
    describe_counter!(ROWS_PROBES, Unit::Count, "Fetches of the freshness probe, by outcome.");
    describe_gauge!(ROWS_WAITING, Unit::Count, "Batches of live rows that were read and are not yet written.");
    describe_counter!(STREAM_MESSAGES, Unit::Count, "Messages of a topic that are done with, by stream and outcome.");
    describe_counter!(STREAM_ROWS, Unit::Count, "Rows and deletions of messages, by stream and outcome.");
    describe_histogram!(STREAM_WRITE_SECONDS, Unit::Seconds, "One durable write of the rows of messages.");
    describe_gauge!(STREAM_LAG, Unit::Count, "Messages that are in a topic and not in the store.");
    describe_gauge!(
        STREAM_BEHIND_SECONDS,
        Unit::Seconds,
        "Age of what was last written of the partition furthest behind."
    );
    describe_gauge!(STREAM_PARTITIONS, Unit::Count, "Partitions by stream and state.");
    describe_gauge!(STREAM_IN_TROUBLE, Unit::Count, "1 for a stream whose topic cannot be read as a whole.");
    describe_gauge!(WAITING, Unit::Count, "Questions waiting for a batch, by class.");
    describe_gauge!(CONCURRENCY_LIMIT, Unit::Count, "How many questions may be in the node at once.");
    describe_counter!(CHAOS_INJECTED, Unit::Count, "Faults on purpose that struck, by fault.");
    describe_gauge!(STATE, Unit::Count, "1 for the state the node is in.");
}

/// The figures that GetNodeStatus reports, and everything that is counted and timed for each question and each batch.
///
/// Prometheus is told through handles that are made once: a call of a metrics macro builds its key anew and looks it up in the registry, which
/// costs more than the recording, and a question would pay for it ten times. The recorder must have been installed before.
pub(crate) struct Counters {
    pub(crate) answered: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) hot_hits: AtomicU64,
    pub(crate) warm_hits: AtomicU64,
    pub(crate) cold_hits: AtomicU64,
    pub(crate) not_in_time: AtomicU64,
    questions: Handles<Counter, 6>,
    answers: Handles<Counter, 32>,
    closed: Handles<Counter, 8>,
    cache_hits: Counter,
    cache_misses: Counter,
    batch_size: Histogram,
    score_seconds: Handles<Histogram, 2>,
    stages: [Histogram; Stage::COUNT],
    answer_seconds: Histogram,
}

/// A stage on the way of a question.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    Queue,
    Tokenize,
    Fetch,
    Ready,
    Score,
    Render,
}

impl Stage {
    const COUNT: usize = 6;
    const LABELS: [&'static str; Stage::COUNT] = ["queue", "tokenize", "fetch", "ready", "score", "render"];
}

/// Handles of one metric, one for each of its labels, made when a label is first met: an unused one would be a line in /metrics.
struct Handles<T, const N: usize>([OnceLock<T>; N]);

impl<T: Clone, const N: usize> Handles<T, N> {
    fn new() -> Handles<T, N> {
        Handles(std::array::from_fn(|_| OnceLock::new()))
    }

    /// The handle at a place, made by `make`; beyond the last place one is made each time.
    fn at(&self, place: usize, make: impl Fn() -> T) -> T {
        self.0.get(place).map_or_else(&make, |handle| handle.get_or_init(&make).clone())
    }
}

impl Counters {
    pub(crate) fn new() -> Counters {
        let cache = |outcome: &'static str| metrics::counter!(ANSWER_CACHE_LOOKUPS, "outcome" => outcome);
        Counters {
            answered: AtomicU64::default(),
            refused: AtomicU64::default(),
            batches: AtomicU64::default(),
            hot_hits: AtomicU64::default(),
            warm_hits: AtomicU64::default(),
            cold_hits: AtomicU64::default(),
            not_in_time: AtomicU64::default(),
            questions: Handles::new(),
            answers: Handles::new(),
            closed: Handles::new(),
            cache_hits: cache("hit"),
            cache_misses: cache("miss"),
            batch_size: metrics::histogram!(BATCH_SIZE),
            score_seconds: Handles::new(),
            stages: Stage::LABELS.map(|stage| metrics::histogram!(STAGE_SECONDS, "stage" => stage)),
            answer_seconds: metrics::histogram!(ANSWER_SECONDS),
        }
    }

    pub(crate) fn answered(&self, class: Class, handed_over: bool, choice: Choice) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let outcome = if handed_over { "handed_over" } else { "answered" };
        let questions = || metrics::counter!(QUESTIONS, "class" => class.label(), "outcome" => outcome);
        self.questions.at(2 * class as usize + usize::from(handed_over), questions).increment(1);
        let (rung, why) = (choice.source.label(), choice.why.label());
        let answers = || metrics::counter!(ANSWERS, "rung" => rung, "why" => why);
        self.answers.at(4 * choice.why as usize + choice.source.place(), answers).increment(1);
    }

    /// Refusals are fewer, and of many reasons.
    pub(crate) fn refused(&self, class: Class, refusal: &Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(QUESTIONS, "class" => class.label(), "outcome" => refusal.code().1).increment(1);
    }

    pub(crate) fn batch_closed(&self, batch: &BatchInfo) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let closed = || metrics::counter!(BATCHES, "closed_by" => batch.closed_by.label());
        self.closed.at(batch.closed_by as usize, closed).increment(1);
        self.batch_size.record(batch.size as f64);
    }

    /// Prometheus has the tiers' hits from the store itself.
    pub(crate) fn fetched(&self, stats: &FetchStats) {
        self.hot_hits.fetch_add(stats.hot_hits, Ordering::Relaxed);
        self.warm_hits.fetch_add(stats.warm_hits, Ordering::Relaxed);
        self.cold_hits.fetch_add(stats.cold_hits, Ordering::Relaxed);
        self.not_in_time.fetch_add(stats.not_in_time, Ordering::Relaxed);
    }

    /// A batch's questions of one encoder were encoded and ranked.
    pub(crate) fn group_scored(&self, rung: Rung, elapsed: Duration) {
        let seconds = || metrics::histogram!(BATCH_SCORE_SECONDS, "rung" => rung.label());
        self.score_seconds.at(rung as usize, seconds).record(elapsed);
    }

    /// Questions whose scores were there, and those whose scores had to be made.
    pub(crate) fn looked_for_answers(&self, hits: usize, misses: usize) {
        self.cache_hits.increment(hits as u64);
        self.cache_misses.increment(misses as u64);
    }

    /// A question, a group or a batch has passed a stage; what is one time for all of a batch is told once.
    pub(crate) fn passed(&self, stage: Stage, elapsed: Duration) {
        self.stages[stage as usize].record(elapsed);
    }

    /// An answer has left, so long after its question came.
    pub(crate) fn left(&self, elapsed: Duration) {
        self.answer_seconds.record(elapsed);
    }
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Counters").field("answered", &self.answered).finish_non_exhaustive()
    }
}

pub(crate) fn rung_failed(rung: Rung) {
    metrics::counter!(RUNG_FAILURES, "rung" => rung.label()).increment(1);
}

/// A Submit call ended: refused, or whether the question was there already.
pub(crate) fn lane_submitted(outcome: Result<bool, &Refusal>, elapsed: Duration) {
    let outcome = match outcome {
        Ok(false) => "accepted",
        Ok(true) => "repeated",
        Err(_) => "refused",
    };
    metrics::counter!(LANE_SUBMISSIONS, "outcome" => outcome).increment(1);
    metrics::histogram!(LANE_SUBMIT_SECONDS).record(elapsed);
}

/// What became of answers that were to be kept for feedback.
pub(crate) fn feedback_answers(outcome: &'static str, answers: u64) {
    metrics::counter!(FEEDBACK_ANSWERS, "outcome" => outcome).increment(answers);
}

/// A Feedback call ended.
pub(crate) fn feedback_given(outcome: &'static str) {
    metrics::counter!(FEEDBACK_GIVEN, "outcome" => outcome).increment(1);
}

/// Somebody said whether an answer of that rung helped.
pub(crate) fn feedback_verdict(rung: &str, helped: bool) {
    let rung = ["full", "light", "cached"].into_iter().find(|known| *known == rung).unwrap_or("other");
    let verdict = if helped { "helped" } else { "not_helped" };
    metrics::counter!(FEEDBACK_VERDICTS, "rung" => rung, "verdict" => verdict).increment(1);
}

/// A batch of live rows is on disk and acknowledged, so long after it came.
pub(crate) fn rows_written(written: &Written, since_arrival: Duration) {
    metrics::counter!(ROWS_BATCHES, "outcome" => "written").increment(1);
    let Written { rows, deletions, late, erased } = written;
    for (outcome, count) in [("stored", rows + deletions - late), ("late", *late), ("erased", *erased)] {
        metrics::counter!(ROWS, "outcome" => outcome).increment(count);
    }
    metrics::histogram!(ROWS_ACKNOWLEDGED_SECONDS).record(since_arrival);
}

/// The freshness probe has fetched.
pub(crate) fn rows_probed(outcome: &'static str) {
    metrics::counter!(ROWS_PROBES, "outcome" => outcome).increment(1);
}

/// A fetch had a live row so long after its arrival, and after its event time, unless that lies ahead.
pub(crate) fn rows_seen(since_arrival: Duration, since_event: Option<Duration>) {
    metrics::histogram!(ROWS_FRESHNESS_SECONDS).record(since_arrival);
    if let Some(since_event) = since_event {
        metrics::histogram!(ROWS_EVENT_FRESHNESS_SECONDS).record(since_event);
    }
}

/// A batch of live rows was refused.
pub(crate) fn rows_refused(refusal: &Refusal) {
    metrics::counter!(ROWS_BATCHES, "outcome" => refusal.code().1).increment(1);
}

/// One write of batches that share it.
pub(crate) fn rows_write(elapsed: Duration) {
    metrics::histogram!(ROWS_WRITE_SECONDS).record(elapsed);
}

/// The counters of one stream, made once: its name becomes a label.
pub(crate) struct StreamCounters {
    written: Counter,
    rejected: Counter,
    rows: [Counter; 4],
    write_seconds: Histogram,
}

impl StreamCounters {
    pub(crate) fn new(stream: &str) -> StreamCounters {
        let messages =
            |outcome| metrics::counter!(STREAM_MESSAGES, "stream" => stream.to_owned(), "outcome" => outcome);
        let rows = |outcome| metrics::counter!(STREAM_ROWS, "stream" => stream.to_owned(), "outcome" => outcome);
        StreamCounters {
            written: messages("written"),
            rejected: messages("rejected"),
            rows: ["stored", "late", "erased", "foreign"].map(rows),
            write_seconds: metrics::histogram!(STREAM_WRITE_SECONDS, "stream" => stream.to_owned()),
        }
    }

    /// Messages are done with.
    pub(crate) fn passed(&self, progress: &StreamProgress) {
        let StreamProgress { messages, written, rejected, foreign, write } = progress;
        self.written.increment(messages - rejected);
        self.rejected.increment(*rejected);
        let stored = written.rows + written.deletions - written.late;
        for (counter, count) in self.rows.iter().zip([stored, written.late, written.erased, *foreign]) {
            counter.increment(count);
        }
        if !write.is_zero() {
            self.write_seconds.record(*write);
        }
    }
}

fn observe_stream(stream: &str, status: &StreamStatus) {
    let label = || stream.to_owned();
    metrics::gauge!(STREAM_IN_TROUBLE, "stream" => label()).set(if status.trouble.is_empty() { 0.0 } else { 1.0 });
    for state in PartitionState::ALL {
        let number = status.partitions.iter().filter(|partition| partition.state == state).count();
        metrics::gauge!(STREAM_PARTITIONS, "stream" => label(), "state" => state.label()).set(number as f64);
    }
    for partition in &status.partitions {
        if let Some(lag) = partition.lag {
            let number = partition.partition.to_string();
            metrics::gauge!(STREAM_LAG, "stream" => label(), "partition" => number).set(lag as f64);
        }
    }
    if let Some(behind) = status.partitions.iter().filter_map(|partition| partition.behind).max() {
        metrics::gauge!(STREAM_BEHIND_SECONDS, "stream" => label()).set(behind.as_secs_f64());
    }
}

pub(crate) fn set_chaos_injected(fault: &'static str, count: u64) {
    metrics::counter!(CHAOS_INJECTED, "fault" => fault).absolute(count);
}

pub(crate) fn lane_settled(outcome: &'static str) {
    metrics::counter!(LANE_SETTLED, "outcome" => outcome).increment(1);
}

pub(crate) fn lane_put_back(refusal: &Refusal) {
    metrics::counter!(LANE_PUT_BACK, "reason" => refusal.code().1).increment(1);
}

pub(crate) fn fetch_failed() {
    metrics::counter!(FETCH_ERRORS).increment(1);
}

/// Sets the gauges, which are read when somebody asks.
pub(crate) fn observe_node(shared: &Shared) {
    let current = shared.life.state().label();
    for state in ["warming", "serving", "draining", "failed"] {
        metrics::gauge!(STATE, "state" => state).set(if state == current { 1.0 } else { 0.0 });
    }
    if let Some(lane) = shared.lane.get() {
        let figures = lane.figures(now_ms());
        metrics::gauge!(LANE_WAITING).set(figures.waiting as f64);
        metrics::gauge!(LANE_IN_FLIGHT).set(figures.in_flight as f64);
        metrics::gauge!(LANE_OLDEST_SECONDS).set(figures.oldest_s);
    }
    if let Some(rows) = shared.rows.get() {
        metrics::gauge!(ROWS_WAITING).set(rows.waiting() as f64);
    }
    for (stream, status) in shared.streams.get().into_iter().flat_map(Streams::status) {
        observe_stream(stream, &status);
    }
    if let Some(engine) = shared.engine() {
        let backlog = engine.queue.backlog();
        metrics::gauge!(BACKLOG_QUESTIONS).set(backlog.questions as f64);
        metrics::gauge!(BACKLOG_SECONDS).set(backlog.cost.as_secs_f64());
        for class in Class::ALL {
            metrics::gauge!(WAITING, "class" => class.label()).set(backlog.waiting[class as usize] as f64);
        }
        metrics::gauge!(CONCURRENCY_LIMIT).set(backlog.limit as f64);
        metrics::gauge!(ANSWER_CACHE_BYTES).set(engine.answers.bytes() as f64);
        for rung in Rung::ALL {
            let of_rung = engine.encoders.iter().filter(|loaded| loaded.rungs.contains(&rung));
            let bytes: usize = of_rung.map(|loaded| loaded.encoder.memory_bytes()).sum();
            metrics::gauge!(ENCODER_BYTES, "rung" => rung.label()).set(bytes as f64);
        }
        engine.store.observe();
        engine.devices.observe();
        engine.encoders.iter().for_each(|loaded| loaded.breaker.observe(Instant::now()));
        shared.chaos.observe(engine);
    }
}
