//! The store's metrics: every name is declared here and nowhere else. No label names a tenant or an entity.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::cold_file::ColdReads;
use crate::fetched::FetchStats;
use crate::live::Written;

const FETCH_SECONDS: &str = "larder_store_fetch_seconds";
const KEYS: &str = "larder_store_keys_total";
const EXPIRED: &str = "larder_store_expired_total";
const READ_BYTES: &str = "larder_store_read_bytes_total";
const HOT_BYTES: &str = "larder_store_hot_bytes";
const HOT_SKIPPED: &str = "larder_store_hot_skipped_total";
const COLD_READS: &str = "larder_store_cold_reads_total";
const COLD_READ_BYTES: &str = "larder_store_cold_read_bytes_total";
const COLD_LATE: &str = "larder_store_cold_late_total";
const COLD_ERRORS: &str = "larder_store_cold_errors_total";
const WRITTEN_ROWS: &str = "larder_store_written_rows_total";
const SWAPS: &str = "larder_store_swaps_total";
const DROP_FAILURES: &str = "larder_store_drop_failures_total";

/// Describes every metric to the installed recorder.
pub fn describe_metrics() {
    describe_histogram!(FETCH_SECONDS, Unit::Seconds, "Time of one batched fetch.");
    describe_counter!(KEYS, "Distinct keys fetched, by the tier that answered: hot, warm, cold, none, or late.");
    describe_counter!(EXPIRED, "Distinct keys whose row was older than the view's time to live.");
    describe_counter!(READ_BYTES, Unit::Bytes, "Row bytes read below the hot tier.");
    describe_gauge!(HOT_BYTES, Unit::Bytes, "Bytes held by the hot tier.");
    describe_counter!(HOT_SKIPPED, "Rows that did not enter the hot tier, because it fell behind.");
    describe_counter!(COLD_READS, "Reads of the cold tier's disk.");
    describe_counter!(COLD_READ_BYTES, Unit::Bytes, "Bytes read from the cold tier's disk.");
    describe_counter!(COLD_LATE, "Keys that the cold tier did not answer within a fetch's time.");
    describe_counter!(COLD_ERRORS, "Reads of the cold tier that failed; the log names the file.");
    describe_counter!(WRITTEN_ROWS, "Live rows written, by what they were: upsert, deletion or erased.");
    describe_counter!(SWAPS, "Generations made live, by cause: publish or rollback.");
    describe_counter!(DROP_FAILURES, "Generations whose files could not be dropped; they go at the next start.");
}

pub(crate) fn record_fetch(stats: &FetchStats, elapsed: Duration, hot_bytes: u64) {
    histogram!(FETCH_SECONDS).record(elapsed.as_secs_f64());
    counter!(KEYS, "tier" => "hot").increment(stats.hot_hits);
    counter!(KEYS, "tier" => "warm").increment(stats.warm_hits);
    counter!(KEYS, "tier" => "cold").increment(stats.cold_hits);
    counter!(KEYS, "tier" => "none").increment(stats.not_found);
    counter!(KEYS, "tier" => "late").increment(stats.not_in_time);
    counter!(EXPIRED).increment(stats.expired);
    counter!(READ_BYTES).increment(stats.bytes_read);
    gauge!(HOT_BYTES).set(hot_bytes as f64);
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
