use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use super::errors::Raised;
use super::values::{self, count, html_table};
use crate::block_cache;
use crate::config::{Choice, Eviction};

/// The prefix cache alone, without requests: what a trace would hit at a given size.
///
/// `num_blocks`: blocks it holds; `eviction`: "lru", "lfu" or "fifo".
#[pyclass(module = "nano_batch._core")]
pub struct BlockCache {
    cache: block_cache::BlockCache,
    num_blocks: u32,
    eviction: String,
}

#[pymethods]
impl BlockCache {
    #[new]
    #[pyo3(signature = (num_blocks, eviction = "lru"))]
    fn new(num_blocks: &Bound<'_, PyAny>, eviction: &str) -> PyResult<Self> {
        let num_blocks = values::count("num_blocks", num_blocks, 1).map_err(Raised)?;
        let order = Eviction::parse(eviction).map_err(Raised)?;
        let cache = block_cache::BlockCache::new(num_blocks, order).map_err(Raised)?;
        Ok(BlockCache { cache, num_blocks, eviction: eviction.to_owned() })
    }

    /// One request over the chained block ids `ids` (int32 [blocks]); the number of leading
    /// blocks that were there before it.
    fn access(&mut self, ids: PyReadonlyArray1<'_, i32>) -> usize {
        self.cache.access(&ids.as_array().to_vec())
    }

    /// Many requests in their order: request i asks for the chain `ids[offsets[i]:offsets[i + 1]]`. What
    /// `access` returns for each, uint32 [requests].
    fn access_all<'py>(
        &mut self,
        py: Python<'py>,
        offsets: PyReadonlyArray1<'py, i64>,
        ids: PyReadonlyArray1<'py, i32>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let (offsets, ids) = (offsets.as_array().to_vec(), ids.as_array().to_vec());
        let hits = py.detach(|| self.cache.access_all(&offsets, &ids)).map_err(Raised)?;
        Ok(hits.into_pyarray(py))
    }

    /// Blocks that hold content now.
    #[getter]
    fn num_cached(&self) -> u32 {
        self.cache.num_cached()
    }

    fn __repr__(&self) -> String {
        format!("BlockCache({} blocks, {}: {} cached)", self.num_blocks, self.eviction, self.num_cached())
    }

    fn _repr_html_(&self, py: Python<'_>) -> PyResult<String> {
        let rows = [("blocks cached", self.num_cached()), ("blocks", self.num_blocks)];
        html_table(py, &format!("BlockCache, {}", self.eviction), &rows)
    }
}

/// Blocks of each request's unbroken cached prefix under optimal eviction, uint32 [requests].
#[pyfunction]
pub fn belady_hits<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    ids: PyReadonlyArray1<'py, i32>,
    num_blocks: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u32>>> {
    let blocks = count("num_blocks", num_blocks, 1).map_err(Raised)?;
    let (offsets, ids) = (offsets.as_array().to_vec(), ids.as_array().to_vec());
    let hits = py.detach(|| crate::belady::hits(&offsets, &ids, blocks)).map_err(Raised)?;
    Ok(hits.into_pyarray(py))
}
