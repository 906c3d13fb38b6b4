//! The engine as Python sees it: arrays and plain lists; the friendly classes are built in Python.

use std::collections::HashMap;

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::buffers::{BufferSet, StepCounts, check_disjoint, wrong_type};
use super::errors::{Raised, raise};
use super::events::{events_dict, snapshot_dict};
use super::options::{engine_config, optional};
use super::values::{block_ids, count, integer, token, tokens};
use crate::arrays::{Capacity, TokenArrays};
use crate::engine::{Engine, Finished};
use crate::error::Error;
use crate::request::{Prompt, Request};
use crate::step::{Row, Step};

/// Scheduler and block allocator behind request ids; `nano_batch.Engine` is its friendly form.
#[pyclass(subclass, module = "nano_batch._core")]
pub struct CoreEngine {
    engine: Engine,
    buffers: Option<Box<[BufferSet; 2]>>,
    next_set: usize,
}

type Ids = Vec<(String, String)>;
/// (id, lane, cached tokens) of who took a lane, (id, lane) of who left one.
type LaneChanges = (Vec<(String, i32, u32)>, Vec<(String, i32)>);

fn pairs(finished: Vec<Finished>) -> Ids {
    finished.into_iter().map(|ended| (ended.id, ended.reason)).collect()
}

#[pymethods]
impl CoreEngine {
    /// The options are those of `nano_batch.Engine`, all of them, with `event_log` a number or None.
    #[new]
    #[pyo3(signature = (**options))]
    fn new(options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let config = engine_config(options)?;
        Ok(CoreEngine { engine: Engine::new(config).map_err(Raised)?, buffers: None, next_set: 0 })
    }

