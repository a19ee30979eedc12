//! The random numbers of a fine-tuning: the order of texts and what dropout leaves out.
//!
//! SplitMix64 (Steele et al. 2014) from a seed, drawn on one thread, so that a fine-tuning is repeatable whatever else uses the device's
//! own generator, which is shared by the whole process.

use burn::tensor::{Tensor, TensorData};

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fisher-Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }

    /// A number from -1 to 1.
    #[cfg(test)]
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}

/// Dropout (Srivastava et al. 2014): leaves out a share of values and scales the others up, so that sums stay the same on average.
#[derive(Debug)]
pub(crate) struct Dropout {
    share: f32,
    random: Random,
}

impl Dropout {
    /// Leaves out `share` of all values; 0 leaves every tensor as it is.
    pub(crate) fn new(share: f32, random: Random) -> Dropout {
        Dropout { share, random }
    }

    /// No dropout, as at inference.
    pub(crate) fn off() -> Dropout {
        Dropout::new(0.0, Random::new(0))
    }

    pub(crate) fn apply<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        if self.share == 0.0 {
            return tensor;
        }
        let shape = tensor.shape();
        let mask = TensorData::new(self.mask(shape.num_elements()), shape);
        let device = tensor.device();
        tensor * Tensor::from_data(mask, &device)
    }

    /// 0 or the scale; each draw serves four values.
    fn mask(&mut self, values: usize) -> Vec<f32> {
        let bound = (self.share * 65_536.0) as u16;
        let scale = 1.0 / (1.0 - self.share);
        let mut mask = Vec::with_capacity(values + 4);
        while mask.len() < values {
            let drawn = self.random.next();
            let kept = |part: u32| if (drawn >> (16 * part)) as u16 >= bound { scale } else { 0.0 };
            mask.extend([kept(0), kept(1), kept(2), kept(3)]);
        }
        mask.truncate(values);
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_shuffle_keeps_every_item_and_depends_on_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<usize> = (0..100).collect();
            Random::new(seed).shuffle(&mut items);
            items
        };
        let mut sorted = shuffled(1);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..100));
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
    }

    #[test]
    fn dropout_keeps_the_mean_and_leaves_out_its_share() {
        let ones = || Tensor::<2>::ones([100, 1001], &Device::flex());
        let values = Dropout::new(0.1, Random::new(3)).apply(ones()).into_data().to_vec::<f32>().unwrap();
        let left_out = values.iter().filter(|value| **value == 0.0).count() as f32 / values.len() as f32;
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!((left_out - 0.1).abs() < 0.01 && (mean - 1.0).abs() < 0.01, "{left_out} {mean}");
        assert!(Dropout::off().apply(ones()).into_data().to_vec::<f32>().unwrap().iter().all(|value| *value == 1.0));
    }
}
