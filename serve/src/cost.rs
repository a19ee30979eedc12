//! What a batch costs to score on one encoder, predicted from its texts before any work is spent on them.
//!
//! The time of a batch is taken as `a * tokens + b`, with tokens estimated from the text's length: the lines are fitted in the same
//! estimates, so that an error of the estimate cancels out. Each power of two of tokens is a bucket with sums of its own (a GPU that pads
//! its batches takes steps, a CPU's line bends); a bucket that has seen enough uses its own line, every other one the line through all of
//! them. Observations are forgotten exponentially, by batches and not by time, so that a bucket that is no longer met gives way to the
//! line through all. Neither `a` nor `b` is ever below zero and no batch is predicted to take less than a smaller one: a fit that promises
//! negative times makes a node refuse everything, and then it learns nothing any more.

mod fit;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fit::Fitted;

/// English runs at four to five characters a token; fewer here means that we rather overestimate.
const CHARS_PER_TOKEN: usize = 4;
/// The markers every text gets at its beginning and end.
const TOKENS_PER_TEXT: usize = 2;

/// The learned cost of one encoder.
#[derive(Debug)]
pub(crate) struct CostModel {
    fitted: Mutex<Fitted>,
}

impl CostModel {
    pub(crate) fn new() -> CostModel {
        CostModel { fitted: Mutex::new(Fitted::unknown()) }
    }

    /// Tokens a text is likely to have, at most `max_tokens`, to which the tokenizer cuts. What is not ASCII counts a token a character,
    /// as it does in Chinese, and in other scripts where the vocabulary knows none of their words.
    pub(crate) fn estimate_tokens(text: &str, max_tokens: usize) -> usize {
        let ascii = text.bytes().filter(u8::is_ascii).count();
        // The first byte of a character of several.
        let others = text.bytes().filter(|byte| *byte >= 0xC0).count();
        (ascii / CHARS_PER_TOKEN + others + TOKENS_PER_TEXT).min(max_tokens)
    }

    /// Predicted scoring time of a whole batch of that many estimated tokens.
    pub(crate) fn predict(&self, tokens: usize) -> Duration {
        nanos(self.lock().predict(tokens))
    }

    /// What every batch takes, however small.
    pub(crate) fn base(&self) -> Duration {
        nanos(self.lock().base())
    }

    /// What that many tokens more make a batch take, of the sizes that have been usual lately.
    pub(crate) fn marginal(&self, tokens: usize) -> Duration {
        nanos(self.lock().marginal() * tokens as f64)
    }

