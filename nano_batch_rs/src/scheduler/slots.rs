//! What every token slot in use is doing (docs/metrics.md, "Waste"), counted without a replay.

use super::Scheduler;
use crate::request::{Sequence, Status};

/// Physical token slots of the blocks in use; together they are all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    /// Written by the steps planned so far.
    pub used: u64,
    /// To be written by their sequence before it ends (`max_tokens` taken as its output length).
    pub reserved: u64,
    /// Never to be written by the sequences that hold them now.
    pub internal: u64,
}

impl Scheduler {
    /// The split of the slots in use, O(running). A slot that several sequences share counts once.
    /// Exact where only full blocks are shared, as the prefix cache does; a forked sequence's
    /// partial block counts as if it were full.
    pub fn slots(&self) -> Slots {
        let block_size = u64::from(self.config.block_size);
        let (mut stored, mut ahead) = (0u64, 0u64);
        let mut count = |sequence: &Sequence| {
            let past = match self.config.sliding_window {
                None => 0,
                Some(_) => u64::from(sequence.released) * block_size,
            };
            let written = u64::from(sequence.planned);
            let end = u64::from(sequence.prompt_len) + u64::from(sequence.max_tokens) - 1;
            stored += written - past;
            ahead += end.min(u64::from(sequence.table_len) * block_size).saturating_sub(written);
        };
        for &slot in &self.running {
            count(&self.sequences[slot as usize]);
        }
        if self.num_ending > 0 {
            self.ending().for_each(count);
        }
        let held = u64::from(self.blocks.num_used()) * block_size;
        let used = stored.saturating_sub(self.blocks.repeated_references() * block_size);
        Slots { used, reserved: ahead, internal: held.saturating_sub(used + ahead) }
    }

    /// The sequences that ended but whose rows are still outstanding, each once: at its newest row.
    fn ending(&self) -> impl Iterator<Item = &Sequence> {
        let newest = self.outstanding.len().saturating_sub(1);
        let rows = self.outstanding.iter().enumerate().flat_map(move |(at, step)| {
            step.rows.iter().chain(&step.forked_rows).map(move |row| (at == newest, row))
        });
        rows.filter_map(|(newest, row)| {
            let sequence = self.sequence(row.slot);
            let ends = sequence.uid == row.uid && sequence.status == Status::Ending;
            (ends && (newest || sequence.rows_outstanding == 1)).then_some(sequence)
        })
    }
}
