//! What a step asks of the device.

use crate::scheduler::{DecodeStep, Scheduler};
use crate::step::{Row, Step};

/// Counts of one step. A context is the keys that a row's last query sees, cut to the sliding
/// window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    pub prefill_tokens: u64,
    pub prefill_sequences: u64,
    pub decode_sequences: u64,
    /// Sum and maximum of the decodes' contexts.
    pub decode_context: u64,
    pub decode_context_max: u64,
    /// Sum of the prefill chunks' contexts: keys that are read.
    pub prefill_context: u64,
    /// Query × key products of the prefill chunks, causal.
    pub prefill_pairs: u64,
    /// Rows that end with a token.
    pub sampled: u64,
    pub blocks_copied: u64,
    pub blocks_swapped_out: u64,
    pub blocks_swapped_in: u64,
}

impl Features {
    /// Of a step that `scheduler` has just planned.
    pub fn of(scheduler: &Scheduler, step: &Step) -> Self {
        let window = scheduler.config().sliding_window.map_or(u64::MAX, u64::from);
        let (decodes, chunks) = step.rows.split_at(step.num_decodes);
        let mut features = Features {
            prefill_tokens: u64::from(step.num_tokens) - decodes.len() as u64,
            prefill_sequences: chunks.len() as u64,
            decode_sequences: decodes.len() as u64,
            sampled: step.samples.len() as u64,
            blocks_copied: step.copies.len() as u64,
            blocks_swapped_out: step.swap_out.len() as u64,
            blocks_swapped_in: step.swap_in.len() as u64,
            ..Features::default()
        };
        for row in decodes {
            let context = (u64::from(row.start) + 1).min(window);
            features.decode_context += context;
            features.decode_context_max = features.decode_context_max.max(context);
        }
        for row in chunks {
            features.prefill_context += (u64::from(row.start) + u64::from(row.count))
                .min(window.saturating_add(u64::from(row.count)));
            features.prefill_pairs += pairs(row, window);
        }
        features
    }

    /// Of a step of decodes alone.
    pub fn of_decodes(step: &DecodeStep) -> Self {
        Features {
            decode_sequences: step.sequences,
            decode_context: step.context,
            decode_context_max: step.context_max,
            sampled: step.sequences,
            ..Features::default()
        }
    }

    pub fn tokens(&self) -> u64 {
        self.prefill_tokens + self.decode_sequences
    }

    pub fn sequences(&self) -> u64 {
        self.prefill_sequences + self.decode_sequences
    }
}

/// Σ over a chunk's queries p of the keys they see: min(p + 1, window).
fn pairs(row: &Row, window: u64) -> u64 {
    let (start, end) = (u64::from(row.start), u64::from(row.start) + u64::from(row.count));
    let triangle = |n: u64| n * (n + 1) / 2;
    // Queries from `window` on see a full window.
    let full = window.clamp(start, end);
    triangle(full) - triangle(start) + (end - full) * if full < end { window } else { 0 }
}
