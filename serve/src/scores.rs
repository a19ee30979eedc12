//! What an encoder and a catalogue say of a question's words, before anybody's features come in.
//!
//! Two users who ask the same words have the same scores; what sets their answers apart (features, history, rendering) comes after.
//! Only scores may be shared between questions, and only within a tenant.

use std::sync::Arc;

use larder_model::Embeddings;

use crate::rung::Rung;

/// The scores of one text on one rung of one tenant, as they stood before the ranking: ranking with them gives bit for bit what scoring
/// the text anew would give. A head that is swapped changes nothing in them.
#[derive(Debug, PartialEq)]
pub(crate) struct Scores {
    pub(crate) rung: Rung,
    /// The encoder did not read the text to its end.
    pub(crate) truncated: bool,
    /// Values of the vector, with which `numbers` begins; the best cosine to each intent follows.
    dimension: usize,
    numbers: Box<[f32]>,
}

impl Scores {
    pub(crate) fn new(rung: Rung, truncated: bool, vector: &[f32], cosines: &[f32]) -> Scores {
        Scores { rung, truncated, dimension: vector.len(), numbers: [vector, cosines].concat().into() }
    }

    /// The text's vector.
    pub(crate) fn vector(&self) -> &[f32] {
        &self.numbers[..self.dimension]
    }

    /// Its closeness to each intent of the catalogue.
    pub(crate) fn cosines(&self) -> &[f32] {
        &self.numbers[self.dimension..]
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Scores>() + size_of_val(self.numbers.as_ref())
    }
}

/// The vectors and the cosines of several questions of one tenant and rung, row by row, as the ranking head takes them.
pub(crate) fn rows<'a>(scores: impl Iterator<Item = &'a Arc<Scores>>) -> (Embeddings, Vec<f32>) {
    let (mut vectors, mut cosines, mut dimension) = (Vec::new(), Vec::new(), 1);
    for scores in scores {
        dimension = scores.dimension;
        vectors.extend_from_slice(scores.vector());
        cosines.extend_from_slice(scores.cosines());
    }
    (Embeddings { dimension, data: vectors }, cosines)
}
