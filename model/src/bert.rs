//! The BERT encoder network on the CPU, on packed tokens: activations are `[sum of tokens, hidden]`, so no padding is ever computed.
//!
//! Linear layers and norms work on all tokens of a micro-batch at once; only attention looks at sequences. A layer is four products and no other
//! pass over memory than attention and the two norms: bias, GELU and residual are applied where the products end (`cpu`). Because
//! every token's arithmetic is the same whatever else is in the batch, a text encoded in a batch equals the same text encoded alone, to the last
//! bit.
//!
//! Folded into the weights when they are packed, because none of it changes an answer: the scale of attention into the query's weights; the key's bias, which adds the same to every score of a row, into nothing;
//! the value's bias, which attention passes on whole, into the bias of the projection behind it. Dropout is absent (inference), and the
//! pooler is not used by sentence encoders. Reference: Devlin et al. 2019, "BERT", and `BertModel` of the transformers library.

pub(crate) mod config;
pub(crate) mod weights;

use crate::bert::config::BertConfig;
use crate::bert::weights::{BertWeights, LayerWeights, LinearWeights, NormWeights};
use crate::cpu::{After, Attention, InstructionSet, PackedMatrix, attend, layer_norm};

/// The network with its weights.
pub(crate) struct Bert {
    instructions: InstructionSet,
    hidden: usize,
    attention: Attention,
    /// `[vocabulary, hidden]`
    words: Vec<f32>,
    /// `[positions, hidden]`
    positions: Vec<f32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    query_key_value: PackedMatrix,
    attention_output: PackedMatrix,
    attention_norm: Norm,
    intermediate: PackedMatrix,
    output: PackedMatrix,
    output_norm: Norm,
}

struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    epsilon: f32,
}

/// The room that a forward needs, used again by the next one: fresh memory for every call would be a tenth of its time.
#[derive(Default)]
pub(crate) struct Workspace {
    hidden: Vec<f32>,
    projected: Vec<f32>,
    context: Vec<f32>,
    inner: Vec<f32>,
    attention: Vec<f32>,
    shared: Vec<f32>,
}

/// Who computes a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The calling thread alone, while others compute other texts.
    Alone,
    /// The threads of the current rayon pool together: the least time for a few texts.
    Together,
}

impl Bert {
    /// Packs weights for the widest instructions of this machine.
    pub(crate) fn new(weights: BertWeights) -> Bert {
        let BertWeights { config, words, positions, embedding_norm, layers } = weights;
        let instructions = InstructionSet::widest();
        let norm = |NormWeights { gamma, beta }| Norm { gamma, beta, epsilon: config.layer_norm_eps as f32 };
        let layer = |layer: LayerWeights| {
            let (query_key_value, value_bias) = query_key_value(instructions, &config, layer.query_key_value);
            let linear = |LinearWeights { weight, bias }| PackedMatrix::new(instructions, &weight, bias);
            Layer {
                query_key_value,
                attention_output: linear(add_to_every_input(layer.attention_output, &value_bias)),
                attention_norm: norm(layer.attention_norm),
                intermediate: linear(layer.intermediate),
                output: linear(layer.output),
                output_norm: norm(layer.output_norm),
            }
        };
        Bert {
            instructions,
            hidden: config.hidden_size,
            attention: Attention { heads: config.num_attention_heads, head_size: config.head_size() },
            words,
            positions,
            embedding_norm: norm(embedding_norm),
            layers: layers.into_iter().map(layer).collect(),
        }
    }

    /// Bytes of the weights in memory.
    pub(crate) fn bytes(&self) -> usize {
        let matrices = |layer: &Layer| {
            [&layer.query_key_value, &layer.attention_output, &layer.intermediate, &layer.output]
                .map(PackedMatrix::bytes)
                .iter()
                .sum::<usize>()
        };
        (self.words.len() + self.positions.len()) * size_of::<f32>() + self.layers.iter().map(matrices).sum::<usize>()
    }

    /// The last hidden states `[sum of lengths, hidden]` of packed sequences, as a part of `workspace`.
    ///
    /// `ids` holds the sequences one after the other, `lengths` their lengths in the same order, none of them 0. Every id must be below
    /// the vocabulary size and every length within the position table.
    pub(crate) fn forward<'a>(
        &self,
        ids: &[u32],
        lengths: &[usize],
        work: Work,
        workspace: &'a mut Workspace,
    ) -> &'a [f32] {
        let Workspace { hidden, projected, context, inner, attention, shared } = workspace;
        self.embed(ids, lengths, hidden);
        let mut multiply = |matrix: &PackedMatrix, input: &[f32], output: &mut [f32], after| match work {
            Work::Alone => matrix.multiply(input, output, after),
            Work::Together => matrix.multiply_parallel(input, output, after, shared),
        };
        for layer in &self.layers {
            let projected = room(projected, 3 * hidden.len());
            multiply(&layer.query_key_value, hidden, projected, After::Store);
            let context = room(context, hidden.len());
            attend(self.instructions, self.attention, projected, lengths, context, attention);
            multiply(&layer.attention_output, context, hidden, After::Add);
            self.normalise(&layer.attention_norm, hidden);
            let inner = room(inner, ids.len() * layer.intermediate.outputs());
            multiply(&layer.intermediate, hidden, inner, After::Gelu);
            multiply(&layer.output, inner, hidden, After::Add);
            self.normalise(&layer.output_norm, hidden);
        }
        hidden
    }

    /// The sum of each token's word and position rows, normalised.
    fn embed(&self, ids: &[u32], lengths: &[usize], hidden: &mut Vec<f32>) {
        let size = self.hidden;
        hidden.clear();
        let positions = lengths.iter().flat_map(|length| 0..*length);
        for (id, position) in ids.iter().zip(positions) {
            let word = &self.words[*id as usize * size..][..size];
            let position = &self.positions[position * size..][..size];
            hidden.extend(word.iter().zip(position).map(|(word, position)| word + position));
        }
        self.normalise(&self.embedding_norm, hidden);
    }

    fn normalise(&self, norm: &Norm, hidden: &mut [f32]) {
        layer_norm(self.instructions, hidden, &norm.gamma, &norm.beta, norm.epsilon);
    }
}

/// The first `length` values of a buffer that grows to the largest length it was asked for; they hold whatever was there before.
fn room(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    buffer.resize(buffer.len().max(length), 0.0);
    &mut buffer[..length]
}

/// The three projections with the scale of attention in the query's and without the key's bias, and the value's bias, which is added later.
fn query_key_value(
    instructions: InstructionSet,
    config: &BertConfig,
    projections: LinearWeights,
) -> (PackedMatrix, Vec<f32>) {
    let hidden = config.hidden_size;
    let scale = 1.0 / (config.head_size() as f32).sqrt();
    let LinearWeights { mut weight, mut bias } = projections;
    for row in weight.chunks_exact_mut(3 * hidden).chain([bias.as_mut_slice()]) {
        row[..hidden].iter_mut().for_each(|query| *query *= scale);
    }
    let value_bias = bias[2 * hidden..].to_vec();
    bias[hidden..].fill(0.0);
    (PackedMatrix::new(instructions, &weight, bias), value_bias)
}

/// A linear layer whose every input has a constant added to it, which is a constant more in its bias.
fn add_to_every_input(linear: LinearWeights, constants: &[f32]) -> LinearWeights {
    let LinearWeights { weight, mut bias } = linear;
    for (row, constant) in weight.chunks_exact(bias.len()).zip(constants) {
        bias.iter_mut().zip(row).for_each(|(bias, weight)| *bias += constant * weight);
    }
    LinearWeights { weight, bias }
}
