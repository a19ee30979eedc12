//! Scaled dot-product attention within each of many short sequences that lie packed one after the other.
//!
//! For one head of one sequence: the keys are turned round into panels, scores are a product of tiles, softmax goes over rows, and the context
//! is a second product, which reads the values where they are. All of it stays in the first caches, since a question has tens of tokens.
//! The scale 1/sqrt(head size) is not applied here: it is part of the query's weights.

use pulp::{Simd, WithSimd};

use crate::cpu::instructions::InstructionSet;
use crate::cpu::tile::{PANEL_VECTORS, Packed, Panel, Rows, Strided, row_groups, rows_at_once, tile, with_rows};

/// The shape of the heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    /// How many.
    pub(crate) heads: usize,
    /// Numbers of each.
    pub(crate) head_size: usize,
}

/// Attention of packed sequences: `projected: [tokens, 3 x hidden]` holds query, key and value of each token; `context: [tokens, hidden]`
/// is overwritten. `lengths` are the sequences' lengths in order; `scratch` is room that is used again and again.
pub(crate) fn attend(
    instructions: InstructionSet,
    shape: Attention,
    projected: &[f32],
    lengths: &[usize],
    context: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    instructions.run(Attend { shape, projected, lengths, context, scratch });
}

struct Attend<'a> {
    shape: Attention,
    projected: &'a [f32],
    lengths: &'a [usize],
    context: &'a mut [f32],
    scratch: &'a mut Vec<f32>,
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Attend { shape: Attention { heads, head_size }, projected, lengths, context, scratch } = self;
        let hidden = heads * head_size;
        let longest = lengths.iter().copied().max().unwrap_or(0).next_multiple_of(PANEL_VECTORS * S::F32_LANES);
        scratch.resize(scratch.len().max(longest * (longest + head_size)), 0.0);
        let mut first = 0;
        for &length in lengths {
            let tokens = &projected[first * 3 * hidden..(first + length) * 3 * hidden];
            let context = &mut context[first * hidden..(first + length) * hidden];
            for head in 0..heads {
                let head = Head { tokens, length, hidden, size: head_size, from: head * head_size };
                if length <= S::F32_LANES {
                    head.attend::<S, 1>(simd, context, scratch);
                } else {
                    head.attend::<S, PANEL_VECTORS>(simd, context, scratch);
                }
            }
            first += length;
        }
    }
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// `[length, 3 x hidden]`
    tokens: &'a [f32],
    length: usize,
    hidden: usize,
    /// Numbers of this head.
    size: usize,
    /// Where they begin within query, key and value.
    from: usize,
}

impl Head<'_> {
    /// Writes this head's columns of `context`; the keys are cut into panels of `V` vectors.
    #[inline(always)]
    fn attend<S: Simd, const V: usize>(self, simd: S, context: &mut [f32], scratch: &mut [f32]) {
        let width = V * S::F32_LANES;
        let columns = self.length.next_multiple_of(width);
        let (keys, scores) = scratch.split_at_mut(columns * self.size);
        self.turn_keys(&mut keys[..columns * self.size], width);
        let queries = Rows { values: &self.tokens[self.from..], stride: 3 * self.hidden, depth: self.size };
        for (panel, values) in keys.chunks_exact(self.size * width).enumerate() {
            for group in row_groups(self.length, rows_at_once::<S>()) {
                let operands = (queries.from(group.start), Packed::<S, V>::new(values, self.size));
                let scores = &mut scores[group.start * columns + panel * width..];
                with_rows!(group.len(), R => write::<S, R, V>(simd, operands, scores, columns));
            }
        }
        for row in scores.chunks_exact_mut(columns).take(self.length) {
            softmax(simd, &mut row[..self.length]);
        }
        let weights = Rows { values: scores, stride: columns, depth: self.length };
        self.add_up::<S>(simd, weights, context);
    }

    /// Puts the keys into panels, a row for each of the head's numbers; columns without a key are 0.
    #[inline(always)]
    fn turn_keys(self, keys: &mut [f32], width: usize) {
        for (panel, turned) in keys.chunks_exact_mut(self.size * width).enumerate() {
            let tokens = self.length.saturating_sub(panel * width).min(width);
            if tokens < width {
                turned.fill(0.0);
            }
            for token in 0..tokens {
                let from = (panel * width + token) * 3 * self.hidden + self.hidden + self.from;
                let key = &self.tokens[from..][..self.size];
                for (turned, value) in turned[token..].iter_mut().step_by(width).zip(key) {
                    *turned = *value;
                }
            }
        }
    }

    /// The context: the rows of weights times the values, which are read where they are.
    #[inline(always)]
    fn add_up<S: Simd>(self, simd: S, weights: Rows<'_>, context: &mut [f32]) {
        let width = PANEL_VECTORS * S::F32_LANES;
        let whole = self.size / width * width;
        let values = &self.tokens[2 * self.hidden + self.from..];
        for column in (0..whole).step_by(width) {
            for group in row_groups(self.length, rows_at_once::<S>()) {
                let panel = Strided { values: &values[column..], stride: 3 * self.hidden };
                let context = &mut context[group.start * self.hidden + self.from + column..];
                with_rows!(group.len(), R => write::<S, R, PANEL_VECTORS>(
                    simd, (weights.from(group.start), panel), context, self.hidden));
            }
        }
        // Heads whose size no panel divides: their last columns one by one.
        for row in 0..self.length {
            let weights = &weights.values[row * weights.stride..][..self.length];
            for column in whole..self.size {
                let column_values = values[column..].iter().step_by(3 * self.hidden);
                context[row * self.hidden + self.from + column] =
                    weights.iter().zip(column_values).map(|(weight, value)| weight * value).sum();
            }
        }
    }
}

