//! The BERT encoder network for accelerators: texts padded to a bucket, plain Burn operations, any float type.
//!
//! A GPU wants few launches of shapes it has seen before, where the CPU wants no padding, so the two networks are two files with the
//! same weights. Padding is masked out of attention and of the mean, and what is left over in a batch is filled with texts of one
//! token, so that no row of the softmax is empty. The mean is taken in f32 whatever the type of the network. Runs on Burn's CPU
//! backend too, where tests hold it equal to the packed network and to the reference vectors.
//!
//! Every tensor is made with its type named: the device's own default is locked by the first tensor of a process and never relied on.

use burn::tensor::activation::gelu;
use burn::tensor::module::{attention, layer_norm};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};

use crate::bert_weights::{BertWeights, LayerWeights, LinearWeights, NormWeights};
use crate::bucket::{Bucket, MAX_TEXTS, batches, padded_length};
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::text::Tokens;

/// The network with its weights on one device.
pub(crate) struct PaddedBert {
    words: Tensor<2>,
    /// As many rows as the longest bucket has tokens.
    positions: Tensor<2>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    hidden: usize,
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

struct Linear {
    weight: Tensor<2>,
    bias: Tensor<1>,
}

struct Norm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
}

impl PaddedBert {
    /// Copies the weights to the device, for texts of up to `max_tokens`.
    pub(crate) fn place(weights: &BertWeights, max_tokens: usize, device: &Device, dtype: DType) -> PaddedBert {
        let config = &weights.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let places = padded_length(max_tokens);
        // Beyond the last position there is only padding.
        let mut positions = weights.positions.clone();
        positions.resize(places * hidden, 0.0);
        let mover = Mover { epsilon: config.layer_norm_eps, device, dtype };
        let layer = |weights: &LayerWeights| Layer {
            query_key_value: mover.linear(&weights.query_key_value, hidden, 3 * hidden),
            attention_output: mover.linear(&weights.attention_output, hidden, hidden),
            attention_norm: mover.norm(&weights.attention_norm),
            intermediate: mover.linear(&weights.intermediate, hidden, inner),
            output: mover.linear(&weights.output, inner, hidden),
            output_norm: mover.norm(&weights.output_norm),
        };
        PaddedBert {
            words: mover.tensor(weights.words.clone(), [config.vocab_size, hidden]),
            positions: mover.tensor(positions, [places, hidden]),
            embedding_norm: mover.norm(&weights.embedding_norm),
            layers: weights.layers.iter().map(layer).collect(),
            heads: config.num_attention_heads,
            hidden,
            device: device.clone(),
        }
    }

    /// One unit vector per text, in the order of `tokens`, which must have been checked against vocabulary and length.
    pub(crate) fn encode(&self, tokens: &Tokens) -> Result<Embeddings, Error> {
        let mut embeddings = Embeddings::zeros(self.hidden, tokens.len());
        for texts in batches(tokens) {
            let ids: Vec<&[u32]> = texts.iter().map(|text| tokens.ids(*text)).collect();
            let means = self.encode_batch(&ids)?;
            for (text, mean) in texts.iter().zip(means.chunks_exact(self.hidden)) {
                let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                let row = &mut embeddings.data[text * self.hidden..][..self.hidden];
                row.iter_mut().zip(mean).for_each(|(out, value)| *out = value / length);
            }
        }
        Ok(embeddings)
    }

    /// The means over each text's tokens, `[texts, hidden]`, for at most `MAX_TEXTS` texts and rows of padding after them.
    fn encode_batch(&self, texts: &[&[u32]]) -> Result<Vec<f32>, Error> {
        debug_assert!(texts.len() <= MAX_TEXTS);
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(1);
        let batch = PaddedBatch::new(texts, Bucket::of(texts.len(), longest));
        let hidden = self.forward(&batch);
        let Bucket { texts: rows, length } = batch.bucket;
        let shares =
            Tensor::<3>::from_data(TensorData::new(batch.shares, [rows, length, 1]), (&self.device, DType::F32));
        let means = (hidden.reshape([rows, length, self.hidden]).cast(DType::F32) * shares).sum_dim(1);
        let data = means.try_into_data().map_err(fault)?;
        data.try_to_vec::<f32>().map_err(fault)
    }

