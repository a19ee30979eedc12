//! What config.json of a model2vec folder says, as far as it matters here.
//!
//! How the table was made (`apply_pca`, `apply_zipf`, `tokenizer_name`) is history, and `normalize` changes nothing, because every vector of
//! this crate has length 1. The table itself says how many tokens it has.

use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::family::read_json;

/// The most values a token's vector may have.
const MAX_DIMENSION: usize = 8192;

/// The shape of the table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct StaticConfig {
    /// Values per vector.
    pub(crate) hidden_dim: usize,
}

impl StaticConfig {
    /// Reads and checks `config.json`.
    pub(crate) fn load(folder: &Path) -> Result<StaticConfig, Error> {
        let file = folder.join("config.json");
        let config: StaticConfig = read_json(&file)?;
        if !(1..=MAX_DIMENSION).contains(&config.hidden_dim) {
            let problem = format!("hidden_dim = {}: allowed are 1 to {MAX_DIMENSION}", config.hidden_dim);
            return Err(Error::model_file(&file, problem));
        }
        Ok(config)
    }
}
