//! The simulator as one call: arrays in, columns out. The GIL is released while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use numpy::{Element, IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::cost::{CostModel, Raising, leave, quantiles_dict, raised};
use super::errors::{Raised, raise};
use super::events::events_dict;
use super::options::engine_config;
use super::policy::Scorer;
use super::values::count;
use crate::config::{Choice, Config};
use crate::error::Error;
use crate::policy::Policy;
use crate::simulator::{
    Content, Options, Outcome, Progress, Reservation, Routing, StepColumns, Totals, Workload,
};

/// Between two looks at Python: signals are checked, progress is told.
const WATCH_INTERVAL: Duration = Duration::from_millis(40);

/// Simulates a workload; what comes back is the records' columns in a dict.
#[pyfunction]
#[pyo3(signature = (arrival_s, prompt_tokens, output_tokens, content, engine, cost, *, steps_in_flight, replicas,
    routing, max_steps, keep_steps, max_tokens, reservation, quantiles, keep_requests,
    progress, score))]
#[allow(clippy::too_many_arguments)]
pub fn simulate<'py>(
    py: Python<'py>,
    arrival_s: PyReadonlyArray1<'py, f64>,
    prompt_tokens: PyReadonlyArray1<'py, i64>,
    output_tokens: PyReadonlyArray1<'py, i64>,
    content: Option<(PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, i32>, u32)>,
    engine: &Bound<'py, PyDict>,
    cost: &CostModel,
    steps_in_flight: &Bound<'py, PyAny>,
    replicas: &Bound<'py, PyAny>,
    routing: &str,
    max_steps: Option<u64>,
    keep_steps: Option<u64>,
    max_tokens: Option<u32>,
    reservation: Option<&str>,
    quantiles: bool,
    keep_requests: bool,
    progress: Option<Py<PyAny>>,
    score: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let config = engine_config(Some(engine))?;
    let options = Options {
        steps_in_flight: count("steps_in_flight", steps_in_flight, 0).map_err(Raised)?,
        replicas: count("replicas", replicas, 1).map_err(Raised)?,
        routing: Routing::parse(routing).map_err(Raised)?,
        max_steps,
        keep_steps,
        max_tokens,
        reservation: reservation.map(Reservation::parse).transpose().map_err(Raised)?,
        quantiles,
        keep_requests,
    };
    let workload = Workload {
        arrival_s: arrival_s.as_array().to_vec(),
        prompt_tokens: lengths("prompt_tokens", &prompt_tokens)?,
        output_tokens: lengths("output_tokens", &output_tokens)?,
        content: content.map(|(offsets, ids, size)| {
            let offsets = offsets.as_array().iter().map(|&offset| offset as u64).collect();
            let ids = ids.as_array().iter().map(|&id| id as u32).collect();
            Content { offsets, ids, size }
        }),
    };
    let raising = Raising::default();
    let mut model = cost.model(&raising);
    let mut watch = watcher(progress, &raising);
    let scorer = score.map(|function| Scorer { function: Arc::new(function), raising: raising.clone() });
    let outcome = py.detach(|| {
        let mut given = |config: &Config| match &scorer {
            Some(scorer) => Box::new(scorer.clone()) as Box<dyn Policy>,
            None => config.policy.build(config),
        };
        crate::simulator::simulate(&workload, &config, &mut given, &mut *model, &options, &mut watch)
    });
    let outcome = outcome.map_err(|error| raised(&raising, error))?;
    drop(workload);
    outcome_dict(py, outcome)
}

fn lengths(name: &'static str, column: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<u32>> {
    let limit = || format!("between 1 and {}", i32::MAX);
    column
        .as_array()
        .iter()
        .map(|&length| match u32::try_from(length) {
            Ok(value) if value <= i32::MAX as u32 => Ok(value),
            _ => Err(raise(Error::invalid(name, length, limit()))),
        })
        .collect()
}

/// Looks at Python now and then: an interrupt, or an exception of `progress(finished, steps, now_s)`,
/// ends the run.
fn watcher(progress: Option<Py<PyAny>>, raising: &Raising) -> impl FnMut(Progress) -> bool + Send {
    let raising = raising.clone();
    let mut last = Instant::now();
    move |at: Progress| {
        if last.elapsed() < WATCH_INTERVAL {
            return true;
        }
        last = Instant::now();
        let told = Python::attach(|py| {
            py.check_signals()?;
            match &progress {
                Some(progress) => progress.call1(py, (at.finished, at.iterations, at.now_s)).map(|_| ()),
                None => Ok(()),
            }
        });
        told.map_err(|error| leave(&raising, error)).is_ok()
    }
}

