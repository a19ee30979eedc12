//! What config.json of a Hugging Face folder says about a BERT-family model, and which of it this crate can run.
//!
//! Keys that do not change the forward pass are ignored. What would change it silently (another activation, relative positions, a
//! pooling other than the mean) is refused by name.

use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::family::read_json;

/// The shape of the network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct BertConfig {
    pub(crate) model_type: String,
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) type_vocab_size: usize,
    pub(crate) hidden_act: String,
    pub(crate) layer_norm_eps: f64,
    #[serde(default = "absolute")]
    pub(crate) position_embedding_type: String,
}

fn absolute() -> String {
    "absolute".to_owned()
}

/// `1_Pooling/config.json` of a sentence-transformers folder, as far as it matters.
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

impl BertConfig {
    /// Reads and checks `config.json`, and `1_Pooling/config.json` where the folder has one.
    pub(crate) fn load(folder: &Path) -> Result<BertConfig, Error> {
        let file = folder.join("config.json");
        let config: BertConfig = read_json(&file)?;
        config.check(&file)?;
        let pooling = folder.join("1_Pooling/config.json");
        if pooling.exists() && !read_json::<PoolingConfig>(&pooling)?.pooling_mode_mean_tokens {
            return Err(Error::model_file(
                &pooling,
                "pooling_mode_mean_tokens is not true; only mean pooling is supported",
            ));
        }
        Ok(config)
    }

    /// Values per attention head.
    pub(crate) fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn check(&self, file: &Path) -> Result<(), Error> {
        let refuse = |key: &str, value: &dyn std::fmt::Debug, allowed: &str| {
            Err(Error::model_file(file, format!("{key} = {value:?}: {allowed}")))
        };
        if self.hidden_act != "gelu" {
            return refuse("hidden_act", &self.hidden_act, "only \"gelu\" is supported");
        }
        if self.position_embedding_type != "absolute" {
            return refuse("position_embedding_type", &self.position_embedding_type, "only \"absolute\" is supported");
        }
        let sizes = [
            ("vocab_size", self.vocab_size, 4_000_000),
            ("hidden_size", self.hidden_size, 8192),
            ("num_hidden_layers", self.num_hidden_layers, 128),
            ("num_attention_heads", self.num_attention_heads, 256),
            ("intermediate_size", self.intermediate_size, 65_536),
            ("max_position_embeddings", self.max_position_embeddings, crate::config::MAX_TOKENS),
            ("type_vocab_size", self.type_vocab_size, 16),
        ];
        for (key, value, most) in sizes {
            if !(1..=most).contains(&value) {
                return refuse(key, &value, &format!("allowed are 1 to {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse("hidden_size", &self.hidden_size, "must be a multiple of num_attention_heads");
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 0.1) {
            return refuse("layer_norm_eps", &self.layer_norm_eps, "must lie between 0 and 0.1");
        }
        Ok(())
    }
}
