//! The kernels of a processor over NumPy's arrays, which others share; the GIL is released while they run.

use numpy::ndarray::Dimension;
use numpy::{PyArrayMethods, PyUntypedArrayMethods};
use numpy::{PyReadonlyArray, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyReadonlyArray4};
use numpy::{PyReadwriteArray, PyReadwriteArray2, PyReadwriteArray3, PyReadwriteArray4};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::errors::raise;
use crate::cpu::attention::{PagedRows, paged_attention};
use crate::cpu::cache::{Rope, rotate, store};
use crate::cpu::linear::linear;
use crate::cpu::rows::{rms_norm, silu_mul};
use crate::cpu::team::{Parallel, use_threads};
use crate::cpu::{Place, Vectors, VectorsMut, available};

/// Whether this processor runs the kernels at speed.
#[pyfunction]
pub fn cpu_available() -> bool {
    available()
}

/// Has the kernels compute on OpenMP's threads: the address of `GOMP_parallel` in a library that stays loaded.
#[pyfunction]
pub fn cpu_use_threads(address: usize) -> PyResult<()> {
    if address == 0 {
        return Err(PyValueError::new_err("the address is 0"));
    }
    // SAFETY: the caller vouches for the address; this is the function's type in GCC's OpenMP library.
    unsafe { use_threads(std::mem::transmute::<usize, Parallel>(address)) };
    Ok(())
}

/// out [m, n] = x [m, k] weight [n, k]ᵀ, all float32 and contiguous.
#[pyfunction]
pub fn cpu_linear(
    py: Python<'_>,
    x: PyReadonlyArray2<'_, f32>,
    weight: PyReadonlyArray2<'_, f32>,
    mut out: PyReadwriteArray2<'_, f32>,
    threads: usize,
) -> PyResult<()> {
    let sizes = [x.shape()[0], weight.shape()[0], weight.shape()[1]];
    let (x, weight, out) = (x.as_slice()?, weight.as_slice()?, out.as_slice_mut()?);
    py.detach(|| linear(x, weight, out, sizes, threads)).map_err(raise)
}

/// out = x / sqrt(mean(x²) + eps) * weight by rows, [rows, size]; residual becomes residual + x, and x that.
#[pyfunction]
pub fn cpu_rms_norm(
    py: Python<'_>,
    x: PyReadonlyArray2<'_, f32>,
    residual: Option<PyReadwriteArray2<'_, f32>>,
    weight: PyReadonlyArray1<'_, f32>,
    eps: f32,
    mut out: PyReadwriteArray2<'_, f32>,
    threads: usize,
) -> PyResult<()> {
    let mut residual = residual;
    let residual = residual.as_mut().map(|residual| residual.as_slice_mut()).transpose()?;
    let (x, weight, out) = (x.as_slice()?, weight.as_slice()?, out.as_slice_mut()?);
    py.detach(|| rms_norm(x, residual, weight, eps, out, threads)).map_err(raise)
}

/// out [rows, size] = silu(gate) * up of rows [2 size] that hold first gate, then up.
#[pyfunction]
pub fn cpu_silu_mul(
    py: Python<'_>,
    gate_up: PyReadonlyArray2<'_, f32>,
    mut out: PyReadwriteArray2<'_, f32>,
    threads: usize,
) -> PyResult<()> {
    let size = out.shape()[1];
    let (gate_up, out) = (gate_up.as_slice()?, out.as_slice_mut()?);
    py.detach(|| silu_mul(gate_up, out, size, threads)).map_err(raise)
}