    /// The last hidden states, `[texts * length, hidden]`.
    fn forward(&self, batch: &PaddedBatch) -> Tensor<2> {
        let Bucket { texts, length } = batch.bucket;
        let ids = TensorData::new(batch.ids.clone(), [texts * length]);
        let ids = Tensor::<1, Int>::from_data(ids, (&self.device, DType::I32));
        let words = self.words.clone().select(0, ids).reshape([texts, length, self.hidden]);
        let positions = self.positions.clone().narrow(0, 0, length).unsqueeze::<3>();
        let padding = TensorData::new(batch.padding.clone(), [texts, 1, 1, length]);
        let padding = Tensor::<4, Bool>::from_data(padding, &self.device).expand([texts, self.heads, length, length]);
        let mut hidden = self.embedding_norm.forward((words + positions).reshape([texts * length, self.hidden]));
        for layer in &self.layers {
            let context = self.attend(layer.query_key_value.forward(hidden.clone()), batch.bucket, padding.clone());
            hidden = layer.attention_norm.forward(layer.attention_output.forward(context) + hidden);
            let inner = gelu(layer.intermediate.forward(hidden.clone()));
            hidden = layer.output_norm.forward(layer.output.forward(inner) + hidden);
        }
        hidden
    }

    /// Scaled dot-product attention within each text: `[tokens, 3 * hidden]` to `[tokens, hidden]`.
    fn attend(&self, query_key_value: Tensor<2>, bucket: Bucket, padding: Tensor<4, Bool>) -> Tensor<2> {
        let Bucket { texts, length } = bucket;
        let heads = query_key_value.reshape([texts, length, 3 * self.heads, self.hidden / self.heads]).swap_dims(1, 2);
        let part = |index: usize| heads.clone().narrow(1, index * self.heads, self.heads);
        // No bias, no softcap and no scale of our own: with any of them the backend leaves its fast kernel.
        let context = attention(part(0), part(1), part(2), Some(padding), None, AttentionModuleOptions::default());
        context.swap_dims(1, 2).reshape([texts * length, self.hidden])
    }
}

/// Texts in the shape of their bucket, row-major.
struct PaddedBatch {
    bucket: Bucket,
    ids: Vec<i32>,
    /// True where there is no token.
    padding: Vec<bool>,
    /// What each token counts for in its text's mean: one over the text's length, 0 for padding.
    shares: Vec<f32>,
}

impl PaddedBatch {
    fn new(texts: &[&[u32]], bucket: Bucket) -> PaddedBatch {
        let places = bucket.texts * bucket.length;
        let (mut ids, mut padding, mut shares) = (vec![0; places], vec![true; places], vec![0.0; places]);
        for row in 0..bucket.texts {
            let text = texts.get(row).copied().unwrap_or(&[0]);
            let start = row * bucket.length;
            for (place, id) in (start..).zip(text) {
                // Checked against the vocabulary, which is far below the limit of i32.
                ids[place] = *id as i32;
                padding[place] = false;
                shares[place] = 1.0 / text.len() as f32;
            }
        }
        PaddedBatch { bucket, ids, padding, shares }
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

/// Moves numbers to the device.
struct Mover<'a> {
    epsilon: f64,
    device: &'a Device,
    dtype: DType,
}

impl Mover<'_> {
    fn linear(&self, weights: &LinearWeights, inputs: usize, outputs: usize) -> Linear {
        Linear {
            weight: self.tensor(weights.weight.clone(), [inputs, outputs]),
            bias: self.tensor(weights.bias.clone(), [outputs]),
        }
    }

    fn norm(&self, weights: &NormWeights) -> Norm {
        let size = weights.gamma.len();
        Norm {
            gamma: self.tensor(weights.gamma.clone(), [size]),
            beta: self.tensor(weights.beta.clone(), [size]),
            epsilon: self.epsilon,
        }
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), (self.device, self.dtype))
    }
}

fn fault(error: impl ToString) -> Error {
    Error::fault("encoding on a device", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_padded_with_rows_of_one_token() {
        let batch = PaddedBatch::new(&[&[5, 6, 7], &[8]], Bucket { texts: 4, length: 4 });
        assert_eq!(batch.ids, [5, 6, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let tokens: Vec<usize> = batch.padding.chunks(4).map(|row| row.iter().filter(|pad| !**pad).count()).collect();
        assert_eq!(tokens, [3, 1, 1, 1], "no row is all padding");
        for row in batch.shares.chunks(4) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
