//! The store's metrics: every name is declared here and nowhere else. No label names a tenant or an entity.

use std::fmt;
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::breaker::BreakerState;
use crate::cold::file::ColdReads;
use crate::fetched::{FetchStats, FetchedView, Status};
use crate::live::Written;

const FETCH_SECONDS: &str = "larder_store_fetch_seconds";
const KEYS: &str = "larder_store_keys_total";
const REQUESTED_KEYS: &str = "larder_store_requested_keys_total";
const ROWS: &str = "larder_store_rows_total";
/// Age of the rows that fetches return; its buckets are [`ROW_AGE_BUCKETS`].
pub const ROW_AGE_SECONDS: &str = "larder_store_row_age_seconds";
/// Upper bounds of the buckets of row ages, in seconds: a second to three years, by factors of about four.
pub const ROW_AGE_BUCKETS: [f64; 14] = [
    1.0, 5.0, 20.0, 60.0, 300.0, 1_200.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0, 7_776_000.0,
    31_536_000.0, 94_608_000.0,
];
const EXPIRED: &str = "larder_store_expired_total";
const READ_BYTES: &str = "larder_store_read_bytes_total";
const HOT_BYTES: &str = "larder_store_hot_bytes";
const HOT_ENTRIES: &str = "larder_store_hot_entries";
const HOT_SKIPPED: &str = "larder_store_hot_skipped_total";
const COLD_INDEX_BYTES: &str = "larder_store_cold_index_bytes";
const COLD_READS: &str = "larder_store_cold_reads_total";
const COLD_READ_BYTES: &str = "larder_store_cold_read_bytes_total";
const COLD_LATE: &str = "larder_store_cold_late_total";
const COLD_ERRORS: &str = "larder_store_cold_errors_total";
const BREAKER_STATE: &str = "larder_breaker_state";
const BREAKER_OPENINGS: &str = "larder_breaker_openings_total";
const WRITTEN_ROWS: &str = "larder_store_written_rows_total";
const DATABASE: &str = "larder_store_database";
const DATABASE_EVENTS: &str = "larder_store_database_events_total";
const SWAPS: &str = "larder_store_swaps_total";
const DROP_FAILURES: &str = "larder_store_drop_failures_total";
const LOG_APPEND_SECONDS: &str = "larder_store_log_append_seconds";
const LOG_ENTRIES: &str = "larder_store_log_entries_total";

/// Describes every metric to the installed recorder.
pub fn describe_metrics() {
    describe_histogram!(FETCH_SECONDS, Unit::Seconds, "Time of one batched fetch.");
    describe_counter!(KEYS, "Distinct keys fetched, by the tier that answered: hot, warm, cold, none, or late.");
    describe_counter!(
        REQUESTED_KEYS,
        "Keys asked for, repeats included; beside larder_store_keys_total it tells how much batches repeat."
    );
    describe_counter!(ROWS, "Rows returned, by view and status: present, expired, not_found, not_in_time, erased.");
    describe_histogram!(ROW_AGE_SECONDS, Unit::Seconds, "Age of the rows returned, by view.");
    describe_counter!(EXPIRED, "Distinct keys whose row was older than the view's time to live.");
    describe_counter!(READ_BYTES, Unit::Bytes, "Row bytes read below the hot tier.");
    describe_gauge!(HOT_BYTES, Unit::Bytes, "Bytes held by the hot tier.");
    describe_gauge!(HOT_ENTRIES, "Rows and known absences held by the hot tier.");
    describe_counter!(HOT_SKIPPED, "Rows that did not enter the hot tier, because it fell behind.");
    describe_gauge!(COLD_INDEX_BYTES, Unit::Bytes, "RAM taken by the filters and directories of the cold files.");
    describe_counter!(COLD_READS, "Reads of the cold tier's disk.");
    describe_counter!(COLD_READ_BYTES, Unit::Bytes, "Bytes read from the cold tier's disk.");
    describe_counter!(COLD_LATE, "Keys that the cold tier did not answer within a fetch's time.");
    describe_counter!(COLD_ERRORS, "Reads of the cold tier that failed; the log names the file.");
    describe_gauge!(BREAKER_STATE, "1 for the state a breaker is in: closed, half_open or open, by dependency.");
    describe_counter!(BREAKER_OPENINGS, "How often a breaker opened, by dependency.");
    describe_counter!(WRITTEN_ROWS, "Live rows written, by what they were: upsert, deletion or erased.");
    describe_gauge!(
        DATABASE,
        "RocksDB's own figures, by name: sizes in bytes, numbers of jobs, 1 for a stopped writer."
    );
    describe_counter!(
        DATABASE_EVENTS,
        "RocksDB's own counts, by name: cache hits and misses, stalled microseconds, compacted bytes."
    );
    describe_counter!(SWAPS, "Generations made live, by cause: publish or rollback.");
    describe_counter!(DROP_FAILURES, "Generations whose files could not be dropped; they go at the next start.");
    describe_histogram!(LOG_APPEND_SECONDS, Unit::Seconds, "Time of one durable append to logs.");
    describe_counter!(LOG_ENTRIES, "Entries written to logs; repeats of a dedup key are not written.");
}

/// What is counted of every fetch. The handles are made once; looking them up by name would cost more than counting.
pub(crate) struct FetchMetrics {
    seconds: Histogram,
    requested: Counter,
    hot: Counter,
    warm: Counter,
    cold: Counter,
    none: Counter,
    late: Counter,
    expired: Counter,
    read_bytes: Counter,
}

