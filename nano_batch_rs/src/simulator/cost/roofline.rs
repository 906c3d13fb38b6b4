//! The roofline: no part of a step is faster than its arithmetic or its memory traffic allows
//! (Williams, Waterman and Patterson, CACM 2009).

use super::{CostModel, Features, StepTime};
use crate::error::{Error, Result};

/// A device and a model in numbers. The linear layers, the attention of decodes and that of prefill
/// chunks run one after the other; each takes the longer of its arithmetic and its traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    pub flops_per_s: f64,
    pub bytes_per_s: f64,
    /// Between host and device, for swapped blocks.
    pub host_bytes_per_s: f64,
    /// Kernel launches and the like, per step.
    pub overhead_s: f64,
    /// Host work per step and per scheduled sequence.
    pub host_s: f64,
    pub host_per_sequence_s: f64,
    pub weight_bytes: f64,
    /// Of the linear layers, per token.
    pub flops_per_token: f64,
    /// Of the last layer's logits, per sampled row.
    pub flops_per_sample: f64,
    /// Of attention, per query and key.
    pub flops_per_pair: f64,
    /// Keys and values of one token.
    pub kv_bytes_per_token: f64,
    pub block_bytes: f64,
}

impl Roofline {
    pub fn check(&self) -> Result<()> {
        let rates = [
            ("flops_per_s", self.flops_per_s),
            ("bytes_per_s", self.bytes_per_s),
            ("host_bytes_per_s", self.host_bytes_per_s),
        ];
        for (name, rate) in rates {
            if !(rate.is_finite() && rate > 0.0) {
                return Err(Error::invalid(name, rate, "finite and above 0"));
            }
        }
        let amounts = [
            ("overhead_s", self.overhead_s),
            ("host_s", self.host_s),
            ("host_per_sequence_s", self.host_per_sequence_s),
            ("weight_bytes", self.weight_bytes),
            ("flops_per_token", self.flops_per_token),
            ("flops_per_sample", self.flops_per_sample),
            ("flops_per_pair", self.flops_per_pair),
            ("kv_bytes_per_token", self.kv_bytes_per_token),
            ("block_bytes", self.block_bytes),
        ];
        for (name, amount) in amounts {
            if !(amount.is_finite() && amount >= 0.0) {
                return Err(Error::invalid(name, amount, "finite and at least 0"));
            }
        }
        Ok(())
    }

    fn longer(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops_per_s).max(bytes / self.bytes_per_s)
    }
}

impl CostModel for Roofline {
    fn step_time(&mut self, step: &Features) -> Result<StepTime> {
        let linear = self.longer(
            self.flops_per_token * step.tokens() as f64 + self.flops_per_sample * step.sampled as f64,
            self.weight_bytes,
        );
        let decode = self.longer(
            self.flops_per_pair * step.decode_context as f64,
            self.kv_bytes_per_token * step.decode_context as f64,
        );
        let prefill = self.longer(
            self.flops_per_pair * step.prefill_pairs as f64,
            self.kv_bytes_per_token * step.prefill_context as f64,
        );
        let swapped = (step.blocks_swapped_in + step.blocks_swapped_out) as f64;
        let moved = self.block_bytes * swapped / self.host_bytes_per_s
            + 2.0 * self.block_bytes * step.blocks_copied as f64 / self.bytes_per_s;
        let computed = if step.tokens() > 0 { linear + decode + prefill } else { 0.0 };
        Ok(StepTime {
            host_s: self.host_s + self.host_per_sequence_s * step.sequences() as f64,
            device_s: self.overhead_s + computed + moved,
        })
    }
}
