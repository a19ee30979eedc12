//! The BERT encoder network on the CPU, on packed tokens: activations are `[sum of tokens, hidden]`, so no padding is ever computed.
//!
//! Linear layers and norms work on all tokens of a micro-batch at once; only attention looks at sequences. A layer is four products and no other
//! pass over memory than attention and the two norms: bias, GELU and residual are applied where the products end (`cpu`). Because
//! every token's arithmetic is the same whatever else is in the batch, a text encoded in a batch equals the same text encoded alone, to the last
//! bit.
//!
//! Folded into the weights when they are loaded, because none of it changes an answer: token types (one sentence, all of type 0) into the
//! position table; the scale of attention into the query's weights; the key's bias, which adds the same to every score of a row, into nothing;
//! the value's bias, which attention passes on whole, into the bias of the projection behind it. Dropout is absent (inference), and the
//! pooler is not used by sentence encoders. Reference: Devlin et al. 2019, "BERT", and `BertModel` of the transformers library.

pub(crate) mod config;
pub(crate) mod weights;

use crate::bert::config::BertConfig;
use crate::cpu::{After, Attention, InstructionSet, PackedMatrix, attend, layer_norm};
use crate::error::Error;
use crate::weights::Weights;

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
    /// Takes the weights of a `BertModel`, with or without the `bert.` prefix that `BertFor...` classes write.
    pub(crate) fn load(config: &BertConfig, weights: Weights<'_>) -> Result<Bert, Error> {
        let weights = weights.with_optional_prefix("bert.", "embeddings.word_embeddings.weight");
        let hidden = config.hidden_size;
        let loader = Loader { weights, config, instructions: InstructionSet::widest() };
        let words = loader.weights.values("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let mut positions = loader
            .weights
            .values("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let types =
            loader.weights.values("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types[..hidden]).for_each(|(position, first_type)| *position += first_type);
        }
        Ok(Bert {
            instructions: loader.instructions,
            hidden,
            attention: Attention { heads: config.num_attention_heads, head_size: config.head_size() },
            words,
            positions,
            embedding_norm: loader.norm("embeddings.LayerNorm")?,
            layers: (0..config.num_hidden_layers).map(|layer| loader.layer(layer)).collect::<Result<_, Error>>()?,
        })
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

/// Turns named tensors of the file into layers.
struct Loader<'a> {
    weights: Weights<'a>,
    config: &'a BertConfig,
    instructions: InstructionSet,
}

impl Loader<'_> {
    fn layer(&self, layer: usize) -> Result<Layer, Error> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let (query_key_value, value_bias) = self.query_key_value(&name("attention.self"))?;
        Ok(Layer {
            query_key_value,
            attention_output: self.linear(&name("attention.output.dense"), hidden, hidden, Some(&value_bias))?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"))?,
            intermediate: self.linear(&name("intermediate.dense"), inner, hidden, None)?,
            output: self.linear(&name("output.dense"), hidden, inner, None)?,
            output_norm: self.norm(&name("output.LayerNorm"))?,
        })
    }

    /// The three projections side by side, so that one product computes them all, and the value's bias, which is added later.
    fn query_key_value(&self, name: &str) -> Result<(PackedMatrix, Vec<f32>), Error> {
        let hidden = self.config.hidden_size;
        let scale = 1.0 / (self.config.head_size() as f32).sqrt();
        let mut weight = vec![0.0; 3 * hidden * hidden];
        let mut bias = vec![0.0; 3 * hidden];
        for (part, (projection, factor)) in [("query", scale), ("key", 1.0), ("value", 1.0)].into_iter().enumerate() {
            let values = self.weights.transposed(&format!("{name}.{projection}.weight"), hidden, hidden)?;
            for (row, source) in weight.chunks_exact_mut(3 * hidden).zip(values.chunks_exact(hidden)) {
                let row = &mut row[part * hidden..(part + 1) * hidden];
                row.iter_mut().zip(source).for_each(|(value, source)| *value = source * factor);
            }
        }
        let bias_of = |projection| self.weights.values(&format!("{name}.{projection}.bias"), &[hidden]);
        bias.iter_mut().zip(bias_of("query")?).for_each(|(bias, query)| *bias = query * scale);
        // Read for its shape: a folder without it is not whole.
        bias_of("key")?;
        Ok((PackedMatrix::new(self.instructions, &weight, bias), bias_of("value")?))
    }

    /// A linear layer; `constant` is added to every input, which is a constant more in the bias.
    fn linear(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        constant: Option<&[f32]>,
    ) -> Result<PackedMatrix, Error> {
        let weight = self.weights.transposed(&format!("{name}.weight"), outputs, inputs)?;
        let mut bias = self.weights.values(&format!("{name}.bias"), &[outputs])?;
        for (row, constant) in weight.chunks_exact(outputs).zip(constant.unwrap_or_default()) {
            bias.iter_mut().zip(row).for_each(|(bias, weight)| *bias += constant * weight);
        }
        Ok(PackedMatrix::new(self.instructions, &weight, bias))
    }

    fn norm(&self, name: &str) -> Result<Norm, Error> {
        let size = [self.config.hidden_size];
        Ok(Norm {
            gamma: self.weights.values(&format!("{name}.weight"), &size)?,
            beta: self.weights.values(&format!("{name}.bias"), &size)?,
            epsilon: self.config.layer_norm_eps as f32,
        })
    }
}
