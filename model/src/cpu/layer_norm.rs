//! Layer norm of rows in place: one pass for the mean, one for the variance, one to write, all on a row that lies in the first cache.
//!
//! Reference: Ba et al. 2016, "Layer Normalization".

use pulp::{Simd, WithSimd};

use crate::cpu::instructions::InstructionSet;

/// Scales every row of `gamma.len()` values to mean 0 and variance 1, then by `gamma` and `beta`.
pub(crate) fn layer_norm(instructions: InstructionSet, rows: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
    instructions.run(LayerNorm { rows, gamma, beta, epsilon });
}

struct LayerNorm<'a> {
    rows: &'a mut [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
}

impl WithSimd for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let size = self.gamma.len();
        for row in self.rows.chunks_exact_mut(size) {
            let mean = sum(simd, row, |_, value| value, |value| value) / size as f32;
            let shift = simd.splat_f32s(-mean);
            let squared = |simd: S, value| {
                let moved = simd.add_f32s(value, shift);
                simd.mul_f32s(moved, moved)
            };
            let variance = sum(simd, row, squared, |value| (value - mean) * (value - mean)) / size as f32;
            let scale = 1.0 / (variance + self.epsilon).sqrt();
            for ((value, gamma), beta) in row.iter_mut().zip(self.gamma).zip(self.beta) {
                *value = (*value - mean) * scale * gamma + beta;
            }
        }
    }
}

/// The sum of a function of every value: four running sums of vectors, then what does not fill a vector.
#[inline(always)]
fn sum<S: Simd>(simd: S, row: &[f32], of_vector: impl Fn(S, S::f32s) -> S::f32s, of_value: impl Fn(f32) -> f32) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(row);
    let mut sums = [simd.splat_f32s(0.0); 4];
    for four in vectors.chunks(4) {
        for (sum, vector) in sums.iter_mut().zip(four) {
            *sum = simd.add_f32s(*sum, of_vector(simd, *vector));
        }
    }
    let all = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    simd.reduce_sum_f32s(all) + rest.iter().map(|value| of_value(*value)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use burn::tensor::module;
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;

    /// Row lengths that fill vectors and ones that do not, means far from 0.
    #[test]
    fn equals_burns_layer_norm_on_every_instruction_set() {
        let device = Device::flex();
        for size in [384, 387, 26, 1] {
            let values: Vec<f32> = (0..7 * size).map(|i| ((i * 37) % 101) as f32 / 9.0 + (i / size) as f32).collect();
            let gamma: Vec<f32> = (0..size).map(|i| 1.0 + (i as f32).sin()).collect();
            let beta: Vec<f32> = (0..size).map(|i| (i as f32).cos()).collect();
            let tensor = |values: &[f32]| Tensor::<1>::from_data(TensorData::new(values.to_vec(), [size]), &device);
            let input = Tensor::<2>::from_data(TensorData::new(values.clone(), [7, size]), &device);
            let expected = module::layer_norm(input, tensor(&gamma), Some(tensor(&beta)), 1e-12).into_data();
            for instructions in InstructionSet::all() {
                let mut found = values.clone();
                layer_norm(instructions, &mut found, &gamma, &beta, 1e-12);
                for (expected, found) in expected.as_slice::<f32>().unwrap().iter().zip(found) {
                    assert!((expected - found).abs() <= 1e-5, "{instructions:?} {size}: {expected} {found}");
                }
            }
        }
    }
}
