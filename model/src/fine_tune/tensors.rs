//! The trainable network from the tensors of a Hugging Face folder, and back to them.
//!
//! In the folder a linear layer is `[outputs, inputs]` and query, key and value are three; in the network it is the other way round and
//! they are one. Both directions stand here, so that one test can hold them against each other.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::bert::config::BertConfig;
use crate::error::Error;
use crate::fine_tune::network::{TrainableBert, TrainableLayer, TrainableLinear, TrainableNorm};
use crate::weights::Weights;

/// The word table, of which the network holds only some rows.
pub(crate) const WORDS: &str = "embeddings.word_embeddings.weight";
/// The token types, of which the network holds the first.
pub(crate) const TYPES: &str = "embeddings.token_type_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";
const EMBEDDING_NORM: &str = "embeddings.LayerNorm";
const PROJECTIONS: [&str; 3] = ["query", "key", "value"];

impl TrainableBert {
    /// Takes the weights of a `BertModel`, of the word table only `rows`.
    pub(crate) fn load(
        config: &BertConfig,
        weights: Weights<'_>,
        rows: &[u32],
        device: &Device,
    ) -> Result<TrainableBert, Error> {
        let weights = weights.with_optional_prefix("bert.", WORDS);
        let hidden = config.hidden_size;
        let loader = Loader { weights, config, device };
        let table = loader.weights.values(WORDS, &[config.vocab_size, hidden])?;
        let words: Vec<f32> = rows.iter().flat_map(|row| &table[*row as usize * hidden..][..hidden]).copied().collect();
        let positions = loader.weights.values(POSITIONS, &[config.max_position_embeddings, hidden])?;
        let mut sentence_type = loader.weights.values(TYPES, &[config.type_vocab_size, hidden])?;
        sentence_type.truncate(hidden);
        Ok(TrainableBert {
            words: loader.parameter(words, [rows.len(), hidden]),
            positions: loader.parameter(positions, [config.max_position_embeddings, hidden]),
            sentence_type: loader.parameter(sentence_type, [1, hidden]),
            embedding_norm: loader.norm(EMBEDDING_NORM)?,
            layers: (0..config.num_hidden_layers).map(|layer| loader.layer(layer)).collect::<Result<_, Error>>()?,
            heads: config.num_attention_heads,
        })
    }

    /// The values of every tensor by its name in the folder; of `WORDS` and `TYPES` the rows that were loaded.
    pub(crate) fn tensors(&self) -> Result<BTreeMap<String, Vec<f32>>, Error> {
        let mut tensors = BTreeMap::new();
        let mut put = |name: String, values: Vec<f32>| tensors.insert(name, values);
        put(WORDS.to_owned(), values(self.words.val())?);
        put(POSITIONS.to_owned(), values(self.positions.val())?);
        put(TYPES.to_owned(), values(self.sentence_type.val())?);
        let mut linears = Vec::new();
        let mut norms = vec![(EMBEDDING_NORM.to_owned(), &self.embedding_norm)];
        for (number, layer) in self.layers.iter().enumerate() {
            let (weight, bias) = (layer.query_key_value.weight.val(), layer.query_key_value.bias.val());
            let hidden = weight.dims()[0];
            for (part, projection) in PROJECTIONS.into_iter().enumerate() {
                let weight = weight.clone().narrow(1, part * hidden, hidden);
                let bias = bias.clone().narrow(0, part * hidden, hidden);
                linears.push((name(number, &format!("attention.self.{projection}")), weight, bias));
            }
            for (part, linear) in [
                ("attention.output.dense", &layer.attention_output),
                ("intermediate.dense", &layer.intermediate),
                ("output.dense", &layer.output),
            ] {
                linears.push((name(number, part), linear.weight.val(), linear.bias.val()));
            }
            norms.push((name(number, "attention.output.LayerNorm"), &layer.attention_norm));
            norms.push((name(number, "output.LayerNorm"), &layer.output_norm));
        }
        for (name, weight, bias) in linears {
            put(format!("{name}.weight"), values(weight.transpose())?);
            put(format!("{name}.bias"), values(bias)?);
        }
        for (name, norm) in norms {
            put(format!("{name}.weight"), values(norm.gamma.val())?);
            put(format!("{name}.bias"), values(norm.beta.val())?);
        }
        Ok(tensors)
    }
}

/// The values of a tensor in row-major order.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    tensor.without_autodiff().try_into_vec_as::<f32>().map_err(|error| Error::fault("fine-tuning", error))
}

fn name(layer: usize, part: &str) -> String {
    format!("encoder.layer.{layer}.{part}")
}

/// Turns named tensors of the file into parameters on the device.
struct Loader<'a> {
    weights: Weights<'a>,
    config: &'a BertConfig,
    device: &'a Device,
}

impl Loader<'_> {
    fn layer(&self, layer: usize) -> Result<TrainableLayer, Error> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        Ok(TrainableLayer {
            query_key_value: self.query_key_value(&name(layer, "attention.self"))?,
            attention_output: self.linear(&name(layer, "attention.output.dense"), hidden, hidden)?,
            attention_norm: self.norm(&name(layer, "attention.output.LayerNorm"))?,
            intermediate: self.linear(&name(layer, "intermediate.dense"), inner, hidden)?,
            output: self.linear(&name(layer, "output.dense"), hidden, inner)?,
            output_norm: self.norm(&name(layer, "output.LayerNorm"))?,
        })
    }

    /// The three projections side by side, so that one product computes them all.
    fn query_key_value(&self, name: &str) -> Result<TrainableLinear, Error> {
        let hidden = self.config.hidden_size;
        let mut weight = vec![0.0; 3 * hidden * hidden];
        let mut bias = Vec::with_capacity(3 * hidden);
        for (part, projection) in PROJECTIONS.into_iter().enumerate() {
            let values = self.weights.transposed(&format!("{name}.{projection}.weight"), hidden, hidden)?;
            for (row, source) in weight.chunks_exact_mut(3 * hidden).zip(values.chunks_exact(hidden)) {
                row[part * hidden..(part + 1) * hidden].copy_from_slice(source);
            }
            bias.extend(self.weights.values(&format!("{name}.{projection}.bias"), &[hidden])?);
        }
        Ok(TrainableLinear {
            weight: self.parameter(weight, [hidden, 3 * hidden]),
            bias: self.parameter(bias, [3 * hidden]),
        })
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<TrainableLinear, Error> {
        let weight = self.weights.transposed(&format!("{name}.weight"), outputs, inputs)?;
        let bias = self.weights.values(&format!("{name}.bias"), &[outputs])?;
        Ok(TrainableLinear { weight: self.parameter(weight, [inputs, outputs]), bias: self.parameter(bias, [outputs]) })
    }

    fn norm(&self, name: &str) -> Result<TrainableNorm, Error> {
        let size = self.config.hidden_size;
        let gamma = self.weights.values(&format!("{name}.weight"), &[size])?;
        let beta = self.weights.values(&format!("{name}.bias"), &[size])?;
        let epsilon = self.config.layer_norm_eps;
        Ok(TrainableNorm { gamma: self.parameter(gamma, [size]), beta: self.parameter(beta, [size]), epsilon })
    }

    fn parameter<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }
}
