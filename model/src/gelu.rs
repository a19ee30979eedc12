//! Bias and GELU in one vectorised pass over the matrix product's own buffer.
//!
//! Burn's GELU on the CPU calls a scalar error function per value, which is 45 % of an encoder's time. Here the error function is a
//! ratio of two short polynomials, so that the loop has no branch and no call and the compiler turns it into vector instructions; pulp
//! picks the widest set the machine has. The buffer is taken out of the tensor and put back without a copy. Only for the CPU backend.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::error::Error;

/// Values below which a second thread costs more than it saves.
const PARALLEL_VALUES: usize = 32 * 1024;

/// `gelu(hidden + bias)`, the exact (erf) form, for `hidden: [rows, n]` and `bias: [n]`.
pub(crate) fn bias_gelu(hidden: Tensor<2>, bias: &Tensor<1>) -> Result<Tensor<2>, Error> {
    let [rows, columns] = hidden.dims();
    let device = hidden.device();
    let bias = bias.to_data();
    let bias = bias.as_slice::<f32>().map_err(fault)?;
    let mut data = hidden.try_into_data().map_err(fault)?;
    let values = data.as_mut_slice::<f32>().map_err(fault)?;
    if values.len() < PARALLEL_VALUES {
        apply(values, bias);
    } else {
        let rows_per_thread = rows.div_ceil(rayon::current_num_threads());
        values.par_chunks_mut(rows_per_thread * columns).for_each(|rows| apply(rows, bias));
    }
    Ok(Tensor::from_data(data, &device))
}

fn fault(error: impl ToString) -> Error {
    Error::fault("GELU", error)
}

/// Runs the loop compiled for the widest vectors of this machine.
#[cfg(target_arch = "x86_64")]
fn apply(rows: &mut [f32], bias: &[f32]) {
    use pulp::x86::{V3, V4};
    if let Some(avx512) = V4::try_new() {
        avx512.vectorize(Rows { rows, bias });
    } else if let Some(avx2) = V3::try_new() {
        avx2.vectorize(Rows { rows, bias });
    } else {
        add_bias_and_gelu(rows, bias);
    }
}

/// Other architectures have their vectors in the baseline.
#[cfg(not(target_arch = "x86_64"))]
fn apply(rows: &mut [f32], bias: &[f32]) {
    add_bias_and_gelu(rows, bias);
}

/// The loop's arguments, in the form pulp calls: `call` is inlined into a function compiled for the chosen instruction set.
#[cfg(target_arch = "x86_64")]
struct Rows<'a> {
    rows: &'a mut [f32],
    bias: &'a [f32],
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        add_bias_and_gelu(self.rows, self.bias);
    }
}

#[inline(always)]
fn add_bias_and_gelu(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value = gelu(*value + bias);
        }
    }
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
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
    use super::*;
    use burn::tensor::activation;
    use burn::tensor::{Device, TensorData};

    /// Every scale a pre-activation can have, several times the parallel threshold, and a row length that no vector width divides.
    #[test]
    fn equals_burns_gelu() {
        let device = Device::flex();
        let (rows, columns) = (601, 387);
        let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 / 9000.0 - 13.0).powi(3) / 100.0).collect();
        let bias: Vec<f32> = (0..columns).map(|i| i as f32 / 100.0 - 2.0).collect();
        let input = Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device);
        let bias = Tensor::<1>::from_data(TensorData::new(bias, [columns]), &device);
        let expected = activation::gelu(input.clone() + bias.clone().unsqueeze()).into_data();
        let found = bias_gelu(input, &bias).unwrap().into_data();
        for (expected, found) in expected.as_slice::<f32>().unwrap().iter().zip(found.as_slice::<f32>().unwrap()) {
            assert!((expected - found).abs() <= 1e-6 * expected.abs().max(1.0), "{expected} {found}");
        }
    }

    #[test]
    fn the_tails_are_exact() {
        let device = Device::flex();
        let input = Tensor::<2>::from_data([[0.0_f32, -0.0, 1e4, -1e4, 1e30, -1e30]], &device);
        let bias = Tensor::<1>::zeros([6], &device);
        let found = bias_gelu(input, &bias).unwrap().into_data();
        assert_eq!(found.as_slice::<f32>().unwrap(), [0.0, 0.0, 1e4, 0.0, 1e30, 0.0]);
    }
}
