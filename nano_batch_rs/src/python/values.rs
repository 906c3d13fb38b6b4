//! Values from Python, refused by name where they do not fit, and tables back.

use numpy::{PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use super::errors::raise;
use crate::error::{Error, MAX_TOKEN_ID, Result};

/// A value as Python shows it.
fn shown(value: &Bound<'_, PyAny>) -> String {
    value.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string())
}

/// An integer of any size; one beyond 64 bits is refused with what it was.
pub fn integer(name: &'static str, value: &Bound<'_, PyAny>, limit: &str) -> Result<i64> {
    value.extract::<i64>().map_err(|_| Error::invalid(name, shown(value), limit))
}

/// A count of at least `least` that fits the core's 32 bits.
pub fn count(name: &'static str, value: &Bound<'_, PyAny>, least: u32) -> Result<u32> {
    let limit = format!("an integer between {least} and {}", i32::MAX);
    let number = integer(name, value, &limit)?;
    u32::try_from(number)
        .ok()
        .filter(|&number| number >= least && number <= i32::MAX as u32)
        .ok_or_else(|| Error::invalid(name, number, limit))
}

/// Token ids from a NumPy array of int32 or int64 or any iterable of integers.
pub fn tokens(id: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<i32>> {
    if let Ok(array) = value.extract::<PyReadonlyArray1<'_, i32>>() {
        return Ok(array.as_array().to_vec());
    }
    if let Ok(array) = value.extract::<PyReadonlyArray1<'_, i64>>() {
        return array.as_array().iter().map(|&token| token_id(id, token)).collect();
    }
    value.try_iter()?.map(|item| token_id(id, token(id, &item?)?)).collect()
}

fn token_id(id: &str, token: i64) -> PyResult<i32> {
    crate::request::check_token(|| id.to_owned(), token).map_err(raise)
}

/// One token id, still unchecked but for being an integer.
pub fn token(id: &str, value: &Bound<'_, PyAny>) -> PyResult<i64> {
    value.extract::<i64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            raise(Error::token(id, shown(value)))
        } else {
            let limit = format!("an integer between 0 and {MAX_TOKEN_ID}");
            raise(Error::invalid("token id", shown(value), limit).in_request(id))
        }
    })
}

/// Block ids of a trace.
pub fn block_ids(id: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(array) = value.extract::<PyReadonlyArray1<'_, u32>>() {
        return Ok(array.to_vec()?);
    }
    let limit = format!("integers between 0 and {}", u32::MAX);
    value
        .try_iter()?
        .map(|item| {
            let number = integer("prompt_block_ids", &item?, &limit);
            let small = number.and_then(|number| {
                u32::try_from(number).map_err(|_| Error::invalid("prompt_block_ids", number, &limit))
            });
            small.map_err(|error| raise(error.in_request(id)))
        })
        .collect()
}

/// A table of counts, as `nano_batch.display` makes all tables.
pub fn html_table<T: Copy + Into<u64>>(py: Python<'_>, title: &str, rows: &[(&str, T)]) -> PyResult<String> {
    let rows: Vec<(&str, u64)> = rows.iter().map(|&(name, value)| (name, value.into())).collect();
    let table = py.import("nano_batch.display")?.getattr("html_table")?;
    table.call1((title, ["what", "how many"], rows))?.extract()
}
