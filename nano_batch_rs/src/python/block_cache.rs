use numpy::PyReadonlyArray1;
use pyo3::prelude::*;

use super::errors::Raised;
use super::{shown, values};
use crate::block_cache;
use crate::config::{Choice, Eviction};

/// The prefix cache alone, without requests: what a trace would hit at a given size.
///
/// `num_blocks`: blocks it holds; `eviction`: "lru", "lfu" or "fifo".
#[pyclass(module = "nano_batch._core")]
pub struct BlockCache(block_cache::BlockCache);

#[pymethods]
impl BlockCache {
    #[new]
    #[pyo3(signature = (num_blocks, eviction = "lru"))]
    fn new(num_blocks: &Bound<'_, PyAny>, eviction: &str) -> PyResult<Self> {
        let num_blocks = values::count("num_blocks", num_blocks)?;
        let eviction = Eviction::parse(eviction).map_err(Raised)?;
        Ok(BlockCache(block_cache::BlockCache::new(num_blocks, eviction).map_err(Raised)?))
    }

    /// One request over the chained block ids `ids` (int32 [blocks]); the number of leading
    /// blocks that were there before it.
    fn access(&mut self, ids: PyReadonlyArray1<'_, i32>) -> usize {
        self.0.access(&ids.as_array().to_vec())
    }

    /// Blocks that hold content now.
    #[getter]
    fn num_cached(&self) -> u32 {
        self.0.num_cached()
    }

    fn __repr__(&self) -> String {
        format!("BlockCache({} blocks cached)", self.0.num_cached())
    }

    fn _repr_html_(&self) -> String {
        let rows = [("blocks cached", self.0.num_cached() as usize)];
        shown::html_table("BlockCache", &rows)
    }
}