    /// Learns from one scored batch. One that was not scored to its end must not be told of.
    pub(crate) fn observe(&self, tokens: usize, elapsed: Duration) {
        if tokens > 0 {
            self.lock().observe(tokens, elapsed.as_nanos() as f64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fitted> {
        // Arithmetic does not panic.
        self.fitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(nanos: f64) -> Duration {
    // A cast of a float saturates.
    Duration::from_nanos(nanos as u64)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use larder_model::{Devices, Encoder, EncoderConfig, ModelConfig};
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn ms(duration: Duration) -> f64 {
        duration.as_secs_f64() * 1e3
    }

    #[test]
    fn one_batch_is_enough_to_begin_and_counts_in_proportion() {
        let cost = CostModel::new();
        assert_eq!(cost.predict(50), MS(20), "unknown");
        cost.observe(100, MS(10));
        assert_eq!((cost.predict(50), cost.predict(100), cost.predict(1_000)), (MS(5), MS(10), MS(100)));
        assert_eq!((cost.base(), cost.marginal(10)), (MS(0), MS(1)));
    }

    #[test]
    fn steps_of_a_gpu_become_steps() {
        let cost = CostModel::new();
        let step = |tokens: usize| MS(tokens.next_power_of_two() as u64 / 64);
        for tokens in [70, 90, 120, 140, 180, 250].into_iter().cycle().take(60) {
            cost.observe(tokens, step(tokens));
        }
        for tokens in [65, 100, 128, 129, 200, 256] {
            assert!((ms(cost.predict(tokens)) - ms(step(tokens))).abs() < 0.1, "{tokens}: {:?}", cost.predict(tokens));
        }
        assert!(cost.marginal(64) > MS(0), "work that costs nothing would have no bound");
    }

    #[test]
    fn within_one_step_a_token_more_is_not_free() {
        let cost = CostModel::new();
        [70, 90, 120].into_iter().cycle().take(30).for_each(|tokens| cost.observe(tokens, MS(2)));
        assert!(cost.base() > MS(1), "{:?}", cost.base());
        assert!(cost.marginal(1_000) > MS(1), "{:?}", cost.marginal(1_000));
    }

    #[test]
    fn a_machine_that_stood_still_at_first_is_soon_forgiven() {
        let cost = CostModel::new();
        cost.observe(5, Duration::from_secs(10));
        (0..20).for_each(|_| cost.observe(20, MS(5)));
        assert!(cost.predict(20) < MS(10), "{:?}", cost.predict(20));
    }

    #[test]
    fn a_clock_that_did_not_move_makes_nothing_free() {
        let cost = CostModel::new();
        (0..50).for_each(|_| cost.observe(20, Duration::ZERO));
        (0..60).for_each(|_| cost.observe(20, MS(5)));
        assert!(cost.predict(20) > MS(4), "{:?}", cost.predict(20));
    }

    #[test]
    fn an_empty_batch_teaches_nothing() {
        let cost = CostModel::new();
        cost.observe(0, Duration::from_secs(1));
        assert_eq!(cost.predict(1), Duration::from_nanos(400_000));
    }

    /// A machine, and the batches that it is given.
    fn batches() -> impl Strategy<Value = (f64, f64, Vec<(usize, f64)>)> {
        let batch = (8_usize..1_024, 0.9_f64..1.1);
        (10_000.0_f64..300_000.0, 0.0_f64..5e6, proptest::collection::vec(batch, 60..120))
    }

    fn taught(slope: f64, base: f64, batches: &[(usize, f64)]) -> CostModel {
        let cost = CostModel::new();
        for (tokens, noise) in batches {
            cost.observe(*tokens, nanos((slope * *tokens as f64 + base) * noise));
        }
        cost
    }

    proptest! {
        #[test]
        fn a_line_is_found_in_noise((slope, base, batches) in batches()) {
            let cost = taught(slope, base, &batches);
            for tokens in [256, 512, 1_000] {
                let (truth, found) = ((slope * tokens as f64 + base) / 1e6, ms(cost.predict(tokens)));
                prop_assert!((found / truth - 1.0).abs() < 0.25, "{tokens} tokens: {found} ms for {truth}");
            }
        }

        #[test]
        fn a_machine_that_becomes_twice_as_slow_is_followed((slope, base, batches) in batches()) {
            let (before, after) = batches.split_at(batches.len() - 20);
            let cost = taught(slope, base, before);
            for (tokens, noise) in after {
                cost.observe(*tokens, nanos(2.0 * (slope * *tokens as f64 + base) * noise));
            }
            let truth: f64 = after.iter().map(|(tokens, _)| 2.0 * (slope * *tokens as f64 + base) / 1e6).sum();
            let found: f64 = after.iter().map(|(tokens, _)| ms(cost.predict(*tokens))).sum();
            prop_assert!((found / truth - 1.0).abs() < 0.35, "{found} ms for {truth}");
        }

        #[test]
        fn more_tokens_never_cost_less(observed in proptest::collection::vec((1_usize..5_000, 0_u64..1_000_000_000), 1..60)) {
            let cost = CostModel::new();
            for (tokens, elapsed) in observed {
                cost.observe(tokens, Duration::from_nanos(elapsed));
                prop_assert!(cost.base() <= cost.predict(100_000));
                let predicted: Vec<Duration> = (0..4_000).step_by(7).map(|tokens| cost.predict(tokens)).collect();
                prop_assert!(predicted.is_sorted(), "{:?}", cost);
            }
        }

        #[test]
        fn one_outlier_moves_predictions_by_a_bounded_factor(
            (slope, base, batches) in batches(), outlier in 8_usize..1_024, elapsed in 0_u64..3_600_000_000_000
        ) {
            let cost = taught(slope, base, &batches);
            // Far from the usual sizes any line may turn.
            let usual = batches[batches.len() - 12..].iter().map(|(tokens, _)| tokens).sum::<usize>() / 12;
            let before = ms(cost.predict(usual));
            cost.observe(outlier, Duration::from_nanos(elapsed));
            let after = ms(cost.predict(usual));
            prop_assert!(after < before * 4.0 && after > before / 4.0, "{usual} tokens: {before} ms, then {after}");
        }
    }

    #[test]
    fn estimates_are_near_what_the_tokenizers_say() {
        let models = std::env::var_os("LARDER_MODELS").map(PathBuf::from);
        let models =
            models.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/larder/models"));
        let devices = Devices::open(&ModelConfig::default()).unwrap();
        let english = [
            "where is it?",
            "I was charged twice for the same order, can you tell me why?",
            "Hello, I ordered a wireless charger last week and have not heard anything since; could you please look it up?",
        ];
        let chinese = [
            "我的快递到哪里了？",
            "退款什么时候到我的账户，已经等了三天了",
            "我需要一张发票，抬头写公司的名字可以吗？",
        ];
        for (model, texts) in
            [("minilm-l6", &english), ("minilm-l6", &chinese), ("me5-small", &english), ("me5-small", &chinese)]
        {
            let config = EncoderConfig { folder: models.join(model), ..ModelConfig::default().full };
            let encoder = Encoder::load(&config, &devices).unwrap();
            for text in texts {
                let (estimate, real) =
                    (CostModel::estimate_tokens(text, 256), encoder.tokenize(&[text]).unwrap().total());
                let ratio = estimate as f64 / real as f64;
                assert!((0.5..=2.0).contains(&ratio), "{model}, {text}: {estimate} for {real}");
            }
        }
    }

    #[test]
    fn long_texts_are_cut_to_the_models_limit() {
        assert_eq!(CostModel::estimate_tokens(&"x".repeat(10_000), 256), 256);
        assert_eq!(CostModel::estimate_tokens("", 256), 2);
    }
}
