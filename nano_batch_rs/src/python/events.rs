//! The event log and its keyframes as dicts of arrays.

use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::events::{Columns, EventLog, Snapshot};

/// The columns of a log, `first_event`, `keyframes`, and `request_ids` from (number, name).
pub fn events_dict<'py, N, S>(
    py: Python<'py>,
    log: &EventLog,
    names: impl IntoIterator<Item = (N, S)>,
) -> PyResult<Bound<'py, PyDict>>
where
    N: IntoPyObject<'py>,
    S: IntoPyObject<'py>,
{
    let kept = log.stretches().map(|stretch| stretch.events.step.len()).sum();
    let mut columns = Columns {
        step: Vec::with_capacity(kept),
        kind: Vec::with_capacity(kept),
        sequence: Vec::with_capacity(kept),
        block: Vec::with_capacity(kept),
        argument: Vec::with_capacity(kept),
    };
    let keyframes = PyList::empty(py);
    for stretch in log.stretches() {
        columns.step.extend(&stretch.events.step);
        columns.kind.extend(&stretch.events.kind);
        columns.sequence.extend(&stretch.events.sequence);
        columns.block.extend(&stretch.events.block);
        columns.argument.extend(&stretch.events.argument);
        keyframes.append(snapshot_dict(py, stretch.keyframe.clone())?)?;
    }
    let dict = PyDict::new(py);
    dict.set_item("first_event", log.count() - columns.step.len() as u64)?;
    dict.set_item("step", columns.step.into_pyarray(py))?;
    dict.set_item("kind", columns.kind.into_pyarray(py))?;
    dict.set_item("sequence", columns.sequence.into_pyarray(py))?;
    dict.set_item("block", columns.block.into_pyarray(py))?;
    dict.set_item("argument", columns.argument.into_pyarray(py))?;
    dict.set_item("keyframes", keyframes)?;
    let request_ids = PyDict::new(py);
    for (number, name) in names {
        request_ids.set_item(number, name)?;
    }
    dict.set_item("request_ids", request_ids)?;
    Ok(dict)
}

/// A state's fields.
pub fn snapshot_dict<'py>(py: Python<'py>, snapshot: Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("step", snapshot.step)?;
    dict.set_item("event", snapshot.event)?;
    dict.set_item("block_references", snapshot.block_references.into_pyarray(py))?;
    dict.set_item("block_cached", snapshot.block_cached.into_pyarray(py))?;
    dict.set_item("sequence", snapshot.sequence.into_pyarray(py))?;
    dict.set_item("state", snapshot.state.into_pyarray(py))?;
    dict.set_item("stored", snapshot.stored.into_pyarray(py))?;
    dict.set_item("lane", snapshot.lane.into_pyarray(py))?;
    dict.set_item("table_offsets", snapshot.table_offsets.into_pyarray(py))?;
    dict.set_item("tables", snapshot.tables.into_pyarray(py))?;
    Ok(dict)
}
