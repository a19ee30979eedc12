//! A weight matrix packed once for the products it will be in, and the product with its epilogue.
//!
//! The columns are cut into panels of two vectors; a panel's numbers lie one after the other in the order in which the loop reads them.
//! A product goes panel by panel, because a panel fits the first cache and the rows of a micro-batch the second. With more than
//! one thread the panels are divided; that pays where few rows must wait for the weights to come from memory, and a
//! large batch is better divided by rows, by the caller.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::cpu::gelu::gelu;
use crate::cpu::instructions::InstructionSet;
use crate::cpu::tile::{PANEL_VECTORS, Packed, Rows, row_groups, rows_at_once, tile, with_rows};

/// Panels below which a further thread costs more than it saves.
const PANELS_PER_THREAD: usize = 4;

/// `[inputs, outputs]` with its bias, in the layout of one instruction set.
pub(crate) struct PackedMatrix {
    instructions: InstructionSet,
    inputs: usize,
    outputs: usize,
    /// Columns per panel.
    width: usize,
    /// `[panels, inputs, width]`; the last panel is filled up with zeros.
    panels: Vec<f32>,
    bias: Vec<f32>,
}

/// What becomes of a product's sums, with the bias added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// They are the output.
    Store,
    /// Their GELU is the output.
    Gelu,
    /// They are added to what the output holds: a residual connection.
    Add,
}

impl PackedMatrix {
    /// Packs `weight: [inputs, outputs]`, row-major, for one instruction set.
    pub(crate) fn new(instructions: InstructionSet, weight: &[f32], bias: Vec<f32>) -> PackedMatrix {
        let outputs = bias.len();
        let inputs = weight.len() / outputs;
        let width = PANEL_VECTORS * instructions.lanes();
        let panel_count = outputs.div_ceil(width);
        let mut panels = vec![0.0; panel_count * inputs * width];
        for (panel, packed) in panels.chunks_exact_mut(inputs * width).enumerate() {
            let columns = panel * width..outputs.min((panel + 1) * width);
            for (row, packed) in weight.chunks_exact(outputs).zip(packed.chunks_exact_mut(width)) {
                packed[..columns.len()].copy_from_slice(&row[columns.clone()]);
            }
        }
        PackedMatrix { instructions, inputs, outputs, width, panels, bias }
    }

    /// Numbers per row of a product.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        (self.panels.len() + self.bias.len()) * size_of::<f32>()
    }

    /// `input: [rows, inputs]` times this matrix, plus the bias, into `output: [rows, outputs]`, on the calling thread.
    pub(crate) fn multiply(&self, input: &[f32], output: &mut [f32], after: After) {
        let part = Part { panels: 0..self.outputs.div_ceil(self.width), columns: self.outputs, after };
        self.instructions.run(Multiply { matrix: self, input, output, part });
    }

    /// The same by the threads of the current rayon pool; `scratch` is room that is used again and again.
    pub(crate) fn multiply_parallel(&self, input: &[f32], output: &mut [f32], after: After, scratch: &mut Vec<f32>) {
        let panels = self.outputs.div_ceil(self.width);
        let threads = rayon::current_num_threads().min(panels / PANELS_PER_THREAD);
        if threads < 2 {
            return self.multiply(input, output, after);
        }
        let rows = input.len() / self.inputs;
        let panels_each = panels.div_ceil(threads);
        let columns_each = panels_each * self.width;
        scratch.clear();
        scratch.resize(rows * panels * self.width, 0.0);
        // Each thread fills a block of its own; the sums are the same as in one thread.
        let product = if after == After::Add { After::Store } else { after };
        scratch.par_chunks_mut(rows * columns_each).enumerate().for_each(|(thread, block)| {
            let panels = thread * panels_each..panels.min((thread + 1) * panels_each);
            let part = Part { columns: panels.len() * self.width, panels, after: product };
            self.instructions.run(Multiply { matrix: self, input, output: block, part });
        });
        for (thread, block) in scratch.chunks(rows * columns_each).enumerate() {
            let first = thread * columns_each;
            let columns = columns_each.min(self.outputs - first);
            for (row, computed) in block.chunks_exact(block.len() / rows).enumerate() {
                let output = &mut output[row * self.outputs + first..][..columns];
                match after {
                    After::Add => output.iter_mut().zip(computed).for_each(|(sum, value)| *sum += value),
                    After::Store | After::Gelu => output.copy_from_slice(&computed[..columns]),
                }
            }
        }
    }
}

/// Which panels a call computes, into rows of how many columns.
struct Part {
    panels: Range<usize>,
    columns: usize,
    after: After,
}

