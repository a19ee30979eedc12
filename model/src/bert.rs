//! The BERT encoder network on packed tokens: activations are `[sum of tokens, hidden]`, so no padding is ever computed.
//!
//! Linear layers and norms work on all tokens of a micro-batch at once; only attention looks at sequences, and neighbours of equal
//! length share one attention call (the caller sorts by length). Because every token's arithmetic is the same whatever else is in the
//! batch, a text encoded in a batch equals the same text encoded alone. Query, key and value are one matrix product.
//!
//! Dropout is absent (inference), token types are folded into the position table (one sentence, all of type 0), and the pooler is not
//! used by sentence encoders. Reference: Devlin et al. 2019, "BERT", and `BertModel` of the transformers library.

use burn::tensor::module::{attention, layer_norm};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::bert_config::BertConfig;
use crate::error::Error;
use crate::gelu::bias_gelu;
use crate::weights::Weights;

/// The network with its weights on one device.
pub(crate) struct Bert {
    words: Tensor<2>,
    positions: Tensor<2>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    head_size: usize,
    device: Device,
}

struct Layer {
    query_key_value: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

/// `x · weight + bias`, the weight stored `[inputs, outputs]`.
struct Linear {
    weight: Tensor<2>,
    bias: Tensor<1>,
}

struct Norm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
}

impl Bert {
    /// Takes the weights of a `BertModel`, with or without the `bert.` prefix that `BertFor...` classes write.
    pub(crate) fn load(config: &BertConfig, weights: Weights<'_>, device: &Device) -> Result<Bert, Error> {
        let weights = weights.with_optional_prefix("bert.", "embeddings.word_embeddings.weight");
        let hidden = config.hidden_size;
        let loader = Loader { weights, epsilon: config.layer_norm_eps, device };
        let words = loader.weights.values("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let mut positions = loader
            .weights
            .values("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let types =
            loader.weights.values("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types[..hidden]).for_each(|(position, first_type)| *position += first_type);
        }
        let layers =
            (0..config.num_hidden_layers).map(|layer| loader.layer(layer, config)).collect::<Result<_, Error>>()?;
        Ok(Bert {
            words: loader.tensor(words, [config.vocab_size, hidden]),
            positions: loader.tensor(positions, [config.max_position_embeddings, hidden]),
            embedding_norm: loader.norm("embeddings.LayerNorm", hidden)?,
            layers,
            heads: config.num_attention_heads,
            head_size: config.head_size(),
            device: device.clone(),
        })
    }

    /// The last hidden states `[sum of lengths, hidden]` of packed sequences.
    ///
    /// `ids` holds the sequences one after the other, `lengths` their lengths in the same order, none of them 0. Every id must be below
    /// the vocabulary size and every length within the position table.
    pub(crate) fn forward(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor<2>, Error> {
        let positions = lengths.iter().flat_map(|length| 0..*length as u32);
        let words = self.words.clone().select(0, self.indices(ids.iter().copied()));
        let positions = self.positions.clone().select(0, self.indices(positions));
        let mut hidden = self.embedding_norm.forward(words + positions);
        for layer in &self.layers {
            let context = self.attend(&layer.query_key_value.forward(hidden.clone()), lengths);
            hidden = layer.attention_norm.forward(layer.attention_output.forward(context) + hidden);
            let inner = bias_gelu(hidden.clone().matmul(layer.intermediate.weight.clone()), &layer.intermediate.bias)?;
            hidden = layer.output_norm.forward(layer.output.forward(inner) + hidden);
        }
        Ok(hidden)
    }

    /// Scaled dot-product attention within each sequence: `[tokens, 3 * hidden]` to `[tokens, hidden]`.
    fn attend(&self, query_key_value: &Tensor<2>, lengths: &[usize]) -> Tensor<2> {
        let mut contexts = Vec::new();
        let mut first_row = 0;
        for run in lengths.chunk_by(|one, next| one == next) {
            let (sequences, length) = (run.len(), run[0]);
            let rows = sequences * length;
            let heads = query_key_value
                .clone()
                .narrow(0, first_row, rows)
                .reshape([sequences, length, 3 * self.heads, self.head_size])
                .swap_dims(1, 2);
            let part = |index: usize| heads.clone().narrow(1, index * self.heads, self.heads);
            let context = attention(part(0), part(1), part(2), None, None, AttentionModuleOptions::default());
            contexts.push(context.swap_dims(1, 2).reshape([rows, self.heads * self.head_size]));
            first_row += rows;
        }
        match contexts.len() {
            1 => contexts.remove(0),
            _ => Tensor::cat(contexts, 0),
        }
    }

    fn indices(&self, values: impl Iterator<Item = u32>) -> Tensor<1, Int> {
        let values: Vec<i64> = values.map(i64::from).collect();
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), &self.device)
    }
}

impl Linear {
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        input.matmul(self.weight.clone()) + self.bias.clone().unsqueeze()
    }
}

impl Norm {
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        layer_norm(input, self.gamma.clone(), Some(self.beta.clone()), self.epsilon)
    }
}

/// Turns named tensors of the file into layers on the device.
struct Loader<'a> {
    weights: Weights<'a>,
    epsilon: f64,
    device: &'a Device,
}

impl Loader<'_> {
    fn layer(&self, layer: usize, config: &BertConfig) -> Result<Layer, Error> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        Ok(Layer {
            query_key_value: self.query_key_value(&name("attention.self"), hidden)?,
            attention_output: self.linear(&name("attention.output.dense"), hidden, hidden)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            intermediate: self.linear(&name("intermediate.dense"), inner, hidden)?,
            output: self.linear(&name("output.dense"), hidden, inner)?,
            output_norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }

    /// The three projections side by side, so that one product computes them all.
    fn query_key_value(&self, name: &str, hidden: usize) -> Result<Linear, Error> {
        let mut weight = vec![0.0; 3 * hidden * hidden];
        let mut bias = Vec::with_capacity(3 * hidden);
        for (part, projection) in ["query", "key", "value"].into_iter().enumerate() {
            let values = self.weights.transposed(&format!("{name}.{projection}.weight"), hidden, hidden)?;
            for (row, source) in weight.chunks_exact_mut(3 * hidden).zip(values.chunks_exact(hidden)) {
                row[part * hidden..(part + 1) * hidden].copy_from_slice(source);
            }
            bias.extend(self.weights.values(&format!("{name}.{projection}.bias"), &[hidden])?);
        }
        Ok(Linear { weight: self.tensor(weight, [hidden, 3 * hidden]), bias: self.tensor(bias, [3 * hidden]) })
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, Error> {
        let weight = self.weights.transposed(&format!("{name}.weight"), outputs, inputs)?;
        let bias = self.weights.values(&format!("{name}.bias"), &[outputs])?;
        Ok(Linear { weight: self.tensor(weight, [inputs, outputs]), bias: self.tensor(bias, [outputs]) })
    }

    fn norm(&self, name: &str, size: usize) -> Result<Norm, Error> {
        let gamma = self.weights.values(&format!("{name}.weight"), &[size])?;
        let beta = self.weights.values(&format!("{name}.bias"), &[size])?;
        Ok(Norm { gamma: self.tensor(gamma, [size]), beta: self.tensor(beta, [size]), epsilon: self.epsilon })
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }
}
