//! Arrays that the caller owns and the engine fills.

use numpy::{Element, PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors::raise;
use super::values::html_table;
use crate::arrays::{ArraySet, Capacity, Remembered};
use crate::error::Error;

/// What one step put into the bound arrays.
#[pyclass(frozen, get_all, module = "nano_batch._core")]
pub struct StepCounts {
    /// The step's number, for `update_arrays`.
    pub step: u64,
    /// Rows with a sequence; the first `decodes` of them decode one token each.
    pub rows: usize,
    pub decodes: usize,
    /// Tokens of those rows.
    pub tokens: usize,
    /// Entries of `sample_rows` and `sample_lanes`.
    pub samples: usize,
    /// Rows and tokens with padding.
    pub padded_rows: usize,
    pub padded_tokens: usize,
    /// Block pairs to move before the step writes (see `movement`).
    pub swap_out: usize,
    pub swap_in: usize,
    pub copies: usize,
    /// Sequences that took or left lanes (see `lane_changes`).
    pub admitted: usize,
    pub preempted: usize,
}

#[pymethods]
impl StepCounts {
    fn __repr__(&self) -> String {
        format!(
            "StepCounts(step={}, rows={}, decodes={}, tokens={}, samples={}, padded_rows={})",
            self.step, self.rows, self.decodes, self.tokens, self.samples, self.padded_rows
        )
    }

    fn _repr_html_(&self, py: Python<'_>) -> PyResult<String> {
        let rows = [
            ("rows", self.rows as u64),
            ("of which decode", self.decodes as u64),
            ("tokens", self.tokens as u64),
            ("samples", self.samples as u64),
            ("rows with padding", self.padded_rows as u64),
            ("blocks swapped out", self.swap_out as u64),
            ("blocks swapped in", self.swap_in as u64),
            ("blocks copied", self.copies as u64),
        ];
        html_table(py, &format!("step {}", self.step), &rows)
    }
}

/// A pointer into an array that `owner` keeps alive.
struct Bound1<T> {
    pointer: *mut T,
    len: usize,
    _owner: Py<PyAny>,
}

// SAFETY: the pointer is used only while the GIL is held, through `slice`.
unsafe impl<T> Send for Bound1<T> {}
unsafe impl<T> Sync for Bound1<T> {}

impl<T: Element> Bound1<T> {
    fn check<'py, D: numpy::ndarray::Dimension>(
        name: &str,
        array: &Bound<'py, numpy::PyArray<T, D>>,
        needed: usize,
    ) -> PyResult<Self> {
        let problem = |problem: String| Err(raise(Error::InvalidBuffer { name: name.to_owned(), problem }));
        if !array.is_c_contiguous() {
            return problem("is not C-contiguous".to_owned());
        }
        // An aligned address is what the reference types of `slice` require.
        if !(array.data() as usize).is_multiple_of(align_of::<T>()) {
            return problem("is not aligned".to_owned());
        }
        let writeable = array.as_any().getattr("flags")?.getattr("writeable")?.extract::<bool>()?;
        if !writeable {
            return problem("is read-only".to_owned());
        }
        if array.len() < needed {
            return problem(format!("has {} elements; it needs at least {needed}", array.len()));
        }
        Ok(Bound1 { pointer: array.data(), len: array.len(), _owner: array.clone().into_any().unbind() })
    }

    fn of(buffers: &Bound<'_, PyDict>, name: &str, needed: usize) -> PyResult<Self> {
        let value = lookup(buffers, name)?;
        match value.cast::<PyArray1<T>>() {
            Ok(array) => Self::check(name, array, needed),
            Err(_) => Err(wrong_type::<T>(name, &value, 1)),
        }
    }

    /// The array's elements.
    ///
    /// # Safety
    /// The GIL is held and no other slice of the array is alive.
    #[inline]
    unsafe fn slice(&mut self) -> &mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }

    fn range(&self) -> (usize, usize) {
        let start = self.pointer as usize;
        (start, start + self.len * size_of::<T>())
    }
}

fn lookup<'py>(buffers: &Bound<'py, PyDict>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    buffers.get_item(name)?.ok_or_else(|| {
        raise(Error::InvalidBuffer { name: name.to_owned(), problem: "is missing".to_owned() })
    })
}

