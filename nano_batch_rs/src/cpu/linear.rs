//! A matrix times few rows: the weight is read once, from memory, and each of its rows meets all of theirs.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::team::for_each;
use super::vector::{Split, products, split};
use super::{Out, need};
use crate::error::Result;

/// Rows that are computed together; more are taken by so many at a time.
const TILE: usize = 8;
/// Rows of the weight that meet all others before the next are read: whole tiles, whatever their size. They
/// stay in the second cache, where the first has no room for many rows of theirs.
const CHUNK: usize = 24;
/// Multiplications that are worth the threads' attention.
const WORTH_THREADS: usize = 1 << 16;

/// out = x weightᵀ: x [m, k], weight [n, k], out [m, n], each contiguous.
///
/// # Errors
/// The sizes do not fit together.
pub fn linear(x: &[f32], weight: &[f32], out: &mut [f32], sizes: [usize; 3], threads: usize) -> Result<()> {
    let [m, n, k] = sizes;
    need(x.len() == m * k, "x", x.len(), format_args!("{m} x {k}"))?;
    need(weight.len() == n * k, "weight", weight.len(), format_args!("{n} x {k}"))?;
    need(out.len() == m * n, "out", out.len(), format_args!("{m} x {n}"))?;
    let threads = if m * n * k < WORTH_THREADS { 1 } else { threads.max(1) };
    // A few tasks for each thread: the one that is held up has fewer of them.
    let chunk = n.div_ceil(4 * threads).next_multiple_of(CHUNK);
    let arch = Arch::new();
    let out = Out(out.as_mut_ptr());
    for_each(threads, n.div_ceil(chunk), &|task| {
        let rows = task * chunk..n.min((task + 1) * chunk);
        arch.dispatch(Task { x, weight, out, sizes, rows });
    });
    Ok(())
}

struct Task<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    out: Out<f32>,
    sizes: [usize; 3],
    rows: Range<usize>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let m = self.sizes[0];
        for start in self.rows.clone().step_by(CHUNK) {
            let chunk = start..self.rows.end.min(start + CHUNK);
            // As many rows of the weight at a time as there are registers for their sums.
            for first in (0..m / TILE * TILE).step_by(TILE) {
                self.chunk::<S, TILE, 3>(simd, first, &chunk);
            }
            let first = m / TILE * TILE;
            match m % TILE {
                1 => self.chunk::<S, 1, 8>(simd, first, &chunk),
                2 => self.chunk::<S, 2, 8>(simd, first, &chunk),
                3 => self.chunk::<S, 3, 6>(simd, first, &chunk),
                4 => self.chunk::<S, 4, 6>(simd, first, &chunk),
                5 => self.chunk::<S, 5, 4>(simd, first, &chunk),
                6 => self.chunk::<S, 6, 4>(simd, first, &chunk),
                7 => self.chunk::<S, 7, 3>(simd, first, &chunk),
                _ => (),
            }
        }
    }
}

impl Task<'_> {
    /// M rows of x from `first` on against some rows of the weight, N at a time.
    #[inline(always)]
    fn chunk<S: Simd, const M: usize, const N: usize>(&self, simd: S, first: usize, rows: &Range<usize>) {
        let whole = rows.start + rows.len() / N * N;
        for n in (rows.start..whole).step_by(N) {
            self.tile::<S, M, N>(simd, first, n);
        }
        for n in whole..rows.end {
            self.tile::<S, M, 1>(simd, first, n);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&self, simd: S, first: usize, n: usize) {
        let [_, columns, k] = self.sizes;
        let right: [Split<'_, S>; N] = std::array::from_fn(|i| self.row::<S>(self.weight, n + i));
        let left: [Split<'_, S>; M] = std::array::from_fn(|i| self.row::<S>(self.x, first + i));
        let sums = products::<S, M, N>(simd, left, right, N * k * size_of::<f32>());
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: within `out`, and in columns that only this task has.
            unsafe { self.out.slice((first + i) * columns + n, N) }.copy_from_slice(sums);
        }
    }

    #[inline(always)]
    fn row<'a, S: Simd>(&self, matrix: &'a [f32], index: usize) -> Split<'a, S> {
        let k = self.sizes[2];
        split::<S>(&matrix[index * k..(index + 1) * k])
    }
}

#[cfg(test)]
mod tests {
    use super::super::team::tests::with_threads;
    use super::*;

    #[test]
    fn equals_the_sums_of_products() {
        with_threads();
        let mut seed = 1u64;
        let mut draw = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        for (m, n, k) in [
            (1, 1, 1),
            (1, 50, 33),
            (2, 8, 16),
            (3, 7, 64),
            (5, 100, 48),
            (8, 24, 256),
            (9, 97, 130),
            (33, 30, 20),
        ] {
            let x: Vec<f32> = (0..m * k).map(|_| draw()).collect();
            let weight: Vec<f32> = (0..n * k).map(|_| draw()).collect();
            let mut out = vec![f32::NAN; m * n];
            linear(&x, &weight, &mut out, [m, n, k], 3).unwrap();
            let mut alone = vec![f32::NAN; n];
            for row in 0..m {
                for column in 0..n {
                    let exact: f64 =
                        (0..k).map(|i| f64::from(x[row * k + i]) * f64::from(weight[column * k + i])).sum();
                    assert!((f64::from(out[row * n + column]) - exact).abs() < 1e-5);
                }
                linear(&x[row * k..(row + 1) * k], &weight, &mut alone, [1, n, k], 1).unwrap();
                assert_eq!(alone, out[row * n..(row + 1) * n], "alone or with others, bit for bit");
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let mut out = [0.0; 2];
        assert!(linear(&[0.0; 3], &[0.0; 6], &mut out, [1, 2, 4], 1).is_err());
        assert!(linear(&[0.0; 4], &[0.0; 6], &mut out, [1, 2, 4], 1).is_err());
        assert!(linear(&[0.0; 4], &[0.0; 12], &mut out, [1, 3, 4], 1).is_err());
    }
}