struct Multiply<'a> {
    matrix: &'a PackedMatrix,
    input: &'a [f32],
    output: &'a mut [f32],
    part: Part,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Multiply { matrix, input, output, part } = self;
        let (depth, width) = (matrix.inputs, PANEL_VECTORS * S::F32_LANES);
        let rows = Rows { values: input, stride: depth, depth };
        let row_count = input.len() / depth;
        for panel in part.panels.clone() {
            let values = Packed::<S, PANEL_VECTORS>::new(&matrix.panels[panel * depth * width..], depth);
            let from = panel * width;
            let bias = &matrix.bias[from..matrix.outputs.min(from + width)];
            let first_column = (panel - part.panels.start) * width;
            for group in row_groups(row_count, rows_at_once::<S>()) {
                let operands = (rows.from(group.start), values);
                let target = Target {
                    output: &mut output[group.start * part.columns..group.end * part.columns],
                    columns: part.columns,
                    first_column,
                    after: part.after,
                };
                with_rows!(group.len(), R => finish::<S, R>(simd, operands, bias, target));
            }
        }
    }
}

/// Where a tile's results go.
struct Target<'a> {
    output: &'a mut [f32],
    columns: usize,
    first_column: usize,
    after: After,
}

/// Computes one tile and hands it over.
#[inline(always)]
fn finish<S: Simd, const R: usize>(
    simd: S,
    operands: (Rows<'_>, Packed<'_, S, PANEL_VECTORS>),
    bias: &[f32],
    target: Target<'_>,
) {
    let sums = tile::<S, R, PANEL_VECTORS>(simd, operands.0, operands.1);
    let width = PANEL_VECTORS * S::F32_LANES;
    let Target { output, columns, first_column, after } = target;
    for (row, sums) in output.chunks_exact_mut(columns).zip(sums) {
        let row = &mut row[first_column..];
        if bias.len() == width {
            store(simd, &mut row[..width], sums, bias, after);
        } else {
            // The last panel of a matrix whose columns fill none: its padding goes no further.
            let mut whole = [0.0; MAX_WIDTH];
            let whole = &mut whole[..width];
            let most = bias.len().min(row.len());
            whole[..most].copy_from_slice(&row[..most]);
            let mut padded = [0.0; MAX_WIDTH];
            padded[..bias.len()].copy_from_slice(bias);
            store(simd, whole, sums, &padded[..width], after);
            row[..most].copy_from_slice(&whole[..most]);
        }
    }
}

/// The widest panel of any instruction set.
const MAX_WIDTH: usize = 64;

#[inline(always)]
fn store<S: Simd>(simd: S, row: &mut [f32], sums: [S::f32s; PANEL_VECTORS], bias: &[f32], after: After) {
    let (bias, _) = S::as_simd_f32s(bias);
    let (out, _) = S::as_mut_simd_f32s(row);
    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
        let sum = simd.add_f32s(sum, *bias);
        *out = match after {
            After::Store => sum,
            After::Gelu => gelu(simd, sum),
            After::Add => simd.add_f32s(*out, sum),
        };
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, activation};

    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 1013.0 - 0.5).collect()
    }

    /// Rows and columns that fill tiles and panels and ones that do not.
    #[test]
    fn equals_burns_linear_gelu_and_residual_on_every_instruction_set() {
        let device = Device::flex();
        for (rows, inputs, outputs) in [(1, 5, 3), (14, 384, 384), (29, 40, 100), (3, 64, 33), (100, 7, 64)] {
            let (input, weight) = (numbers(rows * inputs, 1), numbers(inputs * outputs, 2));
            let (bias, held) = (numbers(outputs, 3), numbers(rows * outputs, 4));
            let tensor = |values: &[f32], shape: [usize; 2]| {
                Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
            };
            let product =
                tensor(&input, [rows, inputs]).matmul(tensor(&weight, [inputs, outputs])) + tensor(&bias, [1, outputs]);
            for instructions in InstructionSet::all() {
                let matrix = PackedMatrix::new(instructions, &weight, bias.clone());
                for after in [After::Store, After::Gelu, After::Add] {
                    let expected = match after {
                        After::Store => product.clone(),
                        After::Gelu => activation::gelu(product.clone()),
                        After::Add => product.clone() + tensor(&held, [rows, outputs]),
                    };
                    let expected = expected.into_data();
                    let mut found = held.clone();
                    matrix.multiply(&input, &mut found, after);
                    for (expected, found) in expected.as_slice::<f32>().unwrap().iter().zip(&found) {
                        let close = (expected - found).abs() <= 2e-5;
                        assert!(close, "{instructions:?} {after:?} {rows}x{inputs}x{outputs}: {expected} {found}");
                    }
                    let mut shared = held.clone();
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
                    pool.install(|| matrix.multiply_parallel(&input, &mut shared, after, &mut Vec::new()));
                    assert_eq!(found, shared, "{instructions:?} {after:?}: however many threads share the work");
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_to_the_bit_whatever_is_beside_it() {
        for instructions in InstructionSet::all() {
            let matrix = PackedMatrix::new(instructions, &numbers(384 * 100, 5), numbers(100, 6));
            let input = numbers(30 * 384, 7);
            let mut together = vec![0.0; 30 * 100];
            matrix.multiply(&input, &mut together, After::Gelu);
            for (input, together) in input.chunks_exact(384).zip(together.chunks_exact(100)) {
                let mut alone = vec![0.0; 100];
                matrix.multiply(input, &mut alone, After::Gelu);
                assert_eq!(alone, together);
            }
        }
    }
}
