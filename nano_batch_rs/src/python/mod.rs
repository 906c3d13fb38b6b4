//! The one place that knows Python: `nano_batch._core`.

mod sampling;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    const SAMPLER_VERSION: &str = crate::sampling::VERSION;
    #[pymodule_export]
    use super::sampling::{
        bursty_arrivals, family_prompts, length_tables, log_normal_lengths, poisson_arrivals,
        quantile_lengths, uniform_lengths,
    };

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
