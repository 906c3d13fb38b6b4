//! The one place that knows Python: `nano_batch._core`.
//!
//! Steps hold the GIL: they take microseconds, and giving it up could cost a whole switch
//! interval of another thread. Calls that can take longer release it.

mod block_cache;
mod buffers;
mod engine;
mod errors;
mod values;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::block_cache::BlockCache;
    #[pymodule_export]
    use super::buffers::StepCounts;
    #[pymodule_export]
    use super::engine::CoreEngine;
    #[pymodule_export]
    use super::errors::nearest;

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
