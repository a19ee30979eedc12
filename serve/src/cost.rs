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
/// How many times the rate one batch may count for.
const MAX_OUTLIER: f64 = 4.0;
/// What is left of the rate after a doubt.
const DOUBT: f64 = 0.9;
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

    /// Learns from one scored batch. Of two score threads that do so at the same moment one may be forgotten.
    pub(crate) fn observe(&self, tokens: usize, elapsed: Duration) {
        if tokens == 0 {
            return;
        }
        let measured = elapsed.as_nanos() as f64 / tokens as f64;
        let rate = self.rate();
        let learned = if rate == UNKNOWN_NS_PER_TOKEN {
            measured
        } else {
            // A machine that stood still for a while says nothing about what the next batch costs.
            rate * (1.0 - NEWEST) + measured.min(rate * MAX_OUTLIER) * NEWEST
        };
        self.ns_per_token.store(learned.to_bits(), Ordering::Relaxed);
    }

    /// Trusts the rate a little less: it just made an idle node refuse an ordinary question, and as long as it does nothing is
    /// scored from which it could learn better.
    pub(crate) fn doubt(&self) {
        self.ns_per_token.store((self.rate() * DOUBT).to_bits(), Ordering::Relaxed);
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
    fn a_machine_that_stood_still_is_forgotten() {
        let cost = CostModel::new();
        cost.observe(100, Duration::from_millis(100));
        cost.observe(5, Duration::from_secs(10));
        assert!(cost.predict(1) < Duration::from_millis(2), "{:?}", cost.predict(1));
    }

    #[test]
    fn doubt_lets_an_idle_node_answer_again() {
        let cost = CostModel::new();
        cost.observe(5, Duration::from_secs(10));
        let mut doubts = 0;
        while cost.predict(5) > Duration::from_millis(300) {
            cost.doubt();
            doubts += 1;
        }
        assert!(doubts < 50, "{doubts} refusals");
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
