//! What an operator may set about the model: the `[model]` tables of larder.toml.
//!
//! The values are checked twice: `validate` sees what can be judged from the tables alone, `Encoder::load` what needs the model folder
//! (for example that `max_tokens` fits the model's position table).

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use burn::tensor::DType;

use crate::device::name::DeviceName;
use crate::error::Error;

/// The largest thread pool an encoder may have.
pub(crate) const MAX_THREADS: usize = 1024;
/// The largest `max_tokens`: no BERT-family model has more positions.
pub(crate) const MAX_TOKENS: usize = 8192;
/// The largest `micro_batch_tokens`.
pub(crate) const MAX_MICRO_BATCH_TOKENS: usize = 1 << 20;
/// The least and the largest `max_text_bytes`.
const TEXT_BYTES: (usize, usize) = (64, 1 << 20);
/// The longest `prefix`; shorter than the least text.
const MAX_PREFIX_BYTES: usize = 48;

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
    /// Jobs in a row that a device may fail with an error before it rests.
    pub device_failures: u32,
    /// How long it rests, in milliseconds, before a self-check decides; each failed check doubles it, up to 5 minutes.
    pub device_rest_ms: u64,
    /// Tokens that go through a network together. Larger only costs cache misses once the matrix products are efficient.
    pub micro_batch_tokens: usize,
    /// The encoder of the rung `full`.
    #[serde(deserialize_with = "full_encoder")]
    pub full: EncoderConfig,
    /// The encoder of the rung `light`; without a folder there is no such rung.
    #[serde(deserialize_with = "light_encoder")]
    pub light: EncoderConfig,
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
#[serde(from = "EncoderTable")]
pub struct EncoderConfig {
    /// A folder in the Hugging Face layout: config.json, tokenizer.json, model.safetensors. Empty names no encoder.
    pub folder: PathBuf,
    /// Put before every text, examples and questions alike: `query: ` for the encoders of the e5 family, nothing for most others.
    pub prefix: String,
    /// Tokens per text, special tokens included; what is longer is cut, and `Tokens` says so.
    pub max_tokens: usize,
    /// Bytes of a text that are tokenised at all, the prefix included; the rest is cut before any work is spent on it.
    pub max_text_bytes: usize,
}

/// An encoder's table as it is written; what it leaves out has the default of its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EncoderTable {
    folder: Option<PathBuf>,
    prefix: Option<String>,
    max_tokens: Option<usize>,
    max_text_bytes: Option<usize>,
}

impl EncoderTable {
    fn or(self, default: EncoderConfig) -> EncoderConfig {
        EncoderConfig {
            folder: self.folder.unwrap_or(default.folder),
            prefix: self.prefix.unwrap_or(default.prefix),
            max_tokens: self.max_tokens.unwrap_or(default.max_tokens),
            max_text_bytes: self.max_text_bytes.unwrap_or(default.max_text_bytes),
        }
    }
}

impl From<EncoderTable> for EncoderConfig {
    fn from(table: EncoderTable) -> EncoderConfig {
        table.or(EncoderConfig::default())
    }
}

fn full_encoder<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EncoderConfig, D::Error> {
    Ok(EncoderTable::deserialize(deserializer)?.or(ModelConfig::default().full))
}

fn light_encoder<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EncoderConfig, D::Error> {
    Ok(EncoderTable::deserialize(deserializer)?.or(ModelConfig::default().light))
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            devices: vec!["cpu".to_owned()],
            threads: 0,
            cuda_dtype: CudaDtype::default(),
            device_failures: 5,
            device_rest_ms: 30_000,
            micro_batch_tokens: 256,
            full: EncoderConfig { folder: PathBuf::from("models/minilm-l6"), ..EncoderConfig::default() },
            light: EncoderConfig { folder: PathBuf::from("models/potion"), ..EncoderConfig::default() },
        }
    }
}