/// Stores keys and values [tokens, kv_heads, head_dim] in their slots of the caches
/// [num_blocks, block_size, kv_heads, head_dim]; keys and queries are turned to their positions first.
#[pyfunction]
#[pyo3(signature = (keys, values, key_cache, value_cache, slots, rope, query))]
#[allow(clippy::too_many_arguments)]
pub fn cpu_write_kv(
    py: Python<'_>,
    keys: PyReadonlyArray3<'_, f32>,
    values: PyReadonlyArray3<'_, f32>,
    mut key_cache: PyReadwriteArray4<'_, f32>,
    mut value_cache: PyReadwriteArray4<'_, f32>,
    slots: PyReadonlyArray1<'_, i64>,
    rope: Option<(PyReadonlyArray1<'_, i64>, PyReadonlyArray2<'_, f32>, PyReadonlyArray2<'_, f32>)>,
    query: Option<PyReadwriteArray3<'_, f32>>,
) -> PyResult<()> {
    let (keys, values, slots) = (vectors(&keys)?, vectors(&values)?, slots.as_slice()?);
    let (key_cache, value_cache) = (vectors_mut(&mut key_cache)?, vectors_mut(&mut value_cache)?);
    let rope = match &rope {
        None => None,
        Some((positions, cosines, sines)) => Some(Rope {
            positions: positions.as_slice()?,
            half: cosines.shape()[1],
            cosines: cosines.as_slice()?,
            sines: sines.as_slice()?,
        }),
    };
    let mut query = query;
    let query = query.as_mut().map(vectors_mut).transpose()?;
    py.detach(|| {
        if let (Some(query), Some(rope)) = (query, rope) {
            rope.check(slots.len(), 2 * rope.half)?; // as `store` does, which comes when queries are changed
            rotate(query, rope)?;
        }
        store(keys, key_cache, slots, rope)?;
        store(values, value_cache, slots, None)
    })
    .map_err(raise)
}

/// Attends from query [tokens, heads, head_dim] to the keys in the caches that its rows name; into `out`,
/// contiguous.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn cpu_paged_attention(
    py: Python<'_>,
    query: PyReadonlyArray3<'_, f32>,
    key_cache: PyReadonlyArray4<'_, f32>,
    value_cache: PyReadonlyArray4<'_, f32>,
    block_table: PyReadonlyArray2<'_, i32>,
    context_lens: PyReadonlyArray1<'_, i32>,
    query_start_loc: PyReadonlyArray1<'_, i32>,
    scale: f32,
    window: Option<usize>,
    mut out: PyReadwriteArray3<'_, f32>,
    threads: usize,
) -> PyResult<()> {
    let (query, keys, values) = (vectors(&query)?, vectors(&key_cache)?, vectors(&value_cache)?);
    let table = place::<1>(block_table.shape(), block_table.strides(), size_of::<i32>())?;
    let rows = PagedRows {
        // SAFETY: the array's own elements, from the first to the last.
        block_table: unsafe { std::slice::from_raw_parts(block_table.data(), table.extent()) },
        width: table.size,
        stride: table.strides[0],
        context_lens: context_lens.as_slice()?,
        query_start_loc: query_start_loc.as_slice()?,
        window,
    };
    let out = out.as_slice_mut()?;
    py.detach(|| paged_attention(query, keys, values, rows, scale, out, threads)).map_err(raise)
}

/// Where the vectors of an array lie: its last dimension holds their elements, next to each other.
fn place<const N: usize>(shape: &[usize], strides: &[isize], itemsize: usize) -> PyResult<Place<N>> {
    let wrong =
        || PyValueError::new_err(format!("strides of {strides:?} bytes; the last must be {itemsize}"));
    let steps: Option<Vec<usize>> =
        strides.iter().map(|stride| usize::try_from(*stride).ok().map(|stride| stride / itemsize)).collect();
    let steps = steps.ok_or_else(wrong)?;
    // An array without elements has whatever strides.
    if steps[N] != 1 && shape[N] > 1 && !shape.contains(&0) {
        return Err(wrong());
    }
    let first = |numbers: &[usize]| std::array::from_fn(|i| numbers[i]);
    Ok(Place { shape: first(shape), strides: first(&steps), size: shape[N] })
}

fn vectors<'a, const N: usize, D: Dimension>(
    array: &'a PyReadonlyArray<'_, f32, D>,
) -> PyResult<Vectors<'a, N>> {
    let place = place(array.shape(), array.strides(), size_of::<f32>())?;
    // SAFETY: they are the array's own elements, borrowed as long as the array is.
    Ok(unsafe { Vectors::new(array.data(), place) })
}

fn vectors_mut<'a, const N: usize, D: Dimension>(
    array: &'a mut PyReadwriteArray<'_, f32, D>,
) -> PyResult<VectorsMut<'a, N>> {
    let place = place(array.shape(), array.strides(), size_of::<f32>())?;
    // SAFETY: as above, and nobody else has borrowed them.
    Ok(unsafe { VectorsMut::new(array.data(), place) })
}
