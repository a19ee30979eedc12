//! The innermost loop of every product here: a few rows times one panel of columns, all sums held in registers.
//!
//! A panel is two vectors wide, so that each number that is read of a row is used twice; with up to `rows_at_once` rows there are enough
//! independent sums to keep both multipliers of a core busy. Method: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix
//! Multiplication", without its packing of the left operand, whose rows are short enough to stay in the cache as they are.

use std::ops::Range;

use pulp::Simd;

/// Vectors side by side in a panel.
pub(super) const PANEL_VECTORS: usize = 2;
/// The most rows of a tile; the instruction set may allow fewer.
pub(super) const MAX_ROWS: usize = 14;

/// How many rows a tile may have so that its sums stay in registers, with some left for the panel's two vectors.
#[inline(always)]
pub(super) const fn rows_at_once<S: Simd>() -> usize {
    let rows = (S::REGISTER_COUNT - 4) / PANEL_VECTORS;
    if rows < MAX_ROWS { rows } else { MAX_ROWS }
}

/// Cuts `rows` rows into groups of nearly equal size, none larger than `most`: 14 and a limit of 12 are 7 and 7, since a group of 2 would
/// leave the multipliers waiting.
#[inline(always)]
pub(super) fn row_groups(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let groups = rows.div_ceil(most);
    (0..groups).map(move |group| group * rows / groups..(group + 1) * rows / groups)
}

/// The left operand of a tile: `depth` numbers of each row, rows `stride` numbers apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) depth: usize,
}

impl<'a> Rows<'a> {
    /// From row `first` on.
    #[inline(always)]
    pub(super) fn from(self, first: usize) -> Rows<'a> {
        Rows { values: &self.values[first * self.stride..], ..self }
    }
}

/// The right operand: `V` vectors for each step of the depth.
pub(super) trait Panel<S: Simd, const V: usize>: Copy {
    /// The vectors of one step.
    fn step(self, step: usize) -> [S::f32s; V];
}

/// A panel whose vectors lie one after the other.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a, S: Simd, const V: usize>(&'a [S::f32s]);

impl<'a, S: Simd, const V: usize> Packed<'a, S, V> {
    /// Takes the first `depth` steps of `values`.
    #[inline(always)]
    pub(super) fn new(values: &'a [f32], depth: usize) -> Self {
        Packed(&S::as_simd_f32s(values).0[..V * depth])
    }
}

impl<S: Simd, const V: usize> Panel<S, V> for Packed<'_, S, V> {
    #[inline(always)]
    fn step(self, step: usize) -> [S::f32s; V] {
        std::array::from_fn(|v| self.0[V * step + v])
    }
}

/// A panel that is a few columns of wider rows.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    /// Begins with the first column of the first row.
    pub(super) values: &'a [f32],
    /// Numbers from one row to the next.
    pub(super) stride: usize,
}

impl<S: Simd, const V: usize> Panel<S, V> for Strided<'_> {
    #[inline(always)]
    fn step(self, step: usize) -> [S::f32s; V] {
        let (vectors, _) = S::as_simd_f32s(&self.values[step * self.stride..][..V * S::F32_LANES]);
        std::array::from_fn(|v| vectors[v])
    }
}

/// `R` rows times a panel of `V` vectors: every sum runs over the depth in order.
#[expect(clippy::needless_range_loop, reason = "sums stay in registers only where every index is a constant")]
#[inline(always)]
pub(super) fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: Rows<'_>,
    panel: impl Panel<S, V>,
) -> [[S::f32s; V]; R] {
    let Rows { values, stride, depth } = rows;
    let row: [&[f32]; R] = std::array::from_fn(|r| &values[r * stride..][..depth]);
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for step in 0..depth {
        let right = panel.step(step);
        for r in 0..R {
            let left = simd.splat_f32s(row[r][step]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(left, right[v], sums[r][v]);
            }
        }
    }
    sums
}

/// Calls `$tile::<R>` for a number of rows that is known only at run time; each number is a loop of its own, so that its sums are registers.
macro_rules! with_rows {
    ($rows:expr, $R:ident => $call:expr) => {
        match $rows {
            1 => {
                const $R: usize = 1;
                $call
            }
            2 => {
                const $R: usize = 2;
                $call
            }
            3 => {
                const $R: usize = 3;
                $call
            }
            4 => {
                const $R: usize = 4;
                $call
            }
            5 => {
                const $R: usize = 5;
                $call
            }
            6 => {
                const $R: usize = 6;
                $call
            }
            7 => {
                const $R: usize = 7;
                $call
            }
            8 => {
                const $R: usize = 8;
                $call
            }
            9 => {
                const $R: usize = 9;
                $call
            }
            10 => {
                const $R: usize = 10;
                $call
            }
            11 => {
                const $R: usize = 11;
                $call
            }
            12 => {
                const $R: usize = 12;
                $call
            }
            13 => {
                const $R: usize = 13;
                $call
            }
            _ => {
                const $R: usize = 14;
                $call
            }
        }
    };
}
pub(super) use with_rows;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_nearly_equal_and_cover_all_rows() {
        for rows in 0..100 {
            let groups: Vec<_> = row_groups(rows, 14).collect();
            assert_eq!(groups.iter().map(Range::len).sum::<usize>(), rows);
            assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start));
            let (least, most) = (groups.iter().map(Range::len).min(), groups.iter().map(Range::len).max());
            assert!(most <= Some(14) && most.unwrap_or(0) - least.unwrap_or(0) <= 1, "{groups:?}");
        }
    }
}