/// Computes a tile and writes its rows, `stride` numbers apart.
#[inline(always)]
fn write<S: Simd, const R: usize, const V: usize>(
    simd: S,
    operands: (Rows<'_>, impl Panel<S, V>),
    output: &mut [f32],
    stride: usize,
) {
    let sums = tile::<S, R, V>(simd, operands.0, operands.1);
    for (row, sums) in output.chunks_mut(stride).zip(sums) {
        let (out, _) = S::as_mut_simd_f32s(&mut row[..V * S::F32_LANES]);
        out.copy_from_slice(&sums);
    }
}

/// Softmax of a row in place.
#[inline(always)]
fn softmax<S: Simd>(simd: S, row: &mut [f32]) {
    let (vectors, rest) = S::as_simd_f32s(row);
    let most = vectors.iter().fold(simd.splat_f32s(f32::NEG_INFINITY), |most, v| simd.max_f32s(most, *v));
    let most = rest.iter().copied().fold(simd.reduce_max_f32s(most), f32::max);
    for value in row.iter_mut() {
        *value = exp(*value - most);
    }
    let (vectors, rest) = S::as_simd_f32s(row);
    let sum = vectors.iter().fold(simd.splat_f32s(0.0), |sum, v| simd.add_f32s(sum, *v));
    let scale = 1.0 / (simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>());
    for value in row.iter_mut() {
        *value *= scale;
    }
}

/// `e^x` for `x <= 0`, accurate to about 1e-7 of the value, without a branch or a call. Below -87 it is 0 for all that matters here (about
/// 1e-38).
///
/// 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; the coefficients are those of Cephes' `expf`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 x 2^23: adding it rounds to an integer, which the low bits then hold
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let power = shifted - MAGIC;
    let rest = x - power * 0.693_359_4 + power * 2.121_944_4e-4;
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        polynomial = polynomial * rest + coefficient;
    }
    let value = polynomial * rest * rest + rest + 1.0;
    f32::from_bits(value.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use burn::tensor::module::attention;
    use burn::tensor::ops::AttentionModuleOptions;
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;

    #[test]
    fn exp_is_exact_enough() {
        for step in 0..200_000 {
            let x = -(step as f32) / 2300.0;
            let (expected, found) = (f64::from(x).exp(), f64::from(exp(x)));
            assert!((expected - found).abs() <= 2e-7 * expected, "{x}: {expected} {found}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37);
    }

    /// Lengths below, at and beyond every width of a panel, head sizes that fill panels and ones that do not.
    #[test]
    fn equals_burns_attention_on_every_instruction_set() {
        let device = Device::flex();
        for (heads, head_size) in [(12, 32), (3, 26), (2, 64), (1, 5)] {
            let hidden = heads * head_size;
            let lengths = [1, 2, 15, 16, 17, 32, 33, 70, 14];
            let tokens: usize = lengths.iter().sum();
            let projected: Vec<f32> =
                (0..tokens * 3 * hidden).map(|i| ((i * 7919) % 1009) as f32 / 300.0 - 1.6).collect();
            let scale = (head_size as f32).sqrt();
            let mut expected = Vec::new();
            let mut first = 0;
            for length in lengths {
                let part = |part: usize, factor: f32| {
                    let mut values = Vec::new();
                    for head in 0..heads {
                        for token in first..first + length {
                            let from = token * 3 * hidden + part * hidden + head * head_size;
                            values.extend(projected[from..][..head_size].iter().map(|value| value * factor));
                        }
                    }
                    Tensor::<4>::from_data(TensorData::new(values, [1, heads, length, head_size]), &device)
                };
                let (query, key, value) = (part(0, scale), part(1, 1.0), part(2, 1.0));
                let context = attention(query, key, value, None, None, AttentionModuleOptions::default());
                let context = context.swap_dims(1, 2).into_data();
                expected.extend_from_slice(context.as_slice::<f32>().unwrap());
                first += length;
            }
            for instructions in InstructionSet::all() {
                let mut found = vec![f32::NAN; tokens * hidden];
                attend(instructions, Attention { heads, head_size }, &projected, &lengths, &mut found, &mut Vec::new());
                for (at, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    let close = (expected - found).abs() <= 2e-5;
                    assert!(close, "{instructions:?} {heads}x{head_size}, token {}: {expected} {found}", at / hidden);
                }
            }
        }
    }

    #[test]
    fn a_sequence_is_the_same_to_the_bit_whatever_is_beside_it() {
        let shape = Attention { heads: 2, head_size: 32 };
        let projected: Vec<f32> = (0..60 * 192).map(|i| ((i * 31) % 97) as f32 / 50.0 - 1.0).collect();
        for instructions in InstructionSet::all() {
            let (mut together, mut alone) = (vec![0.0; 60 * 64], vec![0.0; 20 * 64]);
            attend(instructions, shape, &projected, &[7, 33, 20], &mut together, &mut Vec::new());
            attend(instructions, shape, &projected[40 * 192..], &[20], &mut alone, &mut Vec::new());
            assert_eq!(alone, together[40 * 64..]);
        }
    }
}
