//! What a question costs to score, predicted from its text before any work is spent on it.
//!
//! Cost is proportional to tokens, and tokens to characters, closely enough to decide what to let in and how much
//! makes a batch. The rate is learned from every scored batch in the same estimated tokens, so that an error of the
//! estimate cancels out. One rate for the node: a fitted line per rung and bucket is later work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// English runs at four to five characters a token; fewer here means that we rather overestimate.
const CHARS_PER_TOKEN: usize = 4;
/// The markers every text gets at its beginning and end.
const TOKENS_PER_TEXT: usize = 2;
/// Weight of the newest batch in the moving average.
const NEWEST: f64 = 0.2;
/// Before the first batch, in nanoseconds a token: slower than any machine we know, so that a cold node is careful.
const UNKNOWN_NS_PER_TOKEN: f64 = 400_000.0;

/// The learned rate.
#[derive(Debug)]
pub(crate) struct CostModel {
    /// Nanoseconds per estimated token, as the bits of an f64.
    ns_per_token: AtomicU64,
}

impl CostModel {
    pub(crate) fn new() -> CostModel {
        CostModel { ns_per_token: AtomicU64::new(UNKNOWN_NS_PER_TOKEN.to_bits()) }
    }

    /// Tokens a text is likely to have; longer texts are cut to `max_tokens` by the tokenizer.
    pub(crate) fn estimate_tokens(text: &str, max_tokens: usize) -> usize {
        (text.len() / CHARS_PER_TOKEN + TOKENS_PER_TEXT).min(max_tokens)
    }

    /// Predicted scoring time of that many estimated tokens.
    pub(crate) fn predict(&self, tokens: usize) -> Duration {
        Duration::from_nanos((self.rate() * tokens as f64) as u64)
    }

    /// Learns from one scored batch. Only the score thread calls this.
    pub(crate) fn observe(&self, tokens: usize, elapsed: Duration) {
        if tokens == 0 {
            return;
        }
        let measured = elapsed.as_nanos() as f64 / tokens as f64;
        let first = self.rate() == UNKNOWN_NS_PER_TOKEN;
        let rate = if first { measured } else { self.rate() * (1.0 - NEWEST) + measured * NEWEST };
        self.ns_per_token.store(rate.to_bits(), Ordering::Relaxed);
    }

    fn rate(&self) -> f64 {
        f64::from_bits(self.ns_per_token.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_sets_the_rate_and_later_ones_move_it() {
        let cost = CostModel::new();
        cost.observe(100, Duration::from_millis(10));
        assert_eq!(cost.predict(50), Duration::from_millis(5));
        cost.observe(100, Duration::from_millis(20));
        assert_eq!(cost.predict(100), Duration::from_millis(12));
    }

    #[test]
    fn an_empty_batch_teaches_nothing() {
        let cost = CostModel::new();
        cost.observe(0, Duration::from_secs(1));
        assert_eq!(cost.predict(1), Duration::from_nanos(400_000));
    }

    #[test]
    fn long_texts_are_cut_to_the_models_limit() {
        assert_eq!(CostModel::estimate_tokens(&"x".repeat(10_000), 256), 256);
        assert_eq!(CostModel::estimate_tokens("", 256), 2);
    }
}
