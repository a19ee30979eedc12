//! How an encoder is fine-tuned: every number that an operator may choose, with its bounds.
//!
//! The defaults were chosen on a held-out part of banking77's training questions; `docs/models.md` says what they give.

use serde::{Deserialize, Serialize};

use crate::config::MAX_THREADS;
use crate::error::Error;

/// How to fine-tune; the defaults suit tens of intents with tens of short questions each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuneOptions {
    /// Decides what is held out, the order of texts and what dropout leaves out.
    pub seed: u64,
    /// Times that every text is learned from at most.
    pub epochs: usize,
    /// Epochs without a higher held-out accuracy after which the training stops.
    pub patience_epochs: usize,
    /// Of how many texts one is held out; 0 learns from all and never stops early.
    pub held_out_one_in: usize,
    /// Texts per step.
    pub batch_texts: usize,
    /// Adam's learning rate at its highest.
    pub learning_rate: f64,
    /// The share of values that dropout leaves out.
    pub dropout: f32,
    /// The share of words that are left out of a text.
    pub word_dropout: f32,
    /// The share of each target that is spread over all classes.
    pub label_smoothing: f32,
    /// What the contrast with other texts counts against 1 of the classifier; 0 leaves it out.
    pub contrast: f32,
    /// How far the written weights are from those of the start to the trained ones; 1 takes the trained ones.
    pub blend: f32,
    /// Threads; 0 takes every core.
    pub threads: usize,
}

impl Default for FineTuneOptions {
    fn default() -> Self {
        FineTuneOptions {
            seed: 1,
            epochs: 3,
            patience_epochs: 2,
            held_out_one_in: 10,
            batch_texts: 64,
            learning_rate: 1e-4,
            dropout: 0.1,
            word_dropout: 0.1,
            label_smoothing: 0.1,
            contrast: 0.5,
            blend: 0.7,
            threads: 0,
        }
    }
}

impl FineTuneOptions {
    /// Checks every value.
    pub fn validate(&self) -> Result<(), Error> {
        let whole = [
            ("epochs", self.epochs, 1, 1000),
            ("patience_epochs", self.patience_epochs, 1, 1000),
            ("batch_texts", self.batch_texts, 2, 1024),
            ("threads", self.threads, 0, MAX_THREADS),
        ];
        for (key, value, least, most) in whole {
            if !(least..=most).contains(&value) {
                return Err(Error::config(key, value, format!("allowed are {least} to {most}")));
            }
        }
        if self.held_out_one_in != 0 && !(2..=100).contains(&self.held_out_one_in) {
            return Err(Error::config("held_out_one_in", self.held_out_one_in, "allowed are 0 and 2 to 100"));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 0.01) {
            return Err(Error::config("learning_rate", self.learning_rate, "above 0, at most 0.01"));
        }
        for (key, share) in
            [("dropout", self.dropout), ("word_dropout", self.word_dropout), ("label_smoothing", self.label_smoothing)]
        {
            if !(0.0..=0.5).contains(&share) {
                return Err(Error::config(key, share, "allowed are 0 to 0.5"));
            }
        }
        if !(0.0..=10.0).contains(&self.contrast) {
            return Err(Error::config("contrast", self.contrast, "allowed are 0 to 10"));
        }
        if !(self.blend > 0.0 && self.blend <= 1.0) {
            return Err(Error::config("blend", self.blend, "above 0, at most 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_value_is_named() {
        FineTuneOptions::default().validate().unwrap();
        for (key, options) in [
            ("epochs", FineTuneOptions { epochs: 0, ..FineTuneOptions::default() }),
            ("patience_epochs", FineTuneOptions { patience_epochs: 0, ..FineTuneOptions::default() }),
            ("held_out_one_in", FineTuneOptions { held_out_one_in: 1, ..FineTuneOptions::default() }),
            ("batch_texts", FineTuneOptions { batch_texts: 1, ..FineTuneOptions::default() }),
            ("learning_rate", FineTuneOptions { learning_rate: f64::NAN, ..FineTuneOptions::default() }),
            ("dropout", FineTuneOptions { dropout: 0.9, ..FineTuneOptions::default() }),
            ("word_dropout", FineTuneOptions { word_dropout: f32::NAN, ..FineTuneOptions::default() }),
            ("blend", FineTuneOptions { blend: 0.0, ..FineTuneOptions::default() }),
            ("contrast", FineTuneOptions { contrast: -1.0, ..FineTuneOptions::default() }),
            ("label_smoothing", FineTuneOptions { label_smoothing: -0.1, ..FineTuneOptions::default() }),
            ("threads", FineTuneOptions { threads: 100_000, ..FineTuneOptions::default() }),
        ] {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
