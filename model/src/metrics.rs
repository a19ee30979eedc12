//! The names of this crate's metrics, declared once, and the only functions that record them.
//!
//! Seconds are histograms of whole calls (a call may hold one text or a batch), labelled with how large a batch was, as a power of two, so
//! that its spread over calls of one size can be read. The other labels name a device, its state and how it failed. None ever names a
//! tenant.

use std::sync::OnceLock;
use std::time::Instant;

use metrics::{Counter, Histogram};

use crate::device::status::{DeviceState, DeviceStatus, FailureKind};

/// Texts tokenised.
const TEXTS: &str = "larder_model_texts_total";
/// Tokens produced, special tokens included.
const TOKENS: &str = "larder_model_tokens_total";
/// Texts that were cut at `max_tokens` or `max_text_bytes`.
const TRUNCATED_TEXTS: &str = "larder_model_truncated_texts_total";
/// Texts per encode call.
const ENCODE_BATCH_TEXTS: &str = "larder_model_encode_batch_texts";
/// Tokens per encode call.
const ENCODE_BATCH_TOKENS: &str = "larder_model_encode_batch_tokens";
/// Seconds per tokenise call.
const TOKENIZE_SECONDS: &str = "larder_model_tokenize_seconds";
/// Seconds per encode call (the network, from token ids to vectors).
const ENCODE_SECONDS: &str = "larder_model_encode_seconds";
/// Seconds per search of the catalogue index.
const SEARCH_SECONDS: &str = "larder_model_search_seconds";
/// Seconds per ranking call of a head.
const SCORE_SECONDS: &str = "larder_model_score_seconds";
/// Texts encoded, by device.
const DEVICE_TEXTS: &str = "larder_model_device_texts_total";
/// Failures of devices, by device and what they did.
const DEVICE_FAILURES: &str = "larder_model_device_failures_total";
/// 1 for the state a device is in, 0 for the others, by device and state.
const DEVICE_STATE: &str = "larder_model_device_state";
/// Tokens a second over the last jobs, by device.
const DEVICE_SPEED: &str = "larder_model_device_tokens_per_s";

/// Every metric of this crate with its description.
const METRICS: [(&str, &str); 13] = [
    (TEXTS, "Texts tokenised."),
    (TOKENS, "Tokens produced, special tokens included."),
    (TRUNCATED_TEXTS, "Texts cut at max_tokens or max_text_bytes."),
    (ENCODE_BATCH_TEXTS, "Texts per encode call."),
    (ENCODE_BATCH_TOKENS, "Tokens per encode call."),
    (TOKENIZE_SECONDS, "Seconds per tokenise call."),
    (ENCODE_SECONDS, "Seconds per encode call, by its number of tokens (up to the next power of two)."),
    (SEARCH_SECONDS, "Seconds per catalogue search."),
    (SCORE_SECONDS, "Seconds per ranking call."),
    (DEVICE_TEXTS, "Texts encoded by a device."),
    (DEVICE_FAILURES, "Failures of devices: jobs that failed, and devices given up."),
    (DEVICE_STATE, "1 for the state a device is in."),
    (DEVICE_SPEED, "Tokens a second over a device's last jobs."),
];

/// The buckets of a forward's tokens, and their labels.
const BUCKETS: [(usize, &str); 10] = [
    (16, "16"),
    (32, "32"),
    (64, "64"),
    (128, "128"),
    (256, "256"),
    (512, "512"),
    (1024, "1024"),
    (2048, "2048"),
    (4096, "4096"),
    (8192, "8192"),
];

/// Describes every metric to the installed recorder.
pub fn describe_metrics() {
    for (name, description) in METRICS {
        if name.ends_with("_total") {
            metrics::describe_counter!(name, description);
        } else if [DEVICE_STATE, DEVICE_SPEED].contains(&name) {
            metrics::describe_gauge!(name, description);
        } else {
            metrics::describe_histogram!(name, description);
        }
    }
}

/// What is counted of every batch of an encoder. The handles are made once, each when it is first needed; looking them up by name would cost
/// more than counting.
#[derive(Default)]
pub(crate) struct EncoderMetrics {
    counters: OnceLock<[Counter; 3]>,
    histograms: OnceLock<[Histogram; 3]>,
    encode_seconds: [OnceLock<Histogram>; BUCKETS.len() + 1],
}

impl EncoderMetrics {
    pub(crate) fn tokenised(&self, texts: usize, tokens: usize, truncated: usize, started: Instant) {
        let counters =
            self.counters.get_or_init(|| [TEXTS, TOKENS, TRUNCATED_TEXTS].map(|name| metrics::counter!(name)));
        for (counter, number) in counters.iter().zip([texts, tokens, truncated]) {
            counter.increment(number as u64);
        }
        self.histograms()[0].record(started.elapsed().as_secs_f64());
    }

    pub(crate) fn encoded(&self, texts: usize, tokens: usize, started: Instant) {
        let [_, batch_texts, batch_tokens] = self.histograms();
        batch_texts.record(texts as f64);
        batch_tokens.record(tokens as f64);
        let place = BUCKETS.partition_point(|(most, _)| *most < tokens);
        let seconds = || metrics::histogram!(ENCODE_SECONDS, "tokens" => bucket(tokens));
        self.encode_seconds[place].get_or_init(seconds).record(started.elapsed().as_secs_f64());
    }

    fn histograms(&self) -> &[Histogram; 3] {
        let names = [TOKENIZE_SECONDS, ENCODE_BATCH_TEXTS, ENCODE_BATCH_TOKENS];
        self.histograms.get_or_init(|| names.map(|name| metrics::histogram!(name)))
    }
}

pub(crate) fn device_encoded(device: &str, texts: usize) {
    metrics::counter!(DEVICE_TEXTS, "device" => device.to_owned()).increment(texts as u64);
}

pub(crate) fn device_failed(device: &str, kind: FailureKind) {
    metrics::counter!(DEVICE_FAILURES, "device" => device.to_owned(), "kind" => kind.label()).increment(1);
}

pub(crate) fn observe_device(device: &DeviceStatus) {
    for state in DeviceState::ALL {
        let value = if state == device.state { 1.0 } else { 0.0 };
        metrics::gauge!(DEVICE_STATE, "device" => device.name.clone(), "state" => state.label()).set(value);
    }
    metrics::gauge!(DEVICE_SPEED, "device" => device.name.clone()).set(device.tokens_per_s);
}

pub(crate) fn searched(started: Instant) {
    metrics::histogram!(SEARCH_SECONDS).record(started.elapsed().as_secs_f64());
}

pub(crate) fn scored(started: Instant) {
    metrics::histogram!(SCORE_SECONDS).record(started.elapsed().as_secs_f64());
}

/// The least power of two from 16 to 8192 that a batch of so many tokens fits, or more.
fn bucket(tokens: usize) -> &'static str {
    BUCKETS.iter().find(|(most, _)| tokens <= *most).map_or("more", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!([0, 16, 17, 8192, 8193].map(super::bucket), ["16", "16", "32", "8192", "more"]);
    }
}
