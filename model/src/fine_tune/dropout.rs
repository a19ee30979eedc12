//! Dropout: what a fine-tuning leaves out of values and of words.
//!
//! Drawn on one thread, so that a fine-tuning is repeatable whatever else uses the device's own generator, which is shared by the whole
//! process.

use burn::tensor::{Tensor, TensorData};

use crate::random::Random;

/// Dropout (Srivastava et al. 2014): leaves out a share of values and scales the others up, so that sums stay the same on average; and
/// leaves out a share of words, so that no text is known by one word alone.
#[derive(Debug)]
pub(crate) struct Dropout {
    share: f32,
    word_share: f32,
    random: Random,
}

impl Dropout {
    /// Leaves out `share` of all values and `word_share` of all words, both below 1.
    pub(crate) fn new(share: f32, word_share: f32, random: Random) -> Dropout {
        Dropout { share, word_share, random }
    }

    /// No dropout, as at inference.
    pub(crate) fn off() -> Dropout {
        Dropout::new(0.0, 0.0, Random::new(0))
    }

    pub(crate) fn apply<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        if self.share == 0.0 {
            return tensor;
        }
        let shape = tensor.shape();
        let mask = mask(&mut self.random, shape.num_elements(), self.share, 1.0 / (1.0 - self.share));
        let device = tensor.device();
        tensor * Tensor::from_data(TensorData::new(mask, shape), &device)
    }

    /// Leaves out whole rows of `[tokens, hidden]` and does not scale the others.
    pub(crate) fn apply_to_words(&mut self, words: Tensor<2>) -> Tensor<2> {
        if self.word_share == 0.0 {
            return words;
        }
        let tokens = words.dims()[0];
        let mask = mask(&mut self.random, tokens, self.word_share, 1.0);
        let device = words.device();
        words * Tensor::from_data(TensorData::new(mask, [tokens, 1]), &device)
    }
}

/// `kept`, or 0 for a share of them; each draw serves four values.
fn mask(random: &mut Random, values: usize, share: f32, kept: f32) -> Vec<f32> {
    let bound = (share * 65_536.0) as u16;
    let mut mask = Vec::with_capacity(values + 4);
    while mask.len() < values {
        let drawn = random.next();
        let value = |part: u32| if (drawn >> (16 * part)) as u16 >= bound { kept } else { 0.0 };
        mask.extend([value(0), value(1), value(2), value(3)]);
    }
    mask.truncate(values);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    use crate::fine_tune::tensors::values;

    #[test]
    fn dropout_keeps_the_mean_and_leaves_out_its_share() {
        let ones = || Tensor::<2>::ones([1001, 100], &Device::flex());
        let values = |tensor: Tensor<2>| values(tensor).unwrap();
        let mut dropout = Dropout::new(0.1, 0.2, Random::new(3));
        let share = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count() as f32 / values.len() as f32;
        let applied = values(dropout.apply(ones()));
        let mean = applied.iter().sum::<f32>() / applied.len() as f32;
        assert!((share(&applied) - 0.1).abs() < 0.01 && (mean - 1.0).abs() < 0.01, "{} {mean}", share(&applied));

        let words = values(dropout.apply_to_words(ones()));
        assert!((share(&words) - 0.2).abs() < 0.03, "{}", share(&words));
        assert!(words.chunks_exact(100).all(|word| word.iter().all(|value| *value == word[0])), "whole words");
        let mut off = Dropout::off();
        let untouched = off.apply(ones());
        assert!(values(off.apply_to_words(untouched)).iter().all(|value| *value == 1.0));
    }
}
