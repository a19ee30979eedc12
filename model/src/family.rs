//! Which family of encoders a model folder holds, by `model_type` of its config.json.
//!
//! Each family reads the rest of the file itself (`bert/config`, `static_encoder/config`). A family that this crate does not run is refused by name
//! before any weight is read.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bert::config::BertConfig;
use crate::error::Error;
use crate::static_encoder::config::StaticConfig;

/// The largest config.json that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The family of a model folder, with what its config.json says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Family {
    /// A transformer; every token sees every other.
    Bert(BertConfig),
    /// A table of token vectors; a text is their mean.
    Static(StaticConfig),
}

#[derive(Deserialize)]
struct ModelType {
    model_type: String,
}

impl Family {
    /// Reads and checks `config.json`.
    pub(crate) fn load(folder: &Path) -> Result<Family, Error> {
        let file = folder.join("config.json");
        match read_json::<ModelType>(&file)?.model_type.as_str() {
            "bert" => BertConfig::load(folder).map(Family::Bert),
            "model2vec" => StaticConfig::load(folder).map(Family::Static),
            other => {
                let problem = format!("model_type = {other:?}: only \"bert\" and \"model2vec\" are supported");
                Err(Error::model_file(&file, problem))
            }
        }
    }
}

/// Reads one of a folder's JSON files.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, Error> {
    let size = std::fs::metadata(file).map_err(|source| Error::reading(file, source))?.len();
    if size > MAX_CONFIG_BYTES {
        return Err(Error::model_file(file, format!("{size} bytes; at most {MAX_CONFIG_BYTES} are read")));
    }
    let text = std::fs::read_to_string(file).map_err(|source| Error::reading(file, source))?;
    serde_json::from_str(&text).map_err(|error| Error::model_file(file, error.to_string()))
}
