//! A Python function as a policy: it ranks all requests before every step.

use std::sync::Arc;

use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::cost::{Raising, leave};
use crate::error::Result;
use crate::policy::{Candidate, Policy, Ranked};

/// Calls `function(now_s, columns)`, which returns a float64 array with one score a request; the
/// GIL is taken for that call only. Its exceptions are left in `raising`.
#[derive(Clone)]
pub struct Scorer {
    pub function: Arc<Py<PyAny>>,
    pub raising: Raising,
}

impl Policy for Scorer {
    /// Until the next step ranks it, a request stands in order of arrival.
    fn score(&self, _: &Candidate) -> f64 {
        0.0
    }

    fn ranks_all(&self) -> bool {
        true
    }

    fn rank_all(&mut self, now: f64, requests: &[Ranked], scores: &mut Vec<f64>) -> Result<()> {
        let ranked: PyResult<()> = Python::attach(|py| {
            let result = self.function.bind(py).call1((now, columns(py, requests)?))?;
            scores.extend(result.extract::<PyReadonlyArray1<'_, f64>>()?.as_array());
            Ok(())
        });
        ranked.map_err(|error| leave(&self.raising, error))
    }
}

fn columns<'py>(py: Python<'py>, requests: &[Ranked]) -> PyResult<Bound<'py, PyDict>> {
    let count = |of: fn(&Ranked) -> i64| requests.iter().map(of).collect::<Vec<_>>().into_pyarray(py);
    let dict = PyDict::new(py);
    dict.set_item("sequence", count(|each| each.sequence.into()))?;
    let running: Vec<bool> = requests.iter().map(|each| each.running).collect();
    dict.set_item("running", running.into_pyarray(py))?;
    let arrival: Vec<f64> = requests.iter().map(|each| each.arrival).collect();
    dict.set_item("arrival_s", arrival.into_pyarray(py))?;
    dict.set_item("priority", count(|each| each.priority))?;
    dict.set_item("prompt_tokens", count(|each| each.prompt_tokens.into()))?;
    dict.set_item("computed_tokens", count(|each| each.computed_tokens.into()))?;
    dict.set_item("output_tokens", count(|each| each.output_tokens.into()))?;
    dict.set_item("max_tokens", count(|each| each.max_tokens.into()))?;
    dict.set_item("preemptions", count(|each| each.preemptions.into()))?;
    dict.set_item("blocks", count(|each| each.blocks.into()))?;
    Ok(dict)
}
