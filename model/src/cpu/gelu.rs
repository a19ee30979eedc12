//! GELU, the exact (erf) form, as a loop that the compiler turns into vector instructions.
//!
//! Burn's GELU on the CPU calls a scalar error function per value, which is 45 % of an encoder's time. Here the error function is a ratio
//! of two short polynomials, without a branch or a call.

/// `gelu(x) = x/2 (1 + erf(x / sqrt 2))` of every value. Inlined into the caller, which decides the instruction set.
#[inline(always)]
pub(super) fn gelu(values: &mut [f32]) {
    for value in values {
        *value = 0.5 * *value * (1.0 + erf(*value * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// The error function as a rational approximation, accurate to about 1e-7, without branches.
///
/// The coefficients are Eigen's (`generic_fast_erf_float`), a minimax fit on [-4, 4]; beyond it the error function is 1 in f32.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let clamped = x.clamp(-4.0, 4.0);
    let square = clamped * clamped;
    let mut numerator = -2.726_142_3e-10;
    for coefficient in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_4e-2] {
        numerator = numerator * square + coefficient;
    }
    let mut denominator = -1.456_607_2e-5;
    for coefficient in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        denominator = denominator * square + coefficient;
    }
    let ratio = clamped * numerator / denominator;
    if x.abs() < 4.0 { ratio } else { 1.0_f32.copysign(x) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation;
    use burn::tensor::{Device, Tensor, TensorData};

    /// Every scale that a value before the activation can have.
    #[test]
    fn equals_burns_gelu() {
        let values: Vec<f32> = (0..200_000).map(|i| (i as f32 / 7500.0 - 13.0).powi(3) / 100.0).collect();
        let input = Tensor::<1>::from_data(TensorData::new(values.clone(), [values.len()]), &Device::flex());
        let expected = activation::gelu(input).into_data();
        let mut found = values.clone();
        super::gelu(&mut found);
        for ((value, expected), found) in values.iter().zip(expected.as_slice::<f32>().unwrap()).zip(found) {
            assert!((expected - found).abs() <= 5e-7 * value.abs().max(1.0), "{value}: {expected} {found}");
        }
    }

    #[test]
    fn the_tails_are_exact() {
        let mut values = [0.0, -0.0, 1e4, -1e4, 1e30, -1e30];
        super::gelu(&mut values);
        assert_eq!(values, [0.0, 0.0, 1e4, 0.0, 1e30, 0.0]);
    }
}
