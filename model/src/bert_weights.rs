//! The numbers of a BERT network by their places in it, read from a weights file and not yet on any device.
//!
//! Every device has its own copy made of these. Linear layers are stored `[inputs, outputs]`, query, key and value side by side as one
//! layer, and the token types are folded into the positions (one sentence, all of type 0).

use crate::bert_config::BertConfig;
use crate::error::Error;
use crate::weights::Weights;

/// All that a forward needs.
#[derive(Debug)]
pub(crate) struct BertWeights {
    pub(crate) config: BertConfig,
    /// `[vocabulary, hidden]`.
    pub(crate) words: Vec<f32>,
    /// `[positions, hidden]`.
    pub(crate) positions: Vec<f32>,
    pub(crate) embedding_norm: NormWeights,
    pub(crate) layers: Vec<LayerWeights>,
}

#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) query_key_value: LinearWeights,
    pub(crate) attention_output: LinearWeights,
    pub(crate) attention_norm: NormWeights,
    pub(crate) intermediate: LinearWeights,
    pub(crate) output: LinearWeights,
    pub(crate) output_norm: NormWeights,
}

/// `x · weight + bias`.
#[derive(Debug)]
pub(crate) struct LinearWeights {
    /// `[inputs, outputs]`.
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`.
    pub(crate) bias: Vec<f32>,
}

#[derive(Debug)]
pub(crate) struct NormWeights {
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

impl BertWeights {
    /// Takes the weights of a `BertModel`, with or without the `bert.` prefix that `BertFor...` classes write.
    pub(crate) fn read(config: &BertConfig, weights: Weights<'_>) -> Result<BertWeights, Error> {
        let weights = weights.with_optional_prefix("bert.", "embeddings.word_embeddings.weight");
        let hidden = config.hidden_size;
        let words = weights.values("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let mut positions =
            weights.values("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let types = weights.values("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types[..hidden]).for_each(|(position, first_type)| *position += first_type);
        }
        let embedding_norm = norm(&weights, "embeddings.LayerNorm", hidden)?;
        let layers = (0..config.num_hidden_layers).map(|index| layer(&weights, index, config));
        let layers = layers.collect::<Result<_, Error>>()?;
        Ok(BertWeights { config: config.clone(), words, positions, embedding_norm, layers })
    }
}

fn layer(weights: &Weights<'_>, layer: usize, config: &BertConfig) -> Result<LayerWeights, Error> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let name = |part: &str| format!("encoder.layer.{layer}.{part}");
    Ok(LayerWeights {
        query_key_value: query_key_value(weights, &name("attention.self"), hidden)?,
        attention_output: linear(weights, &name("attention.output.dense"), hidden, hidden)?,
        attention_norm: norm(weights, &name("attention.output.LayerNorm"), hidden)?,
        intermediate: linear(weights, &name("intermediate.dense"), inner, hidden)?,
        output: linear(weights, &name("output.dense"), hidden, inner)?,
        output_norm: norm(weights, &name("output.LayerNorm"), hidden)?,
    })
}

/// The three projections side by side, so that one product computes them all.
fn query_key_value(weights: &Weights<'_>, name: &str, hidden: usize) -> Result<LinearWeights, Error> {
    let mut weight = vec![0.0; 3 * hidden * hidden];
    let mut bias = Vec::with_capacity(3 * hidden);
    for (part, projection) in ["query", "key", "value"].into_iter().enumerate() {
        let values = weights.transposed(&format!("{name}.{projection}.weight"), hidden, hidden)?;
        for (row, source) in weight.chunks_exact_mut(3 * hidden).zip(values.chunks_exact(hidden)) {
            row[part * hidden..(part + 1) * hidden].copy_from_slice(source);
        }
        bias.extend(weights.values(&format!("{name}.{projection}.bias"), &[hidden])?);
    }
    Ok(LinearWeights { weight, bias })
}

fn linear(weights: &Weights<'_>, name: &str, outputs: usize, inputs: usize) -> Result<LinearWeights, Error> {
    Ok(LinearWeights {
        weight: weights.transposed(&format!("{name}.weight"), outputs, inputs)?,
        bias: weights.values(&format!("{name}.bias"), &[outputs])?,
    })
}

fn norm(weights: &Weights<'_>, name: &str, size: usize) -> Result<NormWeights, Error> {
    Ok(NormWeights {
        gamma: weights.values(&format!("{name}.weight"), &[size])?,
        beta: weights.values(&format!("{name}.bias"), &[size])?,
    })
}