fn outcome_dict(py: Python<'_>, outcome: Outcome) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    let names: Vec<Vec<u32>> = by_replica(&outcome);
    let logs = PyList::empty(py);
    for (scheduler, rows) in outcome.schedulers.iter().zip(names) {
        let Some(log) = scheduler.events() else { continue };
        let names = rows.into_iter().enumerate().map(|(number, row)| (number, format!("r{row}")));
        logs.append(events_dict(py, log, names)?)?;
    }
    dict.set_item("events", logs)?;
    drop(outcome.schedulers);
    let requests = PyDict::new(py);
    let columns = outcome.requests;
    requests.set_item("row", wide(py, columns.row))?;
    requests.set_item("replica", wide(py, columns.replica))?;
    requests.set_item("sequence", columns.sequence.into_pyarray(py))?;
    requests.set_item("arrival_s", columns.arrival_s.into_pyarray(py))?;
    requests.set_item("first_scheduled_s", columns.first_scheduled_s.into_pyarray(py))?;
    requests.set_item("first_token_s", columns.first_token_s.into_pyarray(py))?;
    requests.set_item("finish_s", columns.finish_s.into_pyarray(py))?;
    requests.set_item("cached_tokens", wide(py, columns.cached_tokens))?;
    requests.set_item("output_tokens", wide(py, columns.output_tokens))?;
    requests.set_item("preemptions", wide(py, columns.preemptions))?;
    requests.set_item("reason", columns.reason.into_pyarray(py))?;
    dict.set_item("requests", requests)?;
    let steps: PyResult<Vec<_>> = outcome.steps.into_iter().map(|table| steps_dict(py, table)).collect();
    dict.set_item("steps", steps?)?;
    let totals: PyResult<Vec<_>> = outcome.totals.iter().map(|totals| totals_dict(py, totals)).collect();
    dict.set_item("totals", totals?)?;
    let quantiles = PyDict::new(py);
    if let Some(streamed) = &outcome.streamed {
        quantiles.set_item("inter_token_s", quantiles_dict(py, &streamed.inter_token)?)?;
        quantiles.set_item("duration_s", quantiles_dict(py, &streamed.durations)?)?;
        quantiles.set_item("ttft_s", quantiles_dict(py, &streamed.ttft)?)?;
        quantiles.set_item("tpot_s", quantiles_dict(py, &streamed.tpot)?)?;
        quantiles.set_item("end_to_end_s", quantiles_dict(py, &streamed.end_to_end)?)?;
    }
    dict.set_item("quantiles", quantiles)?;
    Ok(dict)
}

fn totals_dict<'py>(py: Python<'py>, totals: &Totals) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("iterations", totals.iterations)?;
    dict.set_item("scheduled_sequences", totals.scheduled_sequences)?;
    dict.set_item("requests", totals.requests)?;
    dict.set_item("finished", totals.finished)?;
    dict.set_item("output_tokens", totals.output_tokens)?;
    dict.set_item("cached_tokens", totals.cached_tokens)?;
    dict.set_item("preemptions", totals.preemptions)?;
    dict.set_item("end_s", totals.end_s)?;
    Ok(dict)
}

/// For each replica the workload's rows by sequence number.
fn by_replica(outcome: &Outcome) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); outcome.schedulers.len()];
    if outcome.schedulers.iter().all(|scheduler| scheduler.events().is_none()) {
        return rows;
    }
    let requests = &outcome.requests;
    for (at, &row) in requests.row.iter().enumerate() {
        let replica = requests.replica.get(at).map_or(0, |&replica| replica as usize);
        let (list, number) = (&mut rows[replica], requests.sequence[at] as usize);
        list.resize(list.len().max(number + 1), 0);
        list[number] = row;
    }
    rows
}

fn steps_dict(py: Python<'_>, table: StepColumns) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("stride", table.stride)?;
    dict.set_item("step", table.step.into_pyarray(py))?;
    dict.set_item("start_s", table.start_s.into_pyarray(py))?;
    dict.set_item("duration_s", table.duration_s.into_pyarray(py))?;
    dict.set_item("prefill_tokens", wide(py, table.prefill_tokens))?;
    dict.set_item("decode_tokens", wide(py, table.decode_tokens))?;
    dict.set_item("running", wide(py, table.running))?;
    dict.set_item("waiting", wide(py, table.waiting))?;
    dict.set_item("blocks_used", wide(py, table.blocks_used))?;
    dict.set_item("blocks_cached", wide(py, table.blocks_cached))?;
    dict.set_item("blocks_free", wide(py, table.blocks_free))?;
    dict.set_item("slots_used", wide(py, table.slots_used))?;
    dict.set_item("slots_reserved", wide(py, table.slots_reserved))?;
    dict.set_item("slots_internal", wide(py, table.slots_internal))?;
    dict.set_item("slots_external", wide(py, table.slots_external))?;
    dict.set_item("slots_wanted", wide(py, table.slots_wanted))?;
    dict.set_item("slots_largest_hole", wide(py, table.slots_largest_hole))?;
    dict.set_item("preemptions", wide(py, table.preemptions))?;
    Ok(dict)
}

/// A column of counts as int64.
fn wide<T: Element + Copy + TryInto<i64>>(py: Python<'_>, column: Vec<T>) -> Bound<'_, PyAny> {
    let wide: Vec<i64> = column.into_iter().map(|value| value.try_into().unwrap_or(i64::MAX)).collect();
    wide.into_pyarray(py).into_any()
}
