//! A step's end: its tokens arrive, full blocks enter the prefix cache, sequences end.

use super::Scheduler;
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::prefix_cache::Key;
use crate::request::{FinishReason, Sequence, Status};
use crate::step::{Row, Sample, Step};

impl Scheduler {
    /// Whether the token of `sample` is still wanted: its sequence did not end in between.
    pub fn awaits(&self, sample: &Sample) -> bool {
        let sequence = self.sequence(sample.slot);
        sequence.uid == sample.uid && matches!(sequence.status, Status::Waiting | Status::Running)
    }

    /// Retires the oldest outstanding step with one checked token for each of its samples
    /// (whatever stands for those that are not awaited any more). The step's record is given
    /// back for reading; hand it to `recycle`.
    pub fn retire(&mut self, number: u64, tokens: &[i32]) -> Result<Step> {
        let expected = self.outstanding.front().map(|step| step.number);
        if expected != Some(number) {
            return Err(Error::WrongStep { given: number, expected });
        }
        let Some(step) = self.outstanding.pop_front() else {
            return Err(Error::WrongStep { given: number, expected });
        };
        // A sequence's row is retired before it takes its token. Samples are in the order of rows;
        // those of forks, whose rows come first, may lie between or behind.
        for row in &step.forked_rows {
            self.retire_row(row);
        }
        let mut any_ended = false;
        let mut taken = 0;
        for (at, row) in step.rows.iter().enumerate() {
            self.retire_row(row);
            while let Some(sample) = step.samples.get(taken)
                && sample.row as usize <= at
            {
                any_ended |= self.take_token(sample, tokens[taken]);
                taken += 1;
            }
        }
        for (sample, &token) in step.samples[taken..].iter().zip(&tokens[taken..]) {
            any_ended |= self.take_token(sample, token);
        }
        if any_ended {
            self.running.retain(|&slot| self.sequences[slot as usize].status == Status::Running);
        }
        Ok(step)
    }

    /// Takes back a retired step's buffers.
    pub fn recycle(&mut self, step: Step) {
        self.spare_steps.push(step);
    }

    #[inline]
    fn retire_row(&mut self, row: &Row) {
        let sequence = &mut self.sequences[row.slot as usize];
        if sequence.uid != row.uid {
            return;
        }
        match sequence.status {
            Status::Ending => {
                sequence.rows_outstanding -= 1;
                if sequence.rows_outstanding == 0 {
                    self.num_ending -= 1;
                    self.vacate(row.slot);
                }
            }
            Status::Running | Status::Waiting => {
                sequence.rows_outstanding -= 1;
                if sequence.epoch == row.epoch {
                    sequence.computed += row.count;
                    if sequence.cacheable && sequence.status == Status::Running {
                        let full = (sequence.hashed + 1) * self.config.block_size;
                        if full <= sequence.computed {
                            self.index_full_blocks(row.slot);
                        }
                    }
                }
            }
            Status::Vacant => {}
        }
    }

    /// Enters into the prefix cache the blocks of which all tokens are known and computed.
    pub(super) fn index_full_blocks(&mut self, slot: u32) {
        self.settle(slot);
        let block_size = self.config.block_size;
        loop {
            let sequence = &mut self.sequences[slot as usize];
            let index = sequence.hashed;
            let full = (index + 1) * block_size;
            if full > sequence.computed.min(sequence.cacheable_len()) {
                return;
            }
            // Mostly the newest block, which is at hand.
            let newest = index + 1 == sequence.table_len;
            let block = if newest { sequence.tail } else { sequence.table()[index as usize] };
            if block < 0 {
                // Given back to the window before its content was settled: the chain is broken.
                sequence.cacheable = false;
                return;
            }
            let tokens = sequence.block_tokens(index, block_size, &mut self.virtual_tokens);
            let hash = self.blocks.cache.chain_hash(sequence.chain_hash, tokens, &mut self.hash_bytes);
            let key = Key { parent: sequence.chain, salt: sequence.salt, hash, tokens };
            let (entry, ours) = self.blocks.index(block as u32, &key);
            let uid = sequence.uid;
            let sequence = &mut self.sequences[slot as usize];
            sequence.chain = entry;
            sequence.chain_hash = hash;
            sequence.hashed += 1;
            if ours {
                let short = self.blocks.cache.short_hash(entry);
                self.record(Kind::Cached, uid, block, short);
            }
        }
    }

    /// Gives a sequence its sampled token; whether that ended it.
    #[inline]
    fn take_token(&mut self, sample: &Sample, token: i32) -> bool {
        if !self.awaits(sample) {
            return false;
        }
        let sequence = &mut self.sequences[sample.slot as usize];
        if sequence.append(token, &mut self.recent[sample.slot as usize]) {
            sequence.settle(&self.recent[sample.slot as usize]);
        }
        match finish_reason(sequence) {
            None => false,
            Some(reason) => {
                self.end(sample.slot, reason, None);
                true
            }
        }
    }
}

/// Whether a sequence's newest token ended it. A stop token counts from `min_tokens` on.
#[inline]
pub(super) fn finish_reason(sequence: &Sequence) -> Option<FinishReason> {
    if sequence.stoppable
        && sequence.outputs >= sequence.min_tokens
        && sequence.stop_token_ids.contains(&sequence.last_token)
    {
        return Some(FinishReason::Stop);
    }
    (sequence.outputs >= sequence.max_tokens).then_some(FinishReason::Length)
}
