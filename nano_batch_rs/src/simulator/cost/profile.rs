//! A device measured: tables of times, and straight lines between their points.

use super::{CostModel, Features, StepTime};
use crate::error::{Error, Result};

/// A function of one or two counts, known at the points of a grid; linear between them, and beyond
/// the last point along the last line. Below the first point it is the first point's value.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    pub x: Vec<f64>,
    /// One entry where the function is of x alone.
    pub y: Vec<f64>,
    /// [x, y], y fastest.
    pub seconds: Vec<f64>,
}

impl Grid {
    pub fn check(&self, name: &'static str) -> Result<()> {
        for axis in [&self.x, &self.y] {
            let ascends = axis.windows(2).all(|pair| pair[0] < pair[1]);
            if axis.is_empty() || !ascends || axis.iter().any(|value| !value.is_finite() || *value < 0.0) {
                return Err(Error::invalid(name, format!("{axis:?}"), "an axis of ascending counts"));
            }
        }
        if self.seconds.len() != self.x.len() * self.y.len() {
            let limit = format!("{} times, one for each point", self.x.len() * self.y.len());
            return Err(Error::invalid(name, format!("{} times", self.seconds.len()), limit));
        }
        match self.seconds.iter().find(|seconds| !(seconds.is_finite() && **seconds >= 0.0)) {
            Some(bad) => Err(Error::invalid(name, bad, "finite seconds, at least 0")),
            None => Ok(()),
        }
    }

    pub fn at(&self, x: f64, y: f64) -> f64 {
        let ((row, along_x), (column, along_y)) = (place(&self.x, x), place(&self.y, y));
        let width = self.y.len();
        let line = |row: usize| {
            let first = self.seconds[row * width + column];
            match along_y {
                0.0 => first,
                share => first + share * (self.seconds[row * width + column + 1] - first),
            }
        };
        let first = line(row);
        let value = if along_x == 0.0 { first } else { first + along_x * (line(row + 1) - first) };
        value.max(0.0)
    }
}

/// The point at or before a value, and the share of the way to the next (beyond 1 behind the last).
fn place(axis: &[f64], value: f64) -> (usize, f64) {
    if axis.len() < 2 || value <= axis[0] {
        return (0, 0.0);
    }
    let at = axis.partition_point(|&point| point <= value).clamp(1, axis.len() - 1) - 1;
    (at, (value - axis[at]) / (axis[at + 1] - axis[at]))
}

/// Tables measured on one device with one model; all of a whole step, all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Linear layers and all else that is per token, over the step's tokens.
    pub linear: Grid,
    /// Attention of decodes, over (sequences, mean context).
    pub decode_attention: Grid,
    /// Attention of prefill chunks, over query × key products.
    pub prefill_attention: Grid,
    /// Logits and sampling, over sampled rows.
    pub sampling: Grid,
    pub overhead_s: f64,
    pub host_s: f64,
    pub host_per_sequence_s: f64,
    pub block_copy_s: f64,
    pub block_swap_s: f64,
    /// Batch sizes that decode steps are padded up to; empty: none.
    pub batch_sizes: Vec<u32>,
}

impl Profile {
    pub fn check(&self) -> Result<()> {
        self.linear.check("linear")?;
        self.decode_attention.check("decode_attention")?;
        self.prefill_attention.check("prefill_attention")?;
        self.sampling.check("sampling")?;
        if !self.batch_sizes.is_sorted() {
            return Err(Error::invalid("batch_sizes", format!("{:?}", self.batch_sizes), "ascending"));
        }
        StepTime { host_s: self.host_s + self.host_per_sequence_s, device_s: self.overhead_s }.checked()?;
        StepTime { host_s: self.block_copy_s, device_s: self.block_swap_s }.checked()?;
        Ok(())
    }

    /// Rows that a step of decodes alone computes, padding included.
    fn padded(&self, rows: u64) -> u64 {
        let sizes = self.batch_sizes.iter().map(|&size| u64::from(size));
        match rows {
            0 => 0,
            _ => sizes.filter(|&size| size >= rows).min().unwrap_or(rows),
        }
    }
}

impl CostModel for Profile {
    fn step_time(&mut self, step: &Features) -> Result<StepTime> {
        let mut device_s = self.overhead_s;
        let tokens = match step.prefill_sequences {
            0 => self.padded(step.decode_sequences),
            _ => step.tokens(),
        };
        if tokens > 0 {
            device_s += self.linear.at(tokens as f64, 0.0);
        }
        if step.decode_sequences > 0 {
            let sequences = step.decode_sequences as f64;
            device_s += self.decode_attention.at(sequences, step.decode_context as f64 / sequences);
        }
        if step.prefill_pairs > 0 {
            device_s += self.prefill_attention.at(step.prefill_pairs as f64, 0.0);
        }
        if step.sampled > 0 {
            device_s += self.sampling.at(step.sampled as f64, 0.0);
        }
        device_s += self.block_copy_s * step.blocks_copied as f64
            + self.block_swap_s * (step.blocks_swapped_in + step.blocks_swapped_out) as f64;
        let host_s = self.host_s + self.host_per_sequence_s * step.sequences() as f64;
        Ok(StepTime { host_s, device_s })
    }
}
