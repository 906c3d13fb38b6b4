//! The samplers as functions that return NumPy arrays; the GIL is released while they draw.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use super::errors::raise;
use crate::error::Result;
use crate::sampling::{Arrivals, Families, Lengths, Stream, TABLES};

type Array<'py, T> = Bound<'py, PyArray1<T>>;

/// Draws without the GIL.
fn draw<T: Send>(py: Python<'_>, sample: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(sample).map_err(raise)
}

fn stream(outputs: bool) -> Stream {
    if outputs { Stream::Outputs } else { Stream::Prompts }
}

/// Arrival times in seconds, ascending, float64 [count]; gaps are exponential.
#[pyfunction]
#[pyo3(signature = (count, *, rate, seed))]
pub fn poisson_arrivals(py: Python<'_>, count: usize, rate: f64, seed: u64) -> PyResult<Array<'_, f64>> {
    let times = draw(py, || Arrivals::Poisson { rate }.sample(count, seed))?;
    Ok(times.into_pyarray(py))
}

/// Arrival times in seconds, ascending, float64 [count]; gaps are Gamma-distributed.
#[pyfunction]
#[pyo3(signature = (count, *, rate, cv, seed))]
pub fn bursty_arrivals(
    py: Python<'_>,
    count: usize,
    rate: f64,
    cv: f64,
    seed: u64,
) -> PyResult<Array<'_, f64>> {
    let times = draw(py, || Arrivals::Bursty { rate, cv }.sample(count, seed))?;
    Ok(times.into_pyarray(py))
}

/// Lengths in tokens, int64 [count], all whole numbers from low to high alike.
#[pyfunction]
#[pyo3(signature = (count, *, low, high, seed, outputs))]
pub fn uniform_lengths(
    py: Python<'_>,
    count: usize,
    low: i64,
    high: i64,
    seed: u64,
    outputs: bool,
) -> PyResult<Array<'_, i64>> {
    let lengths = Lengths::Uniform { low, high };
    Ok(draw(py, || lengths.sample(count, seed, stream(outputs)))?.into_pyarray(py))
}

/// Lengths in tokens, int64 [count], log-normal, clipped to [low, high].
#[pyfunction]
#[pyo3(signature = (count, *, mu, sigma, low, high, seed, outputs))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub fn log_normal_lengths(
    py: Python<'_>,
    count: usize,
    mu: f64,
    sigma: f64,
    low: i64,
    high: i64,
    seed: u64,
    outputs: bool,
) -> PyResult<Array<'_, i64>> {
    let lengths = Lengths::LogNormal { mu, sigma, low, high };
    Ok(draw(py, || lengths.sample(count, seed, stream(outputs)))?.into_pyarray(py))
}

/// Lengths in tokens, int64 [count], from a table of quantiles.
#[pyfunction]
#[pyo3(signature = (count, *, probabilities, tokens, seed, outputs))]
pub fn quantile_lengths(
    py: Python<'_>,
    count: usize,
    probabilities: Vec<f64>,
    tokens: Vec<f64>,
    seed: u64,
    outputs: bool,
) -> PyResult<Array<'_, i64>> {
    let lengths = Lengths::Quantiles { probabilities, tokens };
    Ok(draw(py, || lengths.sample(count, seed, stream(outputs)))?.into_pyarray(py))
}

/// (family int32 [n], prompt tokens int64 [n], offsets int64 [n + 1], block ids int32).
type PyPrompts<'py> = (Array<'py, i32>, Array<'py, i64>, Array<'py, i64>, Array<'py, i32>);

/// The prompts of shared-prefix families: family (−1: none), tokens with the prefix, and block ids.
#[pyfunction]
#[pyo3(signature = (own_tokens, *, count, prefix_blocks, block_size, share, skew, seed))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub fn family_prompts<'py>(
    py: Python<'py>,
    own_tokens: PyReadonlyArray1<'py, i64>,
    count: u32,
    prefix_blocks: u32,
    block_size: u32,
    share: f64,
    skew: f64,
    seed: u64,
) -> PyResult<PyPrompts<'py>> {
    let own_tokens = own_tokens.as_array().to_vec();
    let families = Families { count, prefix_blocks, block_size, share, skew };
    let prompts = draw(py, || families.sample(&own_tokens, seed))?;
    Ok((
        prompts.family.into_pyarray(py),
        prompts.tokens.into_pyarray(py),
        prompts.offsets.into_pyarray(py),
        prompts.ids.into_pyarray(py),
    ))
}

/// The length tables that are compiled in: name to JSON text.
#[pyfunction]
pub fn length_tables() -> Vec<(&'static str, &'static str)> {
    TABLES.to_vec()
}
