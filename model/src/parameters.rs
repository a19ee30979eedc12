//! The numbers of a ranking head and its formula: `score_i = s * best cosine_i + w_i . phi + b_i`.
//!
//! The last class is out of scope; it has no examples, so its cosine is 0 and its bias is the score that an intent must beat. Serving
//! computes the formula here, in plain loops that skip the zeros of phi; training computes it in Burn (fit.rs), and a test holds the
//! two together.

/// The scale that a head starts from: two intents whose cosines differ by 0.1 are then told apart at odds of 7 to 1.
const SIMILARITY_SCALE: f32 = 20.0;
/// The cosine below which a question is out of scope as long as nothing was learned.
const SIMILARITY_FLOOR: f32 = 0.45;

/// Scale, biases and weights for `classes` classes (the intents, then out of scope) and `width` feature numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameters {
    pub(crate) scale: f32,
    pub(crate) bias: Vec<f32>,
    /// `[width, classes]`, so that one feature's weights for all classes lie together.
    pub(crate) weights: Vec<f32>,
}

impl Parameters {
    /// What ranks by similarity alone; where training starts and what it is pulled back to.
    pub(crate) fn similarity(intents: usize, width: usize) -> Parameters {
        let mut bias = vec![0.0; intents + 1];
        bias[intents] = SIMILARITY_SCALE * SIMILARITY_FLOOR;
        Parameters { scale: SIMILARITY_SCALE, bias, weights: vec![0.0; width * (intents + 1)] }
    }

    /// Number of classes, out of scope included.
    pub(crate) fn classes(&self) -> usize {
        self.bias.len()
    }

    /// Feature numbers per question.
    pub(crate) fn width(&self) -> usize {
        self.weights.len() / self.bias.len()
    }

    /// Writes the scores of one question; `cosines` has one value per intent, `scores` one per class.
    pub(crate) fn score(&self, cosines: &[f32], phi: &[f32], scores: &mut [f32]) {
        scores.copy_from_slice(&self.bias);
        scores.iter_mut().zip(cosines).for_each(|(score, cosine)| *score += self.scale * cosine);
        for (value, weights) in phi.iter().zip(self.weights.chunks_exact(self.classes())) {
            if *value != 0.0 {
                scores.iter_mut().zip(weights).for_each(|(score, weight)| *score += value * weight);
            }
        }
    }
}
