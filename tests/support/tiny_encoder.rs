//! A static encoder of a few words, written into a folder in the form in which it is loaded, for tests in which an encoder must do what no
//! real one does.

use std::path::Path;

use serde_json::{Map, json};

/// Values per vector.
const DIMENSION: usize = 4;
/// A word whose vector is too long for any number: a text that holds it cannot be encoded.
pub(crate) const POISON: &str = "kaputt";

/// Writes an encoder that knows these words, each with a direction of its own as far as there are any, and `POISON`.
pub(crate) fn write_tiny_encoder(folder: &Path, words: &[&str]) {
    std::fs::create_dir_all(folder).unwrap();
    let mut vocabulary = Map::new();
    let mut table = vec![0.0_f32; DIMENSION];
    vocabulary.insert("[UNK]".to_owned(), json!(0));
    for (at, word) in words.iter().enumerate() {
        vocabulary.insert((*word).to_owned(), json!(at + 1));
        table.extend((0..DIMENSION).map(|axis| if axis == at % DIMENSION { 1.0 } else { 0.0 }));
    }
    vocabulary.insert(POISON.to_owned(), json!(words.len() + 1));
    table.extend([f32::MAX; DIMENSION]);

    let config = json!({ "model_type": "model2vec", "hidden_dim": DIMENSION });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    });
    let data: Vec<u8> = table.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = json!({ "dtype": "F32", "shape": [words.len() + 2, DIMENSION], "data_offsets": [0, data.len()] });
    let header = json!({ "embeddings": tensor }).to_string();
    let weights = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("model.safetensors"), weights).unwrap();
}
