//! The numbers of a ranking head and its formula, the weighted sum of two parts:
//! `score_i = alpha (s * cosine_i + m_i . nearness + w_i . phi + b_i) + beta (v_i . e + c_i)`.
//!
//! The first part is the similarity to examples, together with the user's features. `cosine_i` is the question's cosine to the nearest example of intent i; the last class is out of scope, which has no examples, so
//! its cosine is 0 and its bias is the score that an intent must beat. `nearness` is what similarity alone would answer, as
//! probabilities of all classes. The mixing weights m let words that point to one intent speak for its relatives too: "where is it?" is
//! nearest to one of six order intents by chance, and without mixing the features would have to outvote that chance so strongly that
//! they would outvote clear words as well. On the sample shop's questions, in cross-validation with no text on both sides, mixing brings
//! the share of right classes from 92.2 to 96.8 % and halves the log loss.
//!
//! The second part reads the question's vector `e` itself: it has learned which directions tell intents apart, where similarity weighs
//! all alike. Each part is trained to answer on its own; only their weights alpha and beta are fitted together, on questions that neither
//! has seen (calibration.rs). Trained as one sum they lean on each other and are wrong together: on banking77's training questions, held
//! out, the sum of two is right for 93.0 % (log loss 0.24), one fit of both for 91.3 % of a part on which the sum reaches 92.1 %, and
//! either alone for 92.0 and 92.2 % (0.28, 0.27). docs/models.md has the figures.
//!
//! Serving computes the formula here, in plain loops that skip zeros; training computes it in Burn (fit.rs), and a test holds the two
//! together. A change of anything here that is not a field is a new layout of the head's file.

use crate::calibration::{PartScores, softmax};
use crate::examples::Examples;

/// The scale that a head starts from: two intents whose cosines differ by 0.1 are then told apart at odds of 7 to 1.
const SIMILARITY_SCALE: f32 = 20.0;
/// The cosine below which a question is out of scope as long as nothing was learned.
const SIMILARITY_FLOOR: f32 = 0.45;
/// The most classes for which mixing weights are learned; their number is the square of this.
const MAX_MIXED_CLASSES: usize = 512;
/// A nearness that does not count.
const NEGLIGIBLE: f32 = 1e-6;

/// The numbers of one head for `classes` classes (the intents, then out of scope) and `width` feature numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameters {
    pub(crate) scale: f32,
    pub(crate) bias: Vec<f32>,
    /// `[width, classes]`, so that one feature's weights for all classes lie together.
    pub(crate) weights: Vec<f32>,
    /// `[classes, classes]`, a row for each class that the words are near to; empty for very large catalogues.
    pub(crate) mixing: Vec<f32>,
    /// `[dimension, classes]`; empty for a head that does not read the vector.
    pub(crate) directions: Vec<f32>,
    pub(crate) direction_bias: Vec<f32>,
}

impl Parameters {
    /// What ranks by similarity alone; where training starts and what it is pulled back to.
    pub(crate) fn similarity(intents: usize, width: usize) -> Parameters {
        let classes = intents + 1;
        let mut bias = vec![0.0; classes];
        bias[intents] = SIMILARITY_SCALE * SIMILARITY_FLOOR;
        let mixing = vec![0.0; mixing_rows(classes) * classes];
        let weights = vec![0.0; width * classes];
        let direction_bias = vec![0.0; classes];
        Parameters { scale: SIMILARITY_SCALE, bias, weights, mixing, directions: Vec::new(), direction_bias }
    }

    /// Number of classes, out of scope included.
    pub(crate) fn classes(&self) -> usize {
        self.bias.len()
    }

    /// Feature numbers per question.
    pub(crate) fn width(&self) -> usize {
        self.weights.len() / self.bias.len()
    }

    /// Values per question vector; 0 when the vector is not read.
    pub(crate) fn dimension(&self) -> usize {
        self.directions.len() / self.bias.len()
    }

    /// Writes what the question's own vector says; `scores` has one place per class.
    pub(crate) fn score_vector(&self, vector: &[f32], scores: &mut [f32]) {
        scores.copy_from_slice(&self.direction_bias);
        add_rows(vector, &self.directions, scores);
    }

