//! What an operator may set about the model: the `[model]` table of larder.toml.
//!
//! The values are checked twice: `validate` sees what can be judged from the table alone, `Encoder::load` what needs the model folder
//! (for example that `max_tokens` fits the model's position table).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The largest thread pool an encoder may have.
pub(crate) const MAX_THREADS: usize = 1024;
/// The largest `max_tokens`: no BERT-family model has more positions.
pub(crate) const MAX_TOKENS: usize = 8192;
/// The largest `micro_batch_tokens`.
pub(crate) const MAX_MICRO_BATCH_TOKENS: usize = 1 << 20;
/// The largest `max_text_bytes`.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;

/// The encoder and how it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder in the Hugging Face layout: config.json, tokenizer.json, model.safetensors.
    pub encoder: PathBuf,
    /// Where the model runs; `cpu` is the one device of this build.
    pub device: String,
    /// Threads of the encoder's own pool; 0 takes every core.
    pub threads: usize,
    /// Tokens per text, special tokens included; what is longer is cut, and `Tokens` says so.
    pub max_tokens: usize,
    /// Tokens that go through the network together. Larger only costs cache misses once the matrix products are efficient.
    pub micro_batch_tokens: usize,
    /// Bytes of a text that are tokenised at all; the rest is cut before any work is spent on it.
    pub max_text_bytes: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            encoder: PathBuf::from("models/minilm-l6"),
            device: "cpu".to_owned(),
            threads: 0,
            max_tokens: 256,
            micro_batch_tokens: 256,
            max_text_bytes: 16_384,
        }
    }
}

impl ModelConfig {
    /// Checks every value that can be judged without the model folder.
    pub fn validate(&self) -> Result<(), Error> {
        if self.encoder.as_os_str().is_empty() {
            return Err(Error::config(
                "encoder",
                "\"\"",
                "name a folder with config.json, tokenizer.json and model.safetensors",
            ));
        }
        if self.device != "cpu" {
            return Err(Error::config(
                "device",
                format!("{:?}", self.device),
                "this build runs the model on \"cpu\" only",
            ));
        }
        in_range("threads", self.threads, 0, MAX_THREADS)?;
        in_range("max_tokens", self.max_tokens, 8, MAX_TOKENS)?;
        in_range("micro_batch_tokens", self.micro_batch_tokens, 1, MAX_MICRO_BATCH_TOKENS)?;
        in_range("max_text_bytes", self.max_text_bytes, 64, MAX_TEXT_BYTES)
    }
}

fn in_range(key: &'static str, value: usize, least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::config(key, value, format!("allowed are {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_toml() {
        let config = ModelConfig::default();
        config.validate().unwrap();
        assert_eq!(toml::from_str::<ModelConfig>("").unwrap(), config);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ModelConfig>(&text).unwrap(), config);
    }

    #[test]
    fn every_bad_value_is_named() {
        let bad: [(&str, ModelConfig); 6] = [
            ("encoder", ModelConfig { encoder: PathBuf::new(), ..Default::default() }),
            ("device", ModelConfig { device: "tpu".into(), ..Default::default() }),
            ("threads", ModelConfig { threads: MAX_THREADS + 1, ..Default::default() }),
            ("max_tokens", ModelConfig { max_tokens: 7, ..Default::default() }),
            ("micro_batch_tokens", ModelConfig { micro_batch_tokens: 0, ..Default::default() }),
            ("max_text_bytes", ModelConfig { max_text_bytes: 0, ..Default::default() }),
        ];
        for (key, config) in bad {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        assert!(toml::from_str::<ModelConfig>("thread = 2").is_err(), "unknown keys are refused");
    }
}
