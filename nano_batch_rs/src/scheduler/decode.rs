//! The common step: every running sequence decodes and nobody else can join. It is planned and
//! retired without a record of its rows, which is all that a simulated device needs.
//! `plan` and `retire` are the reference: a test holds both against each other.

use super::retire::finish_reason;
use super::{MAX_OUTSTANDING, Scheduler};
use crate::config::Batching;
use crate::request::{Sequence, Status};

/// A step of decodes alone: one token for each running sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeStep {
    pub number: u64,
    pub sequences: u64,
    /// Sum and maximum of the keys that their queries see.
    pub context: u64,
    pub context_max: u64,
}

impl Scheduler {
    /// Plans the next step if it is one of decodes alone, for which there is room; `None`, with
    /// nothing changed, leaves it to `plan`. Until `retire_decodes` no other step may be planned.
    pub fn plan_decodes(&mut self) -> Option<DecodeStep> {
        let mut step = self.decodes_alone()?;
        self.begin_step();
        step.number = self.step;
        for at in 0..self.running.len() {
            let slot = self.running[at];
            if !self.has_room(&self.sequences[slot as usize], 1) {
                self.grow_table(slot, 1);
            }
            self.sequences[slot as usize].planned += 1;
        }
        if let Some(log) = &mut self.log {
            log.push_decodes(self.running.iter().map(|&slot| self.sequences[slot as usize].uid));
        }
        self.decodes_planned = true;
        Some(step)
    }

    /// What the step would be if every running sequence decodes within the blocks there are, none
    /// waits that could be admitted, and no rule beyond these has a say.
    fn decodes_alone(&self) -> Option<DecodeStep> {
        let admits = match self.config.batching {
            Batching::Static => false,
            _ => !self.waiting.is_empty() && !self.free_lanes.is_empty(),
        };
        let sequences = self.running.len() as u64;
        if admits
            || sequences == 0
            || sequences > u64::from(self.config.max_num_batched_tokens)
            || !self.outstanding.is_empty()
            || self.decodes_planned
            || self.policy.ranks_all()
            || self.config.sliding_window.is_some()
        {
            return None;
        }
        let mut step = DecodeStep { number: 0, sequences, context: 0, context_max: 0 };
        let mut missing = 0;
        for &slot in &self.running {
            let sequence = &self.sequences[slot as usize];
            if !sequence.decodes() || sequence.exhausted() || sequence.shared_tail {
                return None;
            }
            missing += u32::from(!self.has_room(sequence, 1));
            let context = u64::from(sequence.planned) + 1;
            step.context += context;
            step.context_max = step.context_max.max(context);
        }
        (missing <= self.blocks.available()).then_some(step)
    }

    /// Retires the step that `plan_decodes` planned, with `token` of each of its sequences.
    pub fn retire_decodes(&mut self, mut token: impl FnMut(&Sequence) -> i32) {
        if !std::mem::take(&mut self.decodes_planned) {
            return;
        }
        let mut any_ended = false;
        for at in 0..self.running.len() {
            let slot = self.running[at];
            let sequence = &mut self.sequences[slot as usize];
            sequence.computed += 1;
            if sequence.cacheable && (sequence.hashed + 1) * self.config.block_size <= sequence.computed {
                self.index_full_blocks(slot);
            }
            let sequence = &mut self.sequences[slot as usize];
            let token = token(sequence);
            sequence.pending += 1;
            if sequence.append(token, &mut self.recent[slot as usize]) {
                sequence.settle(&self.recent[slot as usize]);
            }
            if let Some(reason) = finish_reason(sequence) {
                self.end(slot, reason, None);
                any_ended = true;
            }
        }
        if any_ended {
            self.running.retain(|&slot| self.sequences[slot as usize].status == Status::Running);
        }
    }

    /// Steps that await their tokens, of either kind.
    pub(super) fn num_outstanding(&self) -> usize {
        if self.decodes_planned { MAX_OUTSTANDING } else { self.outstanding.len() }
    }
}