    /// Writes what similarity and features say; `cosines` has one value per intent, `scores` one place per class.
    pub(crate) fn score_similarity(&self, cosines: &[f32], phi: &[f32], scores: &mut [f32]) {
        scores.copy_from_slice(&self.bias);
        scores.iter_mut().zip(cosines).for_each(|(score, cosine)| *score += self.scale * cosine);
        add_rows(phi, &self.weights, scores);
        if !self.mixing.is_empty() {
            add_rows(&nearness(cosines), &self.mixing, scores);
        }
    }

    /// What both parts say of some of the examples.
    pub(crate) fn score_examples(&self, examples: &Examples, rows: &[usize]) -> PartScores {
        let classes = self.classes();
        let mut scores = PartScores::zeros(rows.len(), classes);
        let of_similarity = scores.similarity.chunks_exact_mut(classes);
        for ((row, similarity), vector) in rows.iter().zip(of_similarity).zip(scores.vector.chunks_exact_mut(classes)) {
            let (cosines, phi, _) = examples.question(*row);
            self.score_similarity(cosines, phi, similarity);
            self.score_vector(examples.vector(*row), vector);
        }
        scores
    }
}

/// Rows of the mixing weights for a number of classes: as many as classes, or none.
pub(crate) fn mixing_rows(classes: usize) -> usize {
    if classes <= MAX_MIXED_CLASSES { classes } else { 0 }
}

/// What similarity alone would answer, as one probability per class.
pub(crate) fn nearness(cosines: &[f32]) -> Vec<f32> {
    let scores: Vec<f32> = cosines.iter().chain(&[SIMILARITY_FLOOR]).map(|cosine| SIMILARITY_SCALE * cosine).collect();
    softmax(&scores)
}

/// Adds to `scores` the rows of a matrix, each times its value.
fn add_rows(values: &[f32], rows: &[f32], scores: &mut [f32]) {
    for (value, row) in values.iter().zip(rows.chunks_exact(scores.len())) {
        if value.abs() > NEGLIGIBLE {
            scores.iter_mut().zip(row).for_each(|(score, weight)| *score += value * weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_the_documented_one() {
        let parameters = Parameters {
            scale: 10.0,
            bias: vec![0.5, -0.5, 3.0],
            weights: vec![1.0, 2.0, 3.0, -1.0, -2.0, -3.0],
            mixing: vec![0.0, 4.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            directions: vec![1.0, 0.0, -1.0, 2.0, 4.0, 0.0],
            direction_bias: vec![0.0, 0.5, 1.0],
        };
        let (cosines, phi) = ([0.9, 0.8], [0.5, 1.0]);
        let [near_first, near_second, strange] = nearness(&cosines)[..] else { panic!() };
        let mut scores = [0.0; 3];
        parameters.score_similarity(&cosines, &phi, &mut scores);
        let expected = [9.0 + 2.0 * near_second - 0.5 + 0.5, 8.0 + 4.0 * near_first - 1.0 - 0.5, strange - 1.5 + 3.0];
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{scores:?} {expected:?}");
        assert_eq!(parameters.dimension(), 2);
        parameters.score_vector(&[0.5, 0.25], &mut scores);
        assert_eq!(scores, [1.0, 1.5, 0.5]);
    }

    #[test]
    fn nearness_is_what_similarity_alone_answers() {
        let parameters = Parameters::similarity(3, 0);
        let cosines = [0.5, 0.7, 0.2];
        let mut scores = [0.0; 4];
        parameters.score_similarity(&cosines, &[], &mut scores);
        let expected = softmax(&scores);
        assert!(nearness(&cosines).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn very_large_catalogues_go_without_mixing() {
        let parameters = Parameters::similarity(MAX_MIXED_CLASSES, 1);
        assert!(parameters.mixing.is_empty());
        let mut scores = vec![0.0; parameters.classes()];
        parameters.score_similarity(&vec![0.5; MAX_MIXED_CLASSES], &[1.0], &mut scores);
        assert_eq!(scores[0], 10.0);
    }
}
