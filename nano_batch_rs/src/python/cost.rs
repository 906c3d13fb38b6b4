//! Cost models as Python makes them, and a Python function as one.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors::{Raised, raise};
use crate::error::{Error, Result};
use crate::simulator::cost::{CostModel as Cost, Features, Grid, Profile, Roofline, StepTime};

/// Where an exception of the reader's own code waits until the simulation has stopped.
pub type Raising = Arc<Mutex<Option<PyErr>>>;

#[derive(Clone)]
enum Model {
    Constant(StepTime),
    Roofline(Roofline),
    Profile(Box<Profile>),
    Function(Arc<Py<PyAny>>),
}

/// Seconds of a step from what it asks of host and device.
#[pyclass(frozen, module = "nano_batch._core")]
#[derive(Clone)]
pub struct CostModel(Model);

/// What a step asks of the device (docs/costs.md).
#[pyclass(frozen, module = "nano_batch._core")]
pub struct StepFeatures(Features);

macro_rules! feature_getters {
    ($($name:ident),*) => {
        #[pymethods]
        impl StepFeatures {
            #[new]
            #[pyo3(signature = (*, $($name = 0),*))]
            #[allow(clippy::too_many_arguments)]
            fn new($($name: u64),*) -> Self {
                StepFeatures(Features { $($name),* })
            }

            $(#[getter]
            fn $name(&self) -> u64 {
                self.0.$name
            })*

            fn __repr__(&self) -> String {
                let all = [$((stringify!($name), self.0.$name)),*];
                let set: Vec<_> = all.iter().filter(|(_, value)| *value > 0).collect();
                let shown: Vec<_> = set.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("StepFeatures({})", shown.join(", "))
            }
        }
    };
}

feature_getters!(
    prefill_tokens,
    prefill_sequences,
    decode_sequences,
    decode_context,
    decode_context_max,
    prefill_context,
    prefill_pairs,
    sampled,
    blocks_copied,
    blocks_swapped_out,
    blocks_swapped_in
);

#[pymethods]
impl CostModel {
    /// Every step takes the same.
    #[staticmethod]
    fn constant(host_s: f64, device_s: f64) -> PyResult<Self> {
        Ok(CostModel(Model::Constant(StepTime { host_s, device_s }.checked().map_err(Raised)?)))
    }

    #[staticmethod]
    #[pyo3(signature = (*, flops_per_s, bytes_per_s, host_bytes_per_s, overhead_s, host_s, host_per_sequence_s,
        weight_bytes, flops_per_token, flops_per_sample, flops_per_pair, kv_bytes_per_token, block_bytes))]
    #[allow(clippy::too_many_arguments)]
    fn roofline(
        flops_per_s: f64,
        bytes_per_s: f64,
        host_bytes_per_s: f64,
        overhead_s: f64,
        host_s: f64,
        host_per_sequence_s: f64,
        weight_bytes: f64,
        flops_per_token: f64,
        flops_per_sample: f64,
        flops_per_pair: f64,
        kv_bytes_per_token: f64,
        block_bytes: f64,
    ) -> PyResult<Self> {
        let roofline = Roofline {
            flops_per_s,
            bytes_per_s,
            host_bytes_per_s,
            overhead_s,
            host_s,
            host_per_sequence_s,
            weight_bytes,
            flops_per_token,
            flops_per_sample,
            flops_per_pair,
            kv_bytes_per_token,
            block_bytes,
        };
        roofline.check().map_err(Raised)?;
        Ok(CostModel(Model::Roofline(roofline)))
    }

    /// Tables: each grid is (x, y, seconds), y fastest; y of one entry for a function of x alone.
    #[staticmethod]
    #[pyo3(signature = (*, linear, decode_attention, prefill_attention, sampling, overhead_s, host_s,
        host_per_sequence_s, block_copy_s, block_swap_s, batch_sizes))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn profile(
        linear: (Vec<f64>, Vec<f64>, Vec<f64>),
        decode_attention: (Vec<f64>, Vec<f64>, Vec<f64>),
        prefill_attention: (Vec<f64>, Vec<f64>, Vec<f64>),
        sampling: (Vec<f64>, Vec<f64>, Vec<f64>),
        overhead_s: f64,
        host_s: f64,
        host_per_sequence_s: f64,
        block_copy_s: f64,
        block_swap_s: f64,
        batch_sizes: Vec<u32>,
    ) -> PyResult<Self> {
        let grid = |(x, y, seconds)| Grid { x, y, seconds };
        let profile = Profile {
            linear: grid(linear),
            decode_attention: grid(decode_attention),
            prefill_attention: grid(prefill_attention),
            sampling: grid(sampling),
            overhead_s,
            host_s,
            host_per_sequence_s,
            block_copy_s,
            block_swap_s,
            batch_sizes,
        };
        profile.check().map_err(Raised)?;
        Ok(CostModel(Model::Profile(Box::new(profile))))
    }

    /// A Python function of `StepFeatures` that returns the device's seconds, or (host, device).
    #[staticmethod]
    fn function(function: Py<PyAny>) -> Self {
        CostModel(Model::Function(Arc::new(function)))
    }

    /// (host seconds, device seconds) of a step.
    fn step_time(&self, features: &StepFeatures) -> PyResult<(f64, f64)> {
        let raising = Raising::default();
        let time = self.model(&raising).step_time(&features.0).and_then(StepTime::checked);
        let time = time.map_err(|error| raised(&raising, error))?;
        Ok((time.host_s, time.device_s))
    }
}

impl CostModel {
    /// A model to run with; exceptions of a Python function are left in `raising`.
    pub fn model(&self, raising: &Raising) -> Box<dyn Cost> {
        match &self.0 {
            Model::Constant(time) => Box::new(*time),
            Model::Roofline(roofline) => Box::new(*roofline),
            Model::Profile(profile) => profile.clone(),
            Model::Function(function) => {
                Box::new(Function { function: function.clone(), raising: raising.clone() })
            }
        }
    }
}

struct Function {
    function: Arc<Py<PyAny>>,
    raising: Raising,
}

impl Cost for Function {
    fn step_time(&mut self, features: &Features) -> Result<StepTime> {
        Python::attach(|py| {
            let value = self.function.bind(py).call1((StepFeatures(*features),))?;
            match value.extract::<(f64, f64)>() {
                Ok((host_s, device_s)) => Ok(StepTime { host_s, device_s }),
                Err(_) => Ok(StepTime { host_s: 0.0, device_s: value.extract()? }),
            }
        })
        .map_err(|error: PyErr| leave(&self.raising, error))
    }
}

/// The cards that are compiled in: (kind, name, JSON text).
#[pyfunction]
pub fn cards() -> Vec<(&'static str, &'static str, &'static str)> {
    crate::cards::CARDS.to_vec()
}

/// Keeps an exception for later and stops the simulation.
pub fn leave(raising: &Raising, error: PyErr) -> Error {
    if let Ok(mut place) = raising.lock() {
        place.get_or_insert(error);
    }
    Error::Stopped { now_s: f64::NAN }
}

/// The exception that was left, else the error's own.
pub fn raised(raising: &Raising, error: Error) -> PyErr {
    let left = raising.lock().ok().and_then(|mut place| place.take());
    left.unwrap_or_else(|| raise(error))
}

/// The numbers of a table of quantiles, by name.
pub fn quantiles_dict<'py>(
    py: Python<'py>,
    quantiles: &crate::simulator::Quantiles,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("count", quantiles.count())?;
    dict.set_item("mean", quantiles.mean())?;
    for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)]
    {
        dict.set_item(name, quantiles.quantile(q))?;
    }
    Ok(dict)
}
