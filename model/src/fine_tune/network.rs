//! The BERT network written to be trained: the arithmetic of `bert` on packed tokens, every weight a parameter with a gradient.
//!
//! It stands beside `bert` because that one's fused loops know no gradients, and because training keeps every intermediate result. Only
//! the rows of the word table that the training texts use are here: the others would get no gradient, but cost an optimizer step each.
//! Reference: Devlin et al. 2019, "BERT".

use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::module::{layer_norm, linear};
use burn::tensor::{Int, Tensor, TensorData};

use crate::fine_tune::dropout::Dropout;

/// Keeps the length of an all-zero vector from being divided by.
const SMALLEST_LENGTH: f32 = 1e-12;

/// The network with its weights on one device.
#[derive(Module, Debug)]
pub(crate) struct TrainableBert {
    /// `[used rows of the vocabulary, hidden]`.
    pub(crate) words: Param<Tensor<2>>,
    pub(crate) positions: Param<Tensor<2>>,
    /// `[1, hidden]`: every text is one sentence, of type 0.
    pub(crate) sentence_type: Param<Tensor<2>>,
    pub(crate) embedding_norm: TrainableNorm,
    pub(crate) layers: Vec<TrainableLayer>,
    pub(crate) heads: usize,
}

#[derive(Module, Debug)]
pub(crate) struct TrainableLayer {
    pub(crate) query_key_value: TrainableLinear,
    pub(crate) attention_output: TrainableLinear,
    pub(crate) attention_norm: TrainableNorm,
    pub(crate) intermediate: TrainableLinear,
    pub(crate) output: TrainableLinear,
    pub(crate) output_norm: TrainableNorm,
}

/// `x · weight + bias`, the weight kept `[inputs, outputs]`.
#[derive(Module, Debug)]
pub(crate) struct TrainableLinear {
    pub(crate) weight: Param<Tensor<2>>,
    pub(crate) bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
pub(crate) struct TrainableNorm {
    pub(crate) gamma: Param<Tensor<1>>,
    pub(crate) beta: Param<Tensor<1>>,
    pub(crate) epsilon: f64,
}

/// Texts that go through the network together, packed one after the other in order of their lengths.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TextBatch {
    /// Rows of the network's word table.
    pub(crate) words: Vec<u32>,
    /// Tokens of each text, none 0, in ascending order.
    pub(crate) lengths: Vec<usize>,
}

impl TrainableBert {
    /// One unit vector per text, `[texts, hidden]`: the mean of its last hidden states, scaled to length 1.
    pub(crate) fn forward(&self, batch: &TextBatch, dropout: &mut Dropout) -> Tensor<2> {
        let positions = batch.lengths.iter().flat_map(|length| 0..*length as u32);
        let words = self.words.val().select(0, self.indices(batch.words.iter().copied()));
        let words = dropout.apply_to_words(words);
        let positions = self.positions.val().select(0, self.indices(positions));
        let mut hidden = self.embedding_norm.forward(words + positions + self.sentence_type.val());
        hidden = dropout.apply(hidden);
        for layer in &self.layers {
            let context = self.attend(&layer.query_key_value.forward(hidden.clone()), &batch.lengths, dropout);
            let attended = dropout.apply(layer.attention_output.forward(context));
            hidden = layer.attention_norm.forward(hidden + attended);
            let inner = gelu(layer.intermediate.forward(hidden.clone()));
            let outer = dropout.apply(layer.output.forward(inner));
            hidden = layer.output_norm.forward(hidden + outer);
        }
        unit(means(&hidden, &batch.lengths))
    }

    /// Scaled dot-product attention within each text: `[tokens, 3 * hidden]` to `[tokens, hidden]`.
    fn attend(&self, query_key_value: &Tensor<2>, lengths: &[usize], dropout: &mut Dropout) -> Tensor<2> {
        let hidden = query_key_value.dims()[1] / 3;
        let head_size = hidden / self.heads;
        let contexts = runs(lengths).map(|(first_row, texts, length)| {
            let heads = query_key_value
                .clone()
                .narrow(0, first_row, texts * length)
                .reshape([texts, length, 3 * self.heads, head_size])
                .swap_dims(1, 2);
            let part = |index: usize| heads.clone().narrow(1, index * self.heads, self.heads);
            let scores = (part(0) * (head_size as f32).powf(-0.5)).matmul(part(1).swap_dims(2, 3));
            let context = dropout.apply(softmax(scores, 3)).matmul(part(2));
            context.swap_dims(1, 2).reshape([texts * length, hidden])
        });
        Tensor::cat(contexts.collect(), 0)
    }

    fn indices(&self, values: impl Iterator<Item = u32>) -> Tensor<1, Int> {
        let values: Vec<i64> = values.map(i64::from).collect();
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), &self.words.device())
    }
}

impl TrainableLinear {
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        linear(input, self.weight.val(), Some(self.bias.val()))
    }
}

impl TrainableNorm {
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        layer_norm(input, self.gamma.val(), Some(self.beta.val()), self.epsilon)
    }
}

/// Each row scaled to length 1.
pub(crate) fn unit(rows: Tensor<2>) -> Tensor<2> {
    let lengths = rows.clone().square().sum_dim(1).add_scalar(SMALLEST_LENGTH).sqrt();
    rows / lengths
}

