//! What the kernels share: products of rows, and an exponential that compilers turn into vectors.
//!
//! Code that handles vectors stands in loops, not in closures: what is not inlined is compiled for a processor
//! without them.

use pulp::Simd;

/// A row as whole vectors and what is left of it.
pub type Split<'a, S> = (&'a [<S as Simd>::f32s], &'a [f32]);

/// Cuts a row into vectors.
#[inline(always)]
pub fn split<S: Simd>(row: &[f32]) -> Split<'_, S> {
    S::as_simd_f32s(row)
}

/// The products of M rows with N others, all of one length: sums [M][N].
///
/// The lines that lie `ahead` bytes after the second rows are fetched meanwhile: what the next call reads.
/// Each sum is one chain of vectors, so that it is the same whatever M and N are.
#[inline(always)]
pub fn products<S: Simd, const M: usize, const N: usize>(
    simd: S,
    left: [Split<'_, S>; M],
    right: [Split<'_, S>; N],
    ahead: usize,
) -> [[f32; N]; M] {
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    let whole = left[0].0.len();
    let left_whole: [&[S::f32s]; M] = std::array::from_fn(|m| &left[m].0[..whole]);
    let right_whole: [&[S::f32s]; N] = std::array::from_fn(|n| &right[n].0[..whole]);
    for i in 0..whole {
        let theirs: [S::f32s; N] = std::array::from_fn(|n| {
            fetch(&right_whole[n][i], ahead);
            right_whole[n][i]
        });
        for m in 0..M {
            let ours = left_whole[m][i];
            for n in 0..N {
                sums[m][n] = simd.mul_add_e_f32s(ours, theirs[n], sums[m][n]);
            }
        }
    }
    if !left[0].1.is_empty() {
        let theirs: [S::f32s; N] = std::array::from_fn(|n| simd.partial_load_f32s(right[n].1));
        for m in 0..M {
            let ours = simd.partial_load_f32s(left[m].1);
            for n in 0..N {
                sums[m][n] = simd.mul_add_e_f32s(ours, theirs[n], sums[m][n]);
            }
        }
    }
    let mut totals = [[0.0; N]; M];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = simd.reduce_sum_f32s(sum);
        }
    }
    totals
}

/// Asks for a line of memory that is read soon. It need not exist.
#[inline(always)]
fn fetch<T>(near: &T, ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address reads nothing and cannot fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(near).cast::<i8>().wrapping_add(ahead));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (near, ahead);
}

/// eˣ within two units in the last place, 0 < eˣ < ∞ for every number; NaN of NaN.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2; e^r is a polynomial (Taylor's, to the seventh power), 2ⁿ an exponent.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding it leaves whole numbers in the last bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, of which the first has few bits: n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = whole.mul_add(-LN2_LOW, whole.mul_add(-LN2_HIGH, x));
    let series = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let value = series.iter().fold(1.0 / 5040.0, |sum: f32, term| sum.mul_add(rest, *term));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    value * f32::from_bits(exponent)
}

/// Makes weights of scores, e^(score - largest), and returns their sum.
#[inline(always)]
pub fn weights<S: Simd>(simd: S, scores: &mut [f32]) -> f32 {
    let (whole, rest) = split::<S>(scores);
    let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
    for score in whole {
        largest = simd.max_f32s(largest, *score);
    }
    let largest = rest.iter().copied().fold(simd.reduce_max_f32s(largest), f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
    }
    let (whole, rest) = split::<S>(scores);
    let mut sum = simd.splat_f32s(0.0);
    for weight in whole {
        sum = simd.add_f32s(sum, *weight);
    }
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn the_exponential_is_near_the_librarys() {
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::INFINITY).is_finite());
    }
}
