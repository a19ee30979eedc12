//! GELU, the exact (erf) form, on vectors that are still in registers.
//!
//! Burn's GELU on the CPU calls a scalar error function per value, which is 45 % of an encoder's time. Here the error function is a ratio
//! of two short polynomials, without a branch or a call.

use pulp::Simd;

/// The numerator's coefficients, the highest power first.
const NUMERATOR: [f32; 7] =
    [-2.726_142_3e-10, 2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_4e-2];
/// The denominator's, the same way.
const DENOMINATOR: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
/// Beyond this the error function is 1 in f32.
const ERF_LIMIT: f32 = 4.0;

/// `gelu(x) = x/2 (1 + erf(x / sqrt 2))` of every number of a vector.
#[inline(always)]
pub(super) fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
    let erf = erf(simd, simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)));
    simd.mul_add_e_f32s(half, erf, half)
}

/// The error function as a rational approximation, accurate to about 1e-7.
///
/// The coefficients are Eigen's (`generic_fast_erf_float`), a minimax fit on [-4, 4]; what it gives outside is not used.
#[inline(always)]
fn erf<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let square = simd.mul_f32s(x, x);
    let polynomial = |coefficients: &[f32]| {
        let (first, others) = (coefficients[0], &coefficients[1..]);
        others.iter().fold(simd.splat_f32s(first), |sum, coefficient| {
            simd.mul_add_e_f32s(sum, square, simd.splat_f32s(*coefficient))
        })
    };
    let ratio = simd.div_f32s(simd.mul_f32s(x, polynomial(&NUMERATOR)), polynomial(&DENOMINATOR));
    let within = simd.less_than_f32s(simd.abs_f32s(x), simd.splat_f32s(ERF_LIMIT));
    let sign = simd.and_f32s(x, simd.splat_f32s(-0.0));
    simd.select_f32s(within, ratio, simd.or_f32s(sign, simd.splat_f32s(1.0)))
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation;
    use burn::tensor::{Device, Tensor, TensorData};
    use pulp::WithSimd;

    use super::*;
    use crate::cpu::instructions::InstructionSet;

    struct Gelu<'a>(&'a mut [f32]);

    impl WithSimd for Gelu<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            assert!(rest.is_empty());
            vectors.iter_mut().for_each(|vector| *vector = gelu(simd, *vector));
        }
    }

    /// Every scale that a value before the activation can have.
    #[test]
    fn equals_burns_gelu_on_every_instruction_set() {
        let values: Vec<f32> = (0..200_000).map(|i| (i as f32 / 7500.0 - 13.0).powi(3) / 100.0).collect();
        let input = Tensor::<1>::from_data(TensorData::new(values.clone(), [values.len()]), &Device::flex());
        let expected = activation::gelu(input).into_data();
        for instructions in InstructionSet::all() {
            let mut found = values.clone();
            instructions.run(Gelu(&mut found));
            for ((value, expected), found) in values.iter().zip(expected.as_slice::<f32>().unwrap()).zip(found) {
                let close = (expected - found).abs() <= 5e-7 * value.abs().max(1.0);
                assert!(close, "{instructions:?} {value}: {expected} {found}");
            }
        }
    }

    #[test]
    fn the_tails_are_exact() {
        for instructions in InstructionSet::all() {
            let mut values = [0.0; 16];
            values[..8].copy_from_slice(&[1e4, -1e4, 1e30, -1e30, 6.0, -6.0, f32::INFINITY, -0.0]);
            instructions.run(Gelu(&mut values));
            assert_eq!(values[..8], [1e4, 0.0, 1e30, 0.0, 6.0, 0.0, f32::INFINITY, 0.0], "{instructions:?}");
        }
    }
}