/// The mean of each text's rows: `[tokens, hidden]` to `[texts, hidden]`.
fn means(hidden: &Tensor<2>, lengths: &[usize]) -> Tensor<2> {
    let width = hidden.dims()[1];
    let means = runs(lengths).map(|(first_row, texts, length)| {
        let rows = hidden.clone().narrow(0, first_row, texts * length).reshape([texts, length, width]);
        rows.mean_dim(1).reshape([texts, width])
    });
    Tensor::cat(means.collect(), 0)
}

/// Neighbours of equal length: the first row, how many texts, and the length of each.
fn runs(lengths: &[usize]) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut next_row = 0;
    lengths.chunk_by(|one, next| one == next).map(move |run| {
        let first_row = next_row;
        next_row += run.len() * run[0];
        (first_row, run.len(), run[0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::{ModuleMapper, ModuleVisitor};
    use burn::optim::GradientsParams;
    use burn::tensor::Device;

    use crate::bert::config::BertConfig;
    use crate::embeddings::Embeddings;
    use crate::fine_tune::fixture::write_tiny_bert;
    use crate::fine_tune::objective::ClassDirections;
    use crate::fine_tune::tensors::values;
    use crate::weights::WeightsFile;
    use crate::{Devices, Encoder, EncoderConfig, ModelConfig};

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_bert(folder.path(), "");
        folder
    }

    fn network(folder: &tempfile::TempDir, rows: &[u32]) -> TrainableBert {
        let config = BertConfig::load(folder.path()).unwrap();
        let weights = WeightsFile::read(&folder.path().join("model.safetensors")).unwrap();
        TrainableBert::load(&config, weights.tensors().unwrap(), rows, &Device::flex().autodiff()).unwrap()
    }

    /// Three texts, two of one length, of the vocabulary's first rows.
    fn batch() -> TextBatch {
        TextBatch { words: vec![0, 5, 1, 0, 3, 4, 1, 0, 5, 2, 1], lengths: vec![3, 4, 4] }
    }

    #[test]
    fn without_dropout_it_computes_what_the_encoder_does() {
        let folder = folder();
        let config = EncoderConfig { folder: folder.path().to_owned(), max_tokens: 12, ..EncoderConfig::default() };
        let devices = Devices::open(&ModelConfig { full: config.clone(), ..ModelConfig::default() }).unwrap();
        let encoder = Encoder::load(&config, &devices).unwrap();
        let expected = encoder.encode_texts(&["w2", "w0 w1", "w2 zzz"]).unwrap();
        let found = values(network(&folder, &[0, 1, 2, 3, 4, 5]).forward(&batch(), &mut Dropout::off())).unwrap();
        assert!(found.iter().zip(&expected.data).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {expected:?}");
    }

    /// Adds to one value of one parameter, both counted over the module.
    struct Nudge {
        parameter: usize,
        value: usize,
        by: f32,
    }

    impl ModuleMapper for Nudge {
        fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let mine = self.parameter == 0;
            self.parameter = self.parameter.wrapping_sub(1);
            if !mine {
                return parameter;
            }
            parameter.map(|tensor| {
                let (device, shape) = (tensor.device(), tensor.shape());
                let mut changed = values(tensor).unwrap();
                changed[self.value] += self.by;
                Tensor::from_data(TensorData::new(changed, shape), &device)
            })
        }
    }

    /// The gradients of all parameters, in the module's order.
    struct Collect<'a> {
        gradients: &'a GradientsParams,
        found: Vec<Vec<f32>>,
    }

    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            let gradient: Tensor<D> = self.gradients.get(parameter.id).unwrap();
            self.found.push(values(gradient).unwrap());
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let folder = folder();
        let network = network(&folder, &[0, 1, 2, 3, 4, 5]);
        let labels = [0, 1, 2];
        let vectors = values(network.forward(&batch(), &mut Dropout::off())).unwrap();
        let vectors = Embeddings { dimension: 16, data: vectors.iter().rev().copied().collect() };
        let directions = ClassDirections::means(&vectors, &labels, 3, &Device::flex().autodiff());
        let loss =
            |network: &TrainableBert| directions.loss(network.forward(&batch(), &mut Dropout::off()), &labels, 0.1);
        let gradients = GradientsParams::from_grads(loss(&network).backward(), &network);
        let mut collect = Collect { gradients: &gradients, found: Vec::new() };
        network.visit(&mut collect);
        assert_eq!(collect.found.len(), 3 + 2 + 2 * 12);
        let step = 4e-3;
        for (parameter, gradient) in collect.found.iter().enumerate() {
            // Every parameter at its steepest value and at two others.
            let steepest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs()));
            for value in [steepest.unwrap(), gradient.len() / 3, gradient.len() - 1] {
                let at = |by: f32| {
                    let nudged = network.clone().map(&mut Nudge { parameter, value, by });
                    values(loss(&nudged)).unwrap()[0]
                };
                let expected = (at(step) - at(-step)) / (2.0 * step);
                let difference = (gradient[value] - expected).abs();
                assert!(
                    difference < 0.02 * expected.abs() + 3e-4,
                    "parameter {parameter} value {value}: {} against {expected}",
                    gradient[value]
                );
            }
        }
    }
}