pub fn wrong_type<T: Element>(name: &str, value: &Bound<'_, PyAny>, dimensions: usize) -> PyErr {
    let given = value
        .getattr("dtype")
        .and_then(|dtype| dtype.str())
        .map_or_else(|_| value.get_type().to_string(), |dtype| format!("of dtype {dtype}"));
    let bits = 8 * size_of::<T>();
    let problem = format!("is {given}; it must be a NumPy array of int{bits} with {dimensions} dimension(s)");
    raise(Error::InvalidBuffer { name: name.to_owned(), problem })
}

/// One of the two sets that `bind` takes.
pub struct BufferSet {
    token_ids: Bound1<i32>,
    positions: Bound1<i32>,
    slot_mapping: Bound1<i64>,
    lanes: Bound1<i32>,
    query_start_loc: Bound1<i32>,
    context_lens: Bound1<i32>,
    block_table: Bound1<i32>,
    sample_rows: Bound1<i32>,
    sample_lanes: Bound1<i32>,
    /// Rows that padding can reach.
    pub rows: usize,
    pub remembered: Remembered,
}

impl BufferSet {
    pub fn check(buffers: &Bound<'_, PyDict>, needed: Capacity) -> PyResult<Self> {
        let value = lookup(buffers, "block_table")?;
        let Ok(table) = value.cast::<PyArray2<i32>>() else {
            return Err(wrong_type::<i32>("block_table", &value, 2));
        };
        let (rows, width) = (table.shape()[0], table.shape()[1]);
        if rows < needed.rows || width < needed.width {
            let problem =
                format!("has shape [{rows}, {width}]; it needs at least [{}, {}]", needed.rows, needed.width);
            return Err(raise(Error::InvalidBuffer { name: "block_table".to_owned(), problem }));
        }
        let set = BufferSet {
            token_ids: Bound1::of(buffers, "token_ids", needed.tokens)?,
            positions: Bound1::of(buffers, "positions", needed.tokens)?,
            slot_mapping: Bound1::of(buffers, "slot_mapping", needed.tokens)?,
            lanes: Bound1::of(buffers, "lanes", needed.rows)?,
            query_start_loc: Bound1::of(buffers, "query_start_loc", needed.rows + 1)?,
            context_lens: Bound1::of(buffers, "context_lens", needed.rows)?,
            block_table: Bound1::check("block_table", table, rows * width)?,
            sample_rows: Bound1::of(buffers, "sample_rows", needed.rows)?,
            sample_lanes: Bound1::of(buffers, "sample_lanes", needed.rows)?,
            rows: needed.rows,
            remembered: Remembered::new(rows, width),
        };
        Ok(set)
    }

    /// Fills the block table with −1, as `remembered` takes it to be.
    pub fn clear(&mut self) {
        // SAFETY: called from `bind`, under the GIL; no slice is alive.
        unsafe { self.block_table.slice() }.fill(-1);
    }

    fn ranges(&self) -> Vec<(usize, usize)> {
        let ints = [
            &self.token_ids,
            &self.positions,
            &self.lanes,
            &self.query_start_loc,
            &self.context_lens,
            &self.block_table,
            &self.sample_rows,
            &self.sample_lanes,
        ];
        let mut ranges: Vec<_> = ints.into_iter().map(Bound1::range).collect();
        ranges.push(self.slot_mapping.range());
        ranges
    }

    /// The set as slices.
    ///
    /// # Safety
    /// The GIL is held and no other slice of the set is alive.
    #[inline]
    pub unsafe fn slices(&mut self) -> (ArraySet<'_>, &mut Remembered) {
        // SAFETY: as above; `check_disjoint` saw that no two arrays share memory.
        let arrays = unsafe {
            ArraySet {
                token_ids: self.token_ids.slice(),
                positions: self.positions.slice(),
                slot_mapping: self.slot_mapping.slice(),
                lanes: self.lanes.slice(),
                query_start_loc: self.query_start_loc.slice(),
                context_lens: self.context_lens.slice(),
                block_table: self.block_table.slice(),
                sample_rows: self.sample_rows.slice(),
                sample_lanes: self.sample_lanes.slice(),
            }
        };
        (arrays, &mut self.remembered)
    }
}

/// Refuses arrays that share memory, within a set or between the two.
pub fn check_disjoint(sets: &[BufferSet; 2]) -> PyResult<()> {
    let mut ranges: Vec<_> = sets.iter().flat_map(BufferSet::ranges).collect();
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        let problem = "share memory: every array of the two sets needs its own".to_owned();
        return Err(raise(Error::InvalidBuffer { name: "buffers".to_owned(), problem }));
    }
    Ok(())
}