impl Default for EncoderConfig {
    /// Names no folder: there is no encoder that every node has.
    fn default() -> Self {
        EncoderConfig { folder: PathBuf::new(), prefix: String::new(), max_tokens: 256, max_text_bytes: 16_384 }
    }
}

impl ModelConfig {
    /// Checks every value that can be judged without the model folders.
    pub fn validate(&self) -> Result<(), Error> {
        DeviceName::parse_all(&self.devices)?;
        in_range("threads", self.threads, 0, MAX_THREADS)?;
        in_range("device_failures", self.device_failures as usize, 1, 1_000)?;
        in_range("device_rest_ms", self.device_rest_ms as usize, 1, 3_600_000)?;
        in_range("micro_batch_tokens", self.micro_batch_tokens, 1, MAX_MICRO_BATCH_TOKENS)?;
        self.full.validate()?;
        self.light.named().map_or(Ok(()), EncoderConfig::validate)
    }
}

impl EncoderConfig {
    /// Itself, if it names an encoder.
    pub fn named(&self) -> Option<&EncoderConfig> {
        (!self.folder.as_os_str().is_empty()).then_some(self)
    }

    /// Checks every value that can be judged without the folder.
    pub fn validate(&self) -> Result<(), Error> {
        if self.named().is_none() {
            let allowed = "name a folder with config.json, tokenizer.json and model.safetensors";
            return Err(Error::config("folder", "\"\"", allowed));
        }
        in_range("max_tokens", self.max_tokens, 8, MAX_TOKENS)?;
        in_range("max_text_bytes", self.max_text_bytes, TEXT_BYTES.0, TEXT_BYTES.1)?;
        if self.prefix.len() > MAX_PREFIX_BYTES {
            let allowed = format!("at most {MAX_PREFIX_BYTES} bytes are allowed");
            return Err(Error::config("prefix", format!("{:?}", self.prefix), allowed));
        }
        Ok(())
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
        let bad: [(&str, ModelConfig); 10] = [
            ("folder", full(|encoder| encoder.folder = PathBuf::new())),
            ("max_tokens", full(|encoder| encoder.max_tokens = 7)),
            ("max_text_bytes", full(|encoder| encoder.max_text_bytes = 0)),
            ("prefix", full(|encoder| encoder.prefix = "query: ".repeat(7))),
            ("max_tokens", {
                let light = EncoderConfig { max_tokens: 7, folder: "m".into(), ..EncoderConfig::default() };
                ModelConfig { light, ..ModelConfig::default() }
            }),
            ("devices", ModelConfig { devices: vec!["tpu".into()], ..Default::default() }),
            ("threads", ModelConfig { threads: MAX_THREADS + 1, ..Default::default() }),
            ("device_failures", ModelConfig { device_failures: 0, ..Default::default() }),
            ("device_rest_ms", ModelConfig { device_rest_ms: 0, ..Default::default() }),
            ("micro_batch_tokens", ModelConfig { micro_batch_tokens: 0, ..Default::default() }),
        ];
        for (key, config) in bad {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        assert!(toml::from_str::<ModelConfig>("thread = 2").is_err(), "unknown keys are refused");
        assert!(toml::from_str::<ModelConfig>("full = { fold = \"x\" }").is_err());
        let partial: ModelConfig = toml::from_str("full = { max_tokens = 64 }\nlight = { prefix = \"x\" }").unwrap();
        let folders = [partial.full.folder.to_str(), partial.light.folder.to_str()];
        assert_eq!(folders, [Some("models/minilm-l6"), Some("models/potion")], "what is left out has its default");
        assert_eq!(toml::from_str::<EncoderConfig>("max_tokens = 64").unwrap().named(), None);
        let without_light: ModelConfig = toml::from_str("light = { folder = \"\" }").unwrap();
        without_light.validate().unwrap();
        let message = toml::from_str::<ModelConfig>("cuda_dtype = \"f64\"").unwrap_err().to_string();
        assert!(message.contains("cuda_dtype") && message.contains("bf16"), "{message}");
    }
}
