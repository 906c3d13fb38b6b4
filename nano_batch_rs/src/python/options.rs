//! The engine's options from Python, checked by name.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors::{Raised, raise};
use super::values::{count, integer};
use crate::config::{Choice, Config, Eviction, Preemption};
use crate::error::{Error, MAX_TOKEN_ID, Result};
use crate::policy::parse_policy;
use crate::request::check_token;

/// A count that may be left out.
pub fn optional(name: &'static str, value: Option<&Bound<'_, PyAny>>, least: u32) -> Result<Option<u32>> {
    value.map(|value| count(name, value, least)).transpose()
}

/// The end-of-sequence token, which is like any other.
fn eos_token(value: &Bound<'_, PyAny>) -> PyResult<i32> {
    let limit = format!("a token id between 0 and {MAX_TOKEN_ID}");
    let token = integer("eos_token_id", value, &limit).map_err(Raised)?;
    check_token(String::new, token).map_err(|_| raise(Error::invalid("eos_token_id", token, limit)))
}

/// A configuration from all options of `nano_batch.Engine`, `event_log` a number or None.
pub fn engine_config(options: Option<&Bound<'_, PyDict>>) -> PyResult<Config> {
    let get = |name: &'static str| {
        let value = options.map(|options| options.get_item(name)).transpose()?.flatten();
        value.ok_or_else(|| raise(Error::invalid(name, "missing", "given")))
    };
    let number = |name, least| Ok::<_, PyErr>(count(name, &get(name)?, least).map_err(Raised)?);
    let maybe = |name, least| {
        let value = get(name)?;
        let given = (!value.is_none()).then_some(&value);
        Ok::<_, PyErr>(optional(name, given, least).map_err(Raised)?)
    };
    let word = |name| get(name)?.extract::<String>();
    let (policy, batching) = parse_policy(&word("policy")?).map_err(Raised)?;
    let eos = get("eos_token_id")?;
    Ok(Config {
        num_blocks: number("num_blocks", 1)?,
        block_size: number("block_size", 1)?,
        max_num_seqs: number("max_num_seqs", 1)?,
        max_num_batched_tokens: number("max_num_batched_tokens", 1)?,
        policy,
        batching,
        preemption: Preemption::parse(&word("preemption")?).map_err(Raised)?,
        num_swap_blocks: number("num_swap_blocks", 0)?,
        enable_prefix_caching: get("enable_prefix_caching")?.extract()?,
        enable_chunked_prefill: get("enable_chunked_prefill")?.extract()?,
        sliding_window: maybe("sliding_window", 1)?,
        eviction: Eviction::parse(&word("eviction")?).map_err(Raised)?,
        watermark: get("watermark")?.extract()?,
        max_model_len: maybe("max_model_len", 1)?,
        event_log: maybe("event_log", 1)?.map(u64::from),
        eos_token_id: if eos.is_none() { None } else { Some(eos_token(&eos)?) },
        sjf_ageing: get("sjf_ageing")?.extract()?,
        hash_bits: number("hash_bits", 1)?,
    })
}
