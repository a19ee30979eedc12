//! What an operator may set about the model: the `[model]` tables of larder.toml.
//!
//! The values are checked twice: `validate` sees what can be judged from the tables alone, `Encoder::load` what needs the model folder
//! (for example that `max_tokens` fits the model's position table).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use burn::tensor::DType;

use crate::device_name::DeviceName;
use crate::error::Error;

/// The largest thread pool an encoder may have.
pub(crate) const MAX_THREADS: usize = 1024;
/// The largest `max_tokens`: no BERT-family model has more positions.
pub(crate) const MAX_TOKENS: usize = 8192;
/// The largest `micro_batch_tokens`.
pub(crate) const MAX_MICRO_BATCH_TOKENS: usize = 1 << 20;
/// The largest `max_text_bytes`.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;

/// Where models run, and the encoder of each rung.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Where the models run: `cpu`, and in a build with GPUs `cuda:0`, `cuda:1` and so on; several share the work.
    pub devices: Vec<String>,
    /// Threads of the CPU device's own pool; 0 takes every core.
    pub threads: usize,
    /// In which type GPUs compute; the CPU always computes in f32.
    pub cuda_dtype: CudaDtype,
    /// Tokens that go through a network together. Larger only costs cache misses once the matrix products are efficient.
    pub micro_batch_tokens: usize,
    /// The encoder of the rung `full`.
    pub full: EncoderConfig,
}

/// The float types of GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CudaDtype {
    /// With TF32 products: vectors within 1e-2 of the CPU's.
    F32,
    /// The range of f32 and eight bits; GPUs from Ampere on.
    #[default]
    Bf16,
    /// Eleven bits, and no range to spare.
    F16,
}

impl From<CudaDtype> for DType {
    fn from(dtype: CudaDtype) -> DType {
        match dtype {
            CudaDtype::F32 => DType::F32,
            CudaDtype::Bf16 => DType::BF16,
            CudaDtype::F16 => DType::F16,
        }
    }
}

/// One text encoder: which, and how much of a text it reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// A folder in the Hugging Face layout: config.json, tokenizer.json, model.safetensors.
    pub folder: PathBuf,
    /// Tokens per text, special tokens included; what is longer is cut, and `Tokens` says so.
    pub max_tokens: usize,
    /// Bytes of a text that are tokenised at all; the rest is cut before any work is spent on it.
    pub max_text_bytes: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            devices: vec!["cpu".to_owned()],
            threads: 0,
            cuda_dtype: CudaDtype::default(),
            micro_batch_tokens: 256,
            full: EncoderConfig { folder: PathBuf::from("models/minilm-l6"), ..EncoderConfig::default() },
        }
    }
}

impl Default for EncoderConfig {
    /// Names no folder: there is no encoder that every node has.
    fn default() -> Self {
        EncoderConfig { folder: PathBuf::new(), max_tokens: 256, max_text_bytes: 16_384 }
    }
}

impl ModelConfig {
    /// Checks every value that can be judged without the model folders.
    pub fn validate(&self) -> Result<(), Error> {
        DeviceName::parse_all(&self.devices)?;
        in_range("threads", self.threads, 0, MAX_THREADS)?;
        in_range("micro_batch_tokens", self.micro_batch_tokens, 1, MAX_MICRO_BATCH_TOKENS)?;
        self.full.validate()
    }
}

impl EncoderConfig {
    /// Checks every value that can be judged without the folder.
    pub fn validate(&self) -> Result<(), Error> {
        if self.folder.as_os_str().is_empty() {
            let allowed = "name a folder with config.json, tokenizer.json and model.safetensors";
            return Err(Error::config("folder", "\"\"", allowed));
        }
        in_range("max_tokens", self.max_tokens, 8, MAX_TOKENS)?;
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
        let full = |change: fn(&mut EncoderConfig)| {
            let mut config = ModelConfig::default();
            change(&mut config.full);
            config
        };
        let bad: [(&str, ModelConfig); 6] = [
            ("folder", full(|encoder| encoder.folder = PathBuf::new())),
            ("max_tokens", full(|encoder| encoder.max_tokens = 7)),
            ("max_text_bytes", full(|encoder| encoder.max_text_bytes = 0)),
            ("devices", ModelConfig { devices: vec!["tpu".into()], ..Default::default() }),
            ("threads", ModelConfig { threads: MAX_THREADS + 1, ..Default::default() }),
            ("micro_batch_tokens", ModelConfig { micro_batch_tokens: 0, ..Default::default() }),
        ];
        for (key, config) in bad {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        assert!(toml::from_str::<ModelConfig>("thread = 2").is_err(), "unknown keys are refused");
        let message = toml::from_str::<ModelConfig>("cuda_dtype = \"f64\"").unwrap_err().to_string();
        assert!(message.contains("cuda_dtype") && message.contains("bf16"), "{message}");
    }
}
