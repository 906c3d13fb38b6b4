//! The one place that knows Python: `nano_batch._core`.
//!
//! Steps hold the GIL: they take microseconds, and giving it up could cost a whole switch
//! interval of another thread. Calls that can take longer release it.

mod block_cache;
mod buffers;
mod cost;
mod cpu;
mod engine;
mod errors;
mod events;
mod options;
mod policy;
mod sampling;
mod simulator;
mod values;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::block_cache::{BlockCache, belady_hits};
    #[pymodule_export]
    use super::buffers::StepCounts;
    #[pymodule_export]
    use super::cost::{CostModel, StepFeatures, cards};
    #[pymodule_export]
    use super::cpu::{
        cpu_available, cpu_linear, cpu_paged_attention, cpu_rms_norm, cpu_silu_mul, cpu_use_threads,
        cpu_write_kv,
    };
    #[pymodule_export]
    use super::engine::CoreEngine;
    #[pymodule_export]
    use super::errors::nearest;
    #[pymodule_export]
    const SAMPLER_VERSION: &str = crate::sampling::VERSION;
    #[pymodule_export]
    use super::sampling::{
        bursty_arrivals, family_prompts, length_tables, log_normal_lengths, poisson_arrivals,
        quantile_lengths, uniform_lengths,
    };

    #[pymodule_export]
    use super::simulator::simulate;

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