impl FetchMetrics {
    pub(crate) fn new() -> FetchMetrics {
        let keys = |tier: &'static str| counter!(KEYS, "tier" => tier);
        FetchMetrics {
            seconds: histogram!(FETCH_SECONDS),
            requested: counter!(REQUESTED_KEYS),
            hot: keys("hot"),
            warm: keys("warm"),
            cold: keys("cold"),
            none: keys("none"),
            late: keys("late"),
            expired: counter!(EXPIRED),
            read_bytes: counter!(READ_BYTES),
        }
    }

    pub(crate) fn record(&self, stats: &FetchStats, elapsed: Duration) {
        self.seconds.record(elapsed.as_secs_f64());
        self.requested.increment(stats.keys);
        self.hot.increment(stats.hot_hits);
        self.warm.increment(stats.warm_hits);
        self.cold.increment(stats.cold_hits);
        self.none.increment(stats.not_found);
        self.late.increment(stats.not_in_time);
        self.expired.increment(stats.expired);
        self.read_bytes.increment(stats.bytes_read);
    }
}

/// What is counted of one view, likewise.
pub(crate) struct ViewMetrics {
    by_status: [(Status, Counter); 5],
    age: Histogram,
}

impl fmt::Debug for ViewMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ViewMetrics").finish_non_exhaustive()
    }
}

impl ViewMetrics {
    pub(crate) fn new(view: &str) -> ViewMetrics {
        let rows = |label: &'static str| counter!(ROWS, "view" => view.to_string(), "status" => label);
        ViewMetrics {
            by_status: [
                (Status::Present, rows("present")),
                (Status::Expired, rows("expired")),
                (Status::NotFound, rows("not_found")),
                (Status::NotInTime, rows("not_in_time")),
                (Status::Erased, rows("erased")),
            ],
            age: histogram!(ROW_AGE_SECONDS, "view" => view.to_string()),
        }
    }

    /// Counts the rows of one fetch, and puts the ages of those present into the histogram, as many at once as share a power of two.
    pub(crate) fn record(&self, view: &FetchedView, now_ms: i64) {
        for (status, counter) in &self.by_status {
            let rows = view.status.iter().filter(|found| *found == status).count();
            if rows > 0 {
                counter.increment(rows as u64);
            }
        }
        let mut ages = [0; 65];
        for (_, time) in view.status.iter().zip(&view.event_time_ms).filter(|(status, _)| **status == Status::Present) {
            let age_s = now_ms.saturating_sub(*time).max(0).unsigned_abs() / 1000;
            ages[64 - age_s.leading_zeros() as usize] += 1;
        }
        for (power, rows) in ages.into_iter().enumerate().filter(|(_, rows)| *rows > 0) {
            // The middle between the powers.
            let age_s = if power == 0 { 0.0 } else { 0.75 * 2f64.powi(power as i32) };
            self.age.record_many(age_s, rows);
        }
    }
}

/// One of RocksDB's own figures, of a family or of the whole database.
pub(crate) fn set_database_figure(name: &'static str, value: f64) {
    gauge!(DATABASE, "figure" => name).set(value);
}

/// One of RocksDB's own counts.
pub(crate) fn set_database_count(name: &'static str, count: u64) {
    counter!(DATABASE_EVENTS, "event" => name).absolute(count);
}

pub(crate) fn set_usage(hot_entries: u64, hot_bytes: u64, cold_index_bytes: usize) {
    gauge!(HOT_ENTRIES).set(hot_entries as f64);
    gauge!(HOT_BYTES).set(hot_bytes as f64);
    gauge!(COLD_INDEX_BYTES).set(cold_index_bytes as f64);
}

pub(crate) fn record_skipped_fill(rows: usize) {
    counter!(HOT_SKIPPED).increment(rows as u64);
}

pub(crate) fn record_cold_reads(reads: &ColdReads) {
    counter!(COLD_READS).increment(reads.preads);
    counter!(COLD_READ_BYTES).increment(reads.bytes);
}

pub(crate) fn record_cold_late(keys: usize) {
    counter!(COLD_LATE).increment(keys as u64);
}

pub(crate) fn record_cold_error() {
    counter!(COLD_ERRORS).increment(1);
}

pub(crate) fn record_breaker_opening(dependency: &str) {
    counter!(BREAKER_OPENINGS, "dependency" => dependency.to_owned()).increment(1);
}

pub(crate) fn set_breaker_state(dependency: &str, current: BreakerState) {
    for state in BreakerState::ALL {
        let value = if state == current { 1.0 } else { 0.0 };
        gauge!(BREAKER_STATE, "dependency" => dependency.to_owned(), "state" => state.label()).set(value);
    }
}

pub(crate) fn record_write(written: &Written) {
    counter!(WRITTEN_ROWS, "kind" => "upsert").increment(written.rows);
    counter!(WRITTEN_ROWS, "kind" => "deletion").increment(written.deletions);
    counter!(WRITTEN_ROWS, "kind" => "erased").increment(written.erased);
}

pub(crate) fn record_publish() {
    counter!(SWAPS, "cause" => "publish").increment(1);
}

pub(crate) fn record_rollback() {
    counter!(SWAPS, "cause" => "rollback").increment(1);
}

pub(crate) fn record_drop_failure() {
    counter!(DROP_FAILURES).increment(1);
}

pub(crate) fn record_log_append(entries: u64, elapsed: Duration) {
    counter!(LOG_ENTRIES).increment(entries);
    histogram!(LOG_APPEND_SECONDS).record(elapsed.as_secs_f64());
}