    #[pyo3(signature = (request_id, *, prompt_token_ids, num_prompt_tokens, prompt_block_ids, prompt_block_size,
        max_tokens, min_tokens, priority, arrival_time, n, stop_token_ids, ignore_eos, cache_salt))]
    #[allow(clippy::too_many_arguments)]
    fn _add_request(
        &mut self,
        request_id: &str,
        prompt_token_ids: Option<&Bound<'_, PyAny>>,
        num_prompt_tokens: Option<&Bound<'_, PyAny>>,
        prompt_block_ids: Option<&Bound<'_, PyAny>>,
        prompt_block_size: Option<&Bound<'_, PyAny>>,
        max_tokens: &Bound<'_, PyAny>,
        min_tokens: &Bound<'_, PyAny>,
        priority: &Bound<'_, PyAny>,
        arrival_time: f64,
        n: &Bound<'_, PyAny>,
        stop_token_ids: &Bound<'_, PyAny>,
        ignore_eos: bool,
        cache_salt: &str,
    ) -> PyResult<()> {
        let refuse = |error: Error| raise(error.in_request(request_id));
        let length = optional("num_prompt_tokens", num_prompt_tokens, 0).map_err(refuse)?;
        let size = optional("prompt_block_size", prompt_block_size, 1).map_err(refuse)?;
        let prompt = match (prompt_token_ids, prompt_block_ids, length, size) {
            (Some(ids), None, None, None) => Prompt::Tokens(tokens(request_id, ids)?),
            (None, Some(ids), Some(len), Some(size)) => {
                Prompt::Blocks { ids: block_ids(request_id, ids)?, size, len }
            }
            (None, None, Some(len), None) => Prompt::Length(len),
            _ => {
                let limit = "one of: prompt_token_ids; num_prompt_tokens; \
                             prompt_block_ids with prompt_block_size and num_prompt_tokens";
                return Err(refuse(Error::invalid("prompt", "ambiguous or incomplete", limit)));
            }
        };
        let request = Request {
            prompt,
            max_tokens: count("max_tokens", max_tokens, 1).map_err(refuse)?,
            min_tokens: count("min_tokens", min_tokens, 0).map_err(refuse)?,
            priority: integer("priority", priority, "a 64-bit integer").map_err(refuse)?,
            arrival: arrival_time,
            n: count("n", n, 1).map_err(refuse)?,
            stop_token_ids: tokens(request_id, stop_token_ids)?,
            ignore_eos,
            cache_salt: cache_salt.to_owned(),
        };
        Ok(self.engine.add_request(request_id, request).map_err(Raised)?)
    }

    /// Plans a step in the friendly form; the fields of `SchedulerOutput` in their order.
    fn _step<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        if self.engine.awaits_tokens() {
            return Err(raise(Error::StepPending { outstanding: 1, limit: 1 }));
        }
        self.retire_without_tokens()?;
        self.engine.plan().map_err(Raised)?;
        let empty = Step::default();
        let step = self.engine.scheduler().newest_step().unwrap_or(&empty);
        friendly(py, &self.engine, step)
    }

    /// One token (or a list of n) by request id; what ended, as (id, reason).
    fn _update(&mut self, given: &Bound<'_, PyDict>) -> PyResult<Ids> {
        let mut values = HashMap::with_capacity(given.len());
        for (id, value) in given {
            let id: String = id.extract()?;
            let tokens = match value.cast::<PyList>() {
                Ok(list) => list.iter().map(|item| token(&id, &item)).collect::<PyResult<Vec<_>>>()?,
                Err(_) => vec![token(&id, &value)?],
            };
            values.insert(id, tokens);
        }
        Ok(pairs(self.engine.update(values).map_err(Raised)?))
    }

    #[pyo3(signature = (request_id, reason, keep))]
    fn _finish(&mut self, request_id: &str, reason: &str, keep: Option<&Bound<'_, PyAny>>) -> PyResult<Ids> {
        let keep = optional("keep", keep, 0).map_err(|error| raise(error.in_request(request_id)))?;
        Ok(pairs(self.engine.finish(request_id, reason, keep).map_err(Raised)?))
    }

    fn _fork(&mut self, sequence_id: &str, new_id: &str) -> PyResult<Option<i32>> {
        Ok(self.engine.fork(sequence_id, new_id).map_err(Raised)?)
    }

    /// Whether any request waits, runs or awaits its last step.
    #[getter]
    fn has_unfinished(&self) -> bool {
        self.engine.scheduler().has_unfinished()
    }

    /// Sequences that hold a lane and are scheduled.
    #[getter]
    fn num_running(&self) -> usize {
        self.engine.scheduler().num_running()
    }

    #[getter]
    fn num_waiting(&self) -> usize {
        self.engine.scheduler().num_waiting()
    }

    /// Blocks that are in neither use nor the prefix cache.
    #[getter]
    fn num_free_blocks(&self) -> u32 {
        self.engine.scheduler().blocks().num_free()
    }

    /// Blocks without an owner that the prefix cache keeps.
    #[getter]
    fn num_cached_blocks(&self) -> u32 {
        self.engine.scheduler().blocks().num_cached()
    }

    /// Token slots of the blocks in use: written, to be written (up to `max_tokens`), never to be
    /// written. Exact while no forked sequence shares a partial block.
    #[getter]
    fn slot_counts(&self) -> (u64, u64, u64) {
        let slots = self.engine.scheduler().slots();
        (slots.used, slots.reserved, slots.internal)
    }

    #[getter]
    fn num_free_swap_blocks(&self) -> usize {
        self.engine.scheduler().num_host_free()
    }

    /// Columns that a bound block table needs.
    #[getter]
    fn max_blocks_per_sequence(&self) -> Option<u32> {
        self.engine.scheduler().config().max_blocks_per_sequence()
    }

    fn _bind(&mut self, first: &Bound<'_, PyDict>, second: &Bound<'_, PyDict>) -> PyResult<()> {
        let needed = Capacity::needed(self.engine.scheduler()).map_err(Raised)?;
        let mut sets = [BufferSet::check(first, needed)?, BufferSet::check(second, needed)?];
        check_disjoint(&sets)?;
        for set in &mut sets {
            set.clear();
        }
        self.buffers = Some(Box::new(sets));
        self.next_set = 0;
        Ok(())
    }

    /// Plans a step into the next set of bound arrays. `pad_to`: rows to pad to.
    #[pyo3(signature = (pad_to = None))]
    fn step_arrays(&mut self, pad_to: Option<&Bound<'_, PyAny>>) -> PyResult<StepCounts> {
        let Some(sets) = &mut self.buffers else { return Err(raise(Error::NotBound)) };
        let set = &mut sets[self.next_set];
        let pad_to = match pad_to {
            None => 0,
            Some(value) => {
                let rows = integer("pad_to", value, "an integer").map_err(Raised)?;
                let within = usize::try_from(rows).ok().filter(|&rows| rows <= set.rows);
                within.ok_or_else(|| {
                    raise(Error::invalid(
                        "pad_to",
                        rows,
                        format!("between 0 and max_num_seqs = {}", set.rows),
                    ))
                })?
            }
        };
        self.engine.plan().map_err(Raised)?;
        let empty = Step::default();
        let scheduler = self.engine.scheduler();
        let step = scheduler.newest_step().unwrap_or(&empty);
        // SAFETY: the GIL is held for the whole call and these are the set's only slices.
        let (mut arrays, remembered) = unsafe { set.slices() };
        let filled = arrays.fill(scheduler, step, remembered, pad_to);
        self.next_set = 1 - self.next_set;
        Ok(StepCounts {
            step: step.number,
            rows: step.rows.len(),
            decodes: step.num_decodes,
            tokens: step.num_tokens as usize,
            samples: step.samples.len(),
            padded_rows: filled.rows,
            padded_tokens: filled.tokens,
            swap_out: step.swap_out.len(),
            swap_in: step.swap_in.len(),
            copies: step.copies.len(),
            admitted: step.admitted.len(),
            preempted: step.preempted.len(),
        })
    }

    /// Retires outstanding step `step` with one int32 for each of its samples ([S]); what ended,
    /// as (id, reason).
    fn update_arrays(&mut self, step: i64, tokens: &Bound<'_, PyAny>) -> PyResult<Ids> {
        let number =
            u64::try_from(step).map_err(|_| raise(Error::invalid("step", step, "a step's number")))?;
        let Ok(tokens) = tokens.cast::<PyArray1<i32>>() else {
            return Err(wrong_type::<i32>("tokens", tokens, 1));
        };
        let tokens = tokens.readonly();
        let Ok(tokens) = tokens.as_slice() else {
            let problem = "is not contiguous or not aligned".to_owned();
            return Err(raise(Error::InvalidBuffer { name: "tokens".to_owned(), problem }));
        };
        Ok(pairs(self.engine.update_arrays(number, tokens).map_err(Raised)?))
    }

    /// The block pairs to move before the newest step writes, int32 [k, 2] each: swap_out
    /// (device, host), swap_in (host, device), copies (source, destination), in this order.
    fn movement<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let empty = Step::default();
        let step = self.engine.scheduler().newest_step().unwrap_or(&empty);
        let arrays = [&step.swap_out, &step.swap_in, &step.copies].map(|pairs| pair_array(py, pairs));
        PyTuple::new(py, arrays.into_iter().collect::<PyResult<Vec<_>>>()?)
    }

    /// Who took and who left a lane in the newest step: lists of (sequence id, lane, cached
    /// tokens) and of (sequence id, lane). Sequences of an n > 1 request take lanes when its
    /// prompt ends.
    fn lane_changes(&self) -> LaneChanges {
        let Some(step) = self.engine.scheduler().newest_step() else { return Default::default() };
        let name = |slot| self.engine.name(slot).to_owned();
        let forked = step
            .forks
            .iter()
            .map(|&(_, child)| (name(child), self.engine.scheduler().sequence(child).lane, 0));
        let admitted = step.admitted.iter().map(|a| (name(a.slot), a.lane, a.cached)).chain(forked).collect();
        (admitted, step.preempted.iter().map(|p| (name(p.slot), p.lane)).collect())
    }

    fn _snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let scheduler = self.engine.scheduler();
        let dict = snapshot_dict(py, scheduler.snapshot())?;
        let names = |slots: Vec<u32>| {
            slots.into_iter().map(|slot| self.engine.name(slot).to_owned()).collect::<Vec<_>>()
        };
        dict.set_item("running", names(scheduler.running().to_vec()))?;
        dict.set_item("waiting", names(scheduler.waiting().collect()))?;
        dict.set_item("request_ids", self.live_names())?;
        Ok(dict)
    }

    fn _events<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(log) = self.engine.scheduler().events() else { return Ok(None) };
        let mut names: Vec<_> = self.engine.all_names().iter().collect();
        names.sort_unstable();
        events_dict(py, log, names).map(Some)
    }
}

