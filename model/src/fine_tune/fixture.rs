//! For tests: a tiny BERT of random weights in the Hugging Face layout, and a task that it can learn.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::files::little_endian;
use crate::random::Random;

const HIDDEN: usize = 16;
const INNER: usize = 24;
const LAYERS: usize = 2;
const POSITIONS: usize = 12;
/// Words `w0` to `w39` behind the three special tokens.
const VOCABULARY: usize = 43;

/// Writes the folder; the tensors' names have `prefix`, as `BertFor...` classes write them.
pub(crate) fn write_tiny_bert(folder: &Path, prefix: &str) {
    let config = format!(
        r#"{{"model_type":"bert","vocab_size":{VOCABULARY},"hidden_size":{HIDDEN},"num_hidden_layers":{LAYERS},
        "num_attention_heads":2,"intermediate_size":{INNER},"max_position_embeddings":{POSITIONS},"type_vocab_size":2,
        "hidden_act":"gelu","layer_norm_eps":1e-12}}"#
    );
    std::fs::write(folder.join("config.json"), config).unwrap();
    let mut words = vec!["\"[CLS]\":0".to_owned(), "\"[SEP]\":1".to_owned(), "\"[UNK]\":2".to_owned()];
    words.extend((3..VOCABULARY).map(|id| format!("\"w{}\":{id}", id - 3)));
    let tokenizer = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{{"type":"Whitespace"}},"decoder":null,
        "post_processor":{{"type":"BertProcessing","sep":["[SEP]",1],"cls":["[CLS]",0]}},
        "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"[UNK]"}}}}"#,
        words.join(",")
    );
    std::fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();

    let mut random = Random::new(7);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes()
        .into_iter()
        .map(|(name, shape)| {
            let norm = name.contains("LayerNorm.weight");
            let value = |random: &mut Random| random.signed() * 0.4 + if norm { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|_| value(&mut random)).collect();
            (format!("{prefix}{name}"), shape, little_endian(&values))
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The name and shape of every tensor.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, HIDDEN]),
        ("pooler.dense.weight".to_owned(), vec![HIDDEN, HIDDEN]),
    ];
    let mut pair = |name: String, outputs: usize, inputs: Option<usize>| {
        shapes.push((format!("{name}.weight"), std::iter::once(outputs).chain(inputs).collect()));
        shapes.push((format!("{name}.bias"), vec![outputs]));
    };
    pair("embeddings.LayerNorm".to_owned(), HIDDEN, None);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        for projection in ["query", "key", "value"] {
            pair(name(&format!("attention.self.{projection}")), HIDDEN, Some(HIDDEN));
        }
        pair(name("attention.output.dense"), HIDDEN, Some(HIDDEN));
        pair(name("attention.output.LayerNorm"), HIDDEN, None);
        pair(name("intermediate.dense"), INNER, Some(HIDDEN));
        pair(name("output.dense"), HIDDEN, Some(INNER));
        pair(name("output.LayerNorm"), HIDDEN, None);
    }
    shapes
}

/// Texts of four classes by which two of four words they have, among words that say nothing.
pub(crate) fn task(texts: usize) -> Vec<(String, usize)> {
    let mut random = Random::new(11);
    let mut below = |bound: usize| ((random.signed() + 1.0) * 0.4999 * bound as f32) as usize;
    (0..texts)
        .map(|text| {
            let class = text % 4;
            let noise: Vec<String> = (0..3 + below(4)).map(|_| format!("w{}", 4 + below(36))).collect();
            (format!("w{} {} w{}", class / 2, noise.join(" "), 2 + class % 2), class)
        })
        .collect()
}
