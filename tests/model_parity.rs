//! The model gives the answers it must: vectors equal to an independent float64 forward, batched equals single, and damaged model
//! folders are refused by file and tensor.
//!
//! Needs the weights of minilm-l6, potion and me5-small; `larder model get` puts them where these tests look.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use larder_model::{Devices, Encoder, EncoderConfig, Error, ModelConfig};
use serde_json::Value;

use crate::support::{encoder_folder, model_folder};

fn config(folder: &Path) -> EncoderConfig {
    EncoderConfig { folder: folder.to_owned(), ..EncoderConfig::default() }
}

fn load(config: &EncoderConfig) -> Result<Encoder, Error> {
    Encoder::load(config, &Devices::open(&ModelConfig::default()).unwrap())
}

/// One encoder for all tests; loading it takes a second.
pub(crate) fn encoder() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| load(&config(&encoder_folder())).unwrap())
}

fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Compares an encoder with what an independent float64 forward gave for the same weights. The reference's texts hold the prefix.
fn check_reference(golden: &str, encoder: &Encoder, prefix: &str) {
    let golden: Value = serde_json::from_str(golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap().strip_prefix(prefix).unwrap();
        let tokens = encoder.tokenize(&[text]).unwrap();
        let ids: Vec<u64> = tokens.ids(0).iter().map(|id| u64::from(*id)).collect();
        assert_eq!(serde_json::json!(ids), case["ids"], "{text}");
        let expected: Vec<f32> =
            case["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let found = encoder.encode(&tokens).unwrap();
        let difference = largest_difference(found.row(0), &expected);
        assert!(difference <= 1e-4, "{text}: {difference}");
    }
}

#[test]
fn ids_and_vectors_equal_the_reference() {
    check_reference(include_str!("golden/minilm-l6.json"), encoder(), "");
}

#[test]
fn a_static_encoder_equals_the_reference() {
    let encoder = load(&config(&model_folder("potion"))).unwrap();
    check_reference(include_str!("golden/potion.json"), &encoder, "");
    assert_eq!((encoder.dimension(), encoder.memory_bytes()), (256, 29_528 * 256 * 4));
    assert!(encoder.name().starts_with("static-256-"), "{}", encoder.name());
}

#[test]
fn a_multilingual_encoder_equals_the_reference() {
    let prefix = "query: ";
    let encoder = load(&EncoderConfig { prefix: prefix.to_owned(), ..config(&model_folder("me5-small")) }).unwrap();
    check_reference(include_str!("golden/me5-small.json"), &encoder, prefix);
}

#[test]
fn a_static_encoder_reads_the_words_it_knows_and_nothing_else() {
    let config = EncoderConfig { max_tokens: 8, max_text_bytes: 64, ..config(&model_folder("potion")) };
    let encoder = load(&config).unwrap();
    let known = "parcel ".repeat(8);
    let texts =
        ["parcel", "parcel \u{1F4E6}\u{1F4E6}", "\u{1F4E6}", "", &known, &format!("{known}parcel"), &"x".repeat(65)];
    let tokens = encoder.tokenize(&texts).unwrap();
    let lengths: Vec<usize> = (0..texts.len()).map(|text| tokens.ids(text).len()).collect();
    assert_eq!(lengths[..6], [1, 1, 0, 0, 8, 8], "no frame, nothing unknown");
    let cut: Vec<bool> = (0..texts.len()).map(|text| tokens.truncated(text)).collect();
    assert_eq!(cut, [false, false, false, false, false, true, true]);

    let vectors = encoder.encode(&tokens).unwrap();
    assert_eq!(vectors.row(0), vectors.row(1), "what is unknown says nothing");
    assert!(largest_difference(vectors.row(0), vectors.row(5)) < 1e-6);
    for nothing in [2, 3] {
        assert!(vectors.row(nothing).iter().all(|value| *value == 0.0), "zero, and never NaN");
    }
    assert!(self::encoder().encode(&tokens).is_err(), "a text without any token is none of minilm-l6's");
}

#[test]
fn the_prefix_counts_as_text() {
    let with = |prefix: &str| {
        load(&EncoderConfig { prefix: prefix.to_owned(), max_text_bytes: 64, ..config(&model_folder("potion")) })
    };
    let (plain, prefixed) = (with("").unwrap(), with("query: ").unwrap());
    assert_eq!(plain.encode_texts(&["query: parcel"]).unwrap(), prefixed.encode_texts(&["parcel"]).unwrap());
    assert_ne!(plain.name(), prefixed.name());
    for (length, cut) in [(57, false), (58, true)] {
        let text = "a".repeat(length);
        assert!(!plain.tokenize(&[&text]).unwrap().truncated(0));
        assert_eq!(prefixed.tokenize(&[&text]).unwrap().truncated(0), cut, "{length} bytes after 7 of 64");
    }
}

/// Lengths from 2 to the limit, in no order, many of them equal, more than one micro-batch.
fn texts_of_many_lengths() -> Vec<String> {
    let words = ["where", "is", "my", "order", "the", "parcel", "was", "due", "on", "Tuesday", "refund", "card"];
    (0..40_usize)
        .map(|text| {
            (0..(text * 37) % 301).map(|word| words[(text * 7 + word * 5) % words.len()]).collect::<Vec<_>>().join(" ")
        })
        .chain(std::iter::repeat_n("where is it?".to_owned(), 8))
        .collect()
}

#[test]
fn batched_equals_single() {
    let texts = texts_of_many_lengths();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let batched = encoder().encode_texts(&texts).unwrap();
    assert_eq!(batched.len(), texts.len());
    for (row, text) in texts.iter().enumerate() {
        let single = encoder().encode_texts(&[text]).unwrap();
        assert_eq!(batched.row(row), single.row(0), "text {row}, to the last bit");
        let length = batched.row(row).iter().map(|v| v * v).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-5, "text {row} has length {length}");
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let texts = texts_of_many_lengths();
    let tokens = encoder().tokenize(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert_eq!(encoder().encode(&tokens).unwrap(), encoder().encode(&tokens).unwrap());
}

#[test]
fn long_texts_are_cut_and_keep_their_frame() {
    let long = "parcel ".repeat(400);
    let huge = format!("{}{}", "\u{1F4E6}".repeat(50_000), "x");
    let tokens = encoder().tokenize(&["parcel", &long, "", &huge]).unwrap();
    assert_eq!((0..4).map(|text| tokens.truncated(text)).collect::<Vec<_>>(), [false, true, false, true]);
    let (short, cut) = (tokens.ids(0), tokens.ids(1));
    assert_eq!(cut.len(), 256);
    assert_eq!((cut[0], cut[255]), (short[0], short[2]), "[CLS] and [SEP] stay");
    assert!(cut[1..255].iter().all(|id| *id == short[1]));
    assert_eq!(tokens.ids(2), [short[0], short[2]], "an empty text is its frame");
    assert_eq!(encoder().encode(&tokens).unwrap().len(), 4);
    assert!(encoder().encode(&encoder().tokenize(&[]).unwrap()).unwrap().is_empty());
}

/// A copy of the model folder in which `change` has broken one file.
fn broken(change: impl FnOnce(&Path)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(encoder_folder().join(file), folder.path().join(file)).unwrap();
    }
    change(folder.path());
    load(&config(folder.path())).unwrap_err()
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from));
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn damaged_folders_are_refused_by_file_and_tensor() {
    let says = |error: Error, parts: &[&str]| {
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    says(broken(|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap()), &["cannot read", "tokenizer.json"]);
    says(
        broken(|folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap()),
        &["tokenizer.json", "not a usable tokenizer"],
    );
    says(
        broken(|folder| {
            let weights = fs::OpenOptions::new().write(true).open(folder.join("model.safetensors")).unwrap();
            weights.set_len(40_000_000).unwrap();
        }),
        &["model.safetensors", "truncated"],
    );
    says(
        broken(|folder| edit(&folder.join("config.json"), "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7")),
        &["model.safetensors", "encoder.layer.6.attention.self.query.weight", "missing"],
    );
    says(
        broken(|folder| {
            edit(&folder.join("config.json"), "\"intermediate_size\": 1536", "\"intermediate_size\": 1024");
        }),
        &["encoder.layer.0.intermediate.dense.weight", "[1536, 384]", "[1024, 384]"],
    );
    says(
        broken(|folder| edit(&folder.join("config.json"), "\"gelu\"", "\"relu\"")),
        &["config.json", "hidden_act", "relu"],
    );
    says(
        broken(|folder| edit(&folder.join("config.json"), "\"vocab_size\"", "\"words\"")),
        &["config.json", "vocab_size"],
    );
    says(broken(|folder| fs::remove_file(folder.join("config.json")).unwrap()), &["cannot read", "config.json"]);

    says(
        broken(|folder| edit(&folder.join("config.json"), "\"bert\"", "\"gpt2\"")),
        &["config.json", "model_type", "gpt2", "model2vec"],
    );

    let too_long = load(&EncoderConfig { max_tokens: 600, ..config(&encoder_folder()) }).unwrap_err();
    says(too_long, &["max_tokens", "600", "512"]);
}

#[test]
fn an_encoder_that_makes_other_vectors_has_another_name() {
    let name = |config: &EncoderConfig| load(config).unwrap().name().to_owned();
    let usual = config(&encoder_folder());
    assert_eq!(name(&usual), encoder().name());
    let narrow = Devices::open(&ModelConfig { threads: 1, micro_batch_tokens: 64, ..ModelConfig::default() }).unwrap();
    assert_eq!(Encoder::load(&usual, &narrow).unwrap().name(), encoder().name());
    assert_ne!(
        name(&EncoderConfig { max_tokens: 64, ..usual.clone() }),
        encoder().name(),
        "long texts are cut elsewhere"
    );

    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(encoder_folder().join(file), folder.path().join(file)).unwrap();
    }
    assert_eq!(name(&config(folder.path())), encoder().name(), "the folder does not matter");
    edit(&folder.path().join("config.json"), "\"num_attention_heads\": 12", "\"num_attention_heads\": 6");
    assert_ne!(name(&config(folder.path())), encoder().name(), "other heads, other vectors");
}