impl CoreEngine {
    /// Retires the outstanding steps none of whose tokens are awaited.
    fn retire_without_tokens(&mut self) -> PyResult<()> {
        while let Some(step) = self.engine.scheduler().outstanding().front() {
            let (number, ignored) = (step.number, vec![0; step.samples.len()]);
            self.engine.update_arrays(number, &ignored).map_err(Raised)?;
        }
        Ok(())
    }

    fn live_names(&self) -> HashMap<u32, String> {
        let scheduler = self.engine.scheduler();
        let slots = scheduler.running().iter().copied().chain(scheduler.waiting());
        slots.map(|slot| (scheduler.sequence(slot).uid, self.engine.name(slot).to_owned())).collect()
    }
}

/// A step as the lists that `SchedulerOutput` holds.
fn friendly<'py>(py: Python<'py>, engine: &Engine, step: &Step) -> PyResult<Bound<'py, PyTuple>> {
    let scheduler = engine.scheduler();
    let name = |slot| engine.name_in(step, slot);
    let tables = step.rows.iter().map(|row| scheduler.sequence(row.slot).table().to_vec());
    let arrays = TokenArrays::of(scheduler, step);
    let mut sampled: Vec<&str> = Vec::with_capacity(step.samples.len());
    for sample in &step.samples {
        let id = name(sample.slot);
        // The n sequences of one request are sampled under its one id.
        if step.forks.is_empty() || sampled.last() != Some(&id) {
            sampled.push(id);
        }
    }
    let rows = || step.rows.iter();
    let finished = engine.reported().iter().map(|ended| (&ended.id, &ended.reason));
    let lists: [Bound<'py, PyAny>; 15] = [
        step.number.into_pyobject(py)?.into_any(),
        PyList::new(py, rows().map(|row| name(row.slot)))?.into_any(),
        PyList::new(py, tables.collect::<Vec<_>>())?.into_any(),
        PyList::new(py, arrays.slot_mapping)?.into_any(),
        PyList::new(py, rows().map(|row| row.count))?.into_any(),
        PyList::new(py, rows().map(|row| row.start))?.into_any(),
        PyList::new(py, arrays.token_ids)?.into_any(),
        PyList::new(py, sampled)?.into_any(),
        PyList::new(py, step.preempted.iter().map(|p| engine.name(p.slot)))?.into_any(),
        PyList::new(py, finished.collect::<Vec<_>>())?.into_any(),
        PyList::new(py, rows().map(|row| cached_tokens(engine, step, row)))?.into_any(),
        PyList::new(py, &step.swap_out)?.into_any(),
        PyList::new(py, &step.swap_in)?.into_any(),
        PyList::new(py, &step.copies)?.into_any(),
        step.num_decodes.into_pyobject(py)?.into_any(),
    ];
    PyTuple::new(py, lists)
}

/// Prompt tokens that the cache spared a sequence, if this is its first row since it was admitted
/// (a member of a static batch may get that row in a later step).
fn cached_tokens(engine: &Engine, step: &Step, row: &Row) -> u32 {
    let cached = engine.scheduler().sequence(row.slot).cached_tokens;
    if row.start == cached { cached } else { step.cached_tokens(row) }
}

fn pair_array<'py>(py: Python<'py>, pairs: &[(i32, i32)]) -> PyResult<Bound<'py, PyArray2<i32>>> {
    let flat: Vec<i32> = pairs.iter().flat_map(|&(from, to)| [from, to]).collect();
    PyArray1::from_vec(py, flat).reshape([pairs.len(), 2])
}
