//! What lies between the matrices of a layer, row by row.

use pulp::{Arch, Simd, WithSimd};

use super::team::for_each;
use super::vector::{exp, split};
use super::{Out, need};
use crate::error::Result;

/// Elements that are worth the threads' attention.
const WORTH_THREADS: usize = 1 << 14;

/// Does `row` for each of the rows, on threads if they are long enough together.
fn for_rows(threads: usize, rows: usize, size: usize, row: impl Fn(usize) + Sync) {
    let threads = if rows * size < WORTH_THREADS { 1 } else { threads.max(1) };
    let chunk = rows.div_ceil(4 * threads).max(1);
    for_each(threads, rows.div_ceil(chunk), &|task| {
        (task * chunk..rows.min((task + 1) * chunk)).for_each(&row);
    });
}

/// out = x / sqrt(mean(x²) + eps) * weight of each row; with a residual, which becomes residual + x, of that.
///
/// # Errors
/// The sizes do not fit together.
pub fn rms_norm(
    x: &[f32],
    residual: Option<&mut [f32]>,
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
    threads: usize,
) -> Result<()> {
    let size = weight.len();
    need(size > 0, "weight", size, "at least 1 element")?;
    need(x.len().is_multiple_of(size), "x", x.len(), format_args!("rows of {size}"))?;
    need(out.len() == x.len(), "out", out.len(), x.len())?;
    let residual = match residual {
        Some(residual) => {
            need(residual.len() == x.len(), "residual", residual.len(), x.len())?;
            Some(Out(residual.as_mut_ptr()))
        }
        None => None,
    };
    let (arch, out) = (Arch::new(), Out(out.as_mut_ptr()));
    for_rows(threads, x.len() / size, size, |row| {
        let at = row * size;
        let x = &x[at..at + size];
        // SAFETY: each row is one task's.
        let out = unsafe { out.slice(at, size) };
        let residual = residual.as_ref().map(|residual| unsafe { residual.slice(at, size) });
        arch.dispatch(Norm { x, residual, weight, eps, out });
    });
    Ok(())
}

struct Norm<'a> {
    x: &'a [f32],
    residual: Option<&'a mut [f32]>,
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let row = match self.residual {
            Some(residual) => {
                for (sum, x) in residual.iter_mut().zip(self.x) {
                    *sum += x;
                }
                &*residual
            }
            None => self.x,
        };
        let (whole, rest) = split::<S>(row);
        let mut squares = simd.splat_f32s(0.0);
        for x in whole {
            squares = simd.mul_add_f32s(*x, *x, squares);
        }
        let squares = simd.reduce_sum_f32s(squares) + rest.iter().map(|x| x * x).sum::<f32>();
        let factor = 1.0 / (squares / row.len() as f32 + self.eps).sqrt();
        for ((out, x), weight) in self.out.iter_mut().zip(row).zip(self.weight) {
            *out = x * factor * weight;
        }
    }
}

/// out = silu(gate) * up of rows that hold first gate, then up: gate_up [rows, 2 size], out [rows, size].
///
/// # Errors
/// The sizes do not fit together.
pub fn silu_mul(gate_up: &[f32], out: &mut [f32], size: usize, threads: usize) -> Result<()> {
    need(size > 0, "size", size, "at least 1")?;
    need(out.len().is_multiple_of(size), "out", out.len(), format_args!("rows of {size}"))?;
    need(gate_up.len() == 2 * out.len(), "gate_up", gate_up.len(), 2 * out.len())?;
    let (arch, rows, out) = (Arch::new(), out.len() / size, Out(out.as_mut_ptr()));
    for_rows(threads, rows, 4 * size, |row| {
        let (gate, up) = gate_up[2 * row * size..2 * (row + 1) * size].split_at(size);
        // SAFETY: each row is one task's.
        arch.dispatch(Gated { gate, up, out: unsafe { out.slice(row * size, size) } });
    });
    Ok(())
}

struct Gated<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((out, gate), up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::team::tests::with_threads;
    use super::*;

    #[test]
    fn a_norm_of_a_sum() {
        with_threads();
        for (rows, size) in [(1, 1), (3, 37), (40, 768)] {
            let x: Vec<f32> = (0..rows * size).map(|i| (i as f32 * 0.7).sin()).collect();
            let weight: Vec<f32> = (0..size).map(|i| 1.0 + i as f32 / size as f32).collect();
            let mut residual: Vec<f32> = (0..rows * size).map(|i| (i as f32 * 1.3).cos()).collect();
            let sums: Vec<f32> = residual.iter().zip(&x).map(|(a, b)| a + b).collect();
            let mut out = vec![f32::NAN; x.len()];
            rms_norm(&x, Some(&mut residual), &weight, 1e-5, &mut out, 2).unwrap();
            assert_eq!(residual, sums);
            let mut again = vec![f32::NAN; x.len()];
            rms_norm(&sums, None, &weight, 1e-5, &mut again, 2).unwrap();
            assert_eq!(out, again);
            for (row, out) in sums.chunks(size).zip(out.chunks(size)) {
                let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / size as f64;
                for ((x, weight), out) in row.iter().zip(&weight).zip(out) {
                    let exact = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*weight);
                    assert!((exact - f64::from(*out)).abs() < 1e-5 * exact.abs().max(1.0));
                }
            }
        }
    }

    #[test]
    fn a_gate() {
        with_threads();
        let gate_up: Vec<f32> = (0..2 * 3 * 77).map(|i| (i as f32 - 200.0) * 0.6).collect();
        let mut out = vec![f32::NAN; 3 * 77];
        silu_mul(&gate_up, &mut out, 77, 2).unwrap();
        for (row, out) in gate_up.chunks(2 * 77).zip(out.chunks(77)) {
            for i in 0..77 {
                let (gate, up) = (f64::from(row[i]), f64::from(row[77 + i]));
                let exact = gate / (1.0 + (-gate).exp()) * up;
                assert!((exact - f64::from(out[i])).abs() < 1e-6 * exact.abs().max(1.0));
            }
        }
    }
}
