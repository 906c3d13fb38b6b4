//! Planning a step: running decodes, running prefill chunks, then admissions.

use std::collections::VecDeque;

use super::{MAX_OUTSTANDING, Scheduler};
use crate::config::Batching;
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::request::{Sequence, Status};
use crate::step::{Admission, Row, Sample, Step};

/// What a pass over running sequences did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Done,
    /// A sequence found no room and waits where it is.
    Stalled,
}

impl Scheduler {
    /// Plans the next step and returns it. A step without rows awaits no tokens.
    pub fn plan(&mut self) -> Result<&Step> {
        let outstanding = self.num_outstanding();
        if outstanding >= MAX_OUTSTANDING {
            return Err(Error::StepPending { outstanding, limit: MAX_OUTSTANDING });
        }
        self.rank_all()?;
        let mut step = self.empty_step.take().or_else(|| self.spare_steps.pop()).unwrap_or_default();
        self.begin_step();
        step.reset(self.step);
        let mut budget = self.config.max_num_batched_tokens;
        match self.config.batching {
            Batching::Continuous => {
                let prefills = self.decode_pass(&mut step, &mut budget);
                let pass = if prefills { self.prefill_pass(&mut step, &mut budget) } else { Pass::Done };
                if pass == Pass::Done && step.preempted.is_empty() {
                    self.admission_pass(&mut step, &mut budget);
                }
            }
            Batching::PrefillFirst => {
                if self.prefill_pass(&mut step, &mut budget) == Pass::Done && step.preempted.is_empty() {
                    self.admission_pass(&mut step, &mut budget);
                }
                if step.rows.is_empty() {
                    self.decode_pass(&mut step, &mut budget);
                }
            }
            Batching::Static => {
                if self.running.is_empty() && self.num_ending == 0 {
                    self.admission_pass(&mut step, &mut budget);
                } else {
                    self.prefill_pass(&mut step, &mut budget);
                    // Also where a prompt found no room: it waits for blocks that decodes free.
                    if step.rows.is_empty() {
                        self.decode_pass(&mut step, &mut budget);
                    }
                }
            }
        }
        self.commit(&mut step, budget);
        if step.rows.is_empty() {
            return Ok(self.empty_step.insert(step));
        }
        self.outstanding.push_back(step);
        Ok(&self.outstanding[outstanding])
    }

    pub(super) fn begin_step(&mut self) {
        let number = self.step + 1;
        if self.log.as_ref().is_some_and(|log| log.wants_keyframe()) {
            let keyframe = self.snapshot();
            if let Some(log) = &mut self.log {
                log.add_keyframe(keyframe);
            }
        }
        self.step = number;
        if let Some(log) = &mut self.log {
            log.begin_step(number as u32);
        }
        self.host_free.append(&mut self.host_read);
        if self.policy.rescores_running() {
            self.rank_running();
        }
    }

    /// One token for each running sequence that decodes, in rank order. Whether it met any that
    /// still computes its prompt.
    fn decode_pass(&mut self, step: &mut Step, budget: &mut u32) -> bool {
        let mut prefills = false;
        let mut at = 0;
        let windowless = self.config.sliding_window.is_none();
        while at < self.running.len() && *budget > 0 {
            let slot = self.running[at];
            let sequence = &self.sequences[slot as usize];
            // Most steps of most sequences stay within their last block.
            let has_room = windowless && self.has_room(sequence, 1);
            if !sequence.decodes() {
                prefills = true;
            } else if !sequence.exhausted() && (has_room || self.make_room(step, budget, slot, 1)) {
                self.schedule(step, budget, slot, 1);
            }
            at += 1;
        }
        step.num_decodes = step.rows.len();
        prefills
    }

    fn prefill_pass(&mut self, step: &mut Step, budget: &mut u32) -> Pass {
        let mut at = 0;
        while at < self.running.len() && *budget > 0 {
            let slot = self.running[at];
            at += 1;
            let sequence = &self.sequences[slot as usize];
            let remaining = sequence.total() - sequence.planned;
            if remaining == 0 || sequence.decodes() {
                continue;
            }
            let chunk = remaining.min(*budget);
            if !self.make_room(step, budget, slot, chunk) {
                return Pass::Stalled;
            }
            self.schedule(step, budget, slot, chunk);
        }
        Pass::Done
    }

    /// Blocks for the next `count` tokens of a running sequence, by preemption of lower-ranked
    /// ones if need be. False if it was itself preempted or has to wait.
    fn make_room(&mut self, step: &mut Step, budget: &mut u32, slot: u32, count: u32) -> bool {
        while !self.reserve(step, slot, count) {
            let Some(&victim) = self.running.last() else { return false };
            // The lowest-ranked one waits, rather than lose its work, where memory is about to
            // come back or others go on without it.
            let prefills = !self.sequences[slot as usize].decodes();
            if victim == slot && (self.num_ending > 0 || prefills) {
                return false;
            }
            self.preempt(step, budget, victim);
            if victim == slot {
                return false;
            }
        }
        true
    }

    /// Whether the next `count` tokens fit into blocks that are the sequence's own to write.
    #[inline]
    pub(super) fn has_room(&self, sequence: &Sequence, count: u32) -> bool {
        sequence.planned + count <= sequence.table_len * self.config.block_size && !sequence.shared_tail
    }

    /// Takes the blocks that the next `count` tokens of a sequence need, or nothing.
    fn reserve(&mut self, step: &mut Step, slot: u32, count: u32) -> bool {
        self.leave_window(slot);
        let sequence = &self.sequences[slot as usize];
        if self.has_room(sequence, count) {
            return true;
        }
        let end = sequence.planned + count;
        let copied = self.block_to_copy(sequence);
        let missing = self.config.blocks_for(end).saturating_sub(sequence.table_len);
        if missing + u32::from(copied.is_some()) > self.blocks.available() {
            return false;
        }
        if let Some((index, source)) = copied {
            self.copy_on_write(step, slot, index, source);
        }
        self.sequences[slot as usize].shared_tail = false;
        self.grow_table(slot, missing);
        true
    }

    /// The block that the next write of a sequence would change under another owner's eyes.
    fn block_to_copy(&self, sequence: &Sequence) -> Option<(usize, u32)> {
        if !sequence.shared_tail {
            return None;
        }
        let index = (sequence.planned / self.config.block_size) as usize;
        let block = *sequence.table().get(index)? as u32;
        (self.blocks.references(block) > 1).then_some((index, block))
    }

    fn copy_on_write(&mut self, step: &mut Step, slot: u32, index: usize, source: u32) {
        let uid = self.sequences[slot as usize].uid;
        let Some(block) = self.take_block(uid) else { return };
        self.blocks.release(source);
        self.sequences[slot as usize].replace_block(index, block);
        step.copies.push((source as i32, block));
        self.record(Kind::Copied, uid, block, source.into());
    }

    /// Appends `missing` blocks to a table; the caller has seen that they are available.
    pub(super) fn grow_table(&mut self, slot: u32, missing: u32) {
        let uid = self.sequences[slot as usize].uid;
        for _ in 0..missing {
            let Some(block) = self.take_block(uid) else { return };
            let sequence = &mut self.sequences[slot as usize];
            sequence.push_block(block);
            let index = i64::from(sequence.table_len) - 1;
            self.record(Kind::Allocated, uid, block, index);
        }
    }

    pub(super) fn take_block(&mut self, uid: u32) -> Option<i32> {
        let taken = self.blocks.allocate()?;
        if let Some(hash) = taken.evicted {
            self.record(Kind::Evicted, uid, taken.block as i32, hash);
        }
        Some(taken.block as i32)
    }

    /// Gives back the blocks that no later query of a sequence sees. The query at p sees the keys
    /// j with p − w < j ≤ p, and p is at least `planned`.
    fn leave_window(&mut self, slot: u32) {
        let Some(window) = self.config.sliding_window else { return };
        let sequence = &self.sequences[slot as usize];
        let (uid, first) = (sequence.uid, sequence.released);
        let past =
            ((sequence.planned + 1).saturating_sub(window) / self.config.block_size).min(sequence.table_len);
        for index in first..past {
            let block = self.sequences[slot as usize].replace_block(index as usize, -1);
            self.blocks.release(block as u32);
            self.record(Kind::Freed, uid, block, index.into());
        }
        if past > first {
            self.sequences[slot as usize].released = past;
        }
    }

    fn admission_pass(&mut self, step: &mut Step, budget: &mut u32) {
        let mut shortlist = self.shortlist();
        loop {
            let next = match &shortlist {
                Some(list) => list.front().copied(),
                None => self.waiting.first_key_value().map(|(_, &slot)| slot),
            };
            let Some(slot) = next else { return };
            if !self.admit(step, budget, slot) {
                return;
            }
            if let Some(list) = &mut shortlist {
                list.pop_front();
            }
        }
    }

    /// The first waiting sequences, ordered by scores of now, for a policy that wants that.
    fn shortlist(&mut self) -> Option<VecDeque<u32>> {
        let window = self.policy.window()?;
        let candidates: Vec<u32> = self.waiting.values().take(window).copied().collect();
        let mut scored = Vec::with_capacity(candidates.len());
        for slot in candidates {
            self.match_prefix(slot);
            let cached = self.matched.len() as u32 * self.config.block_size;
            scored.push((self.score(slot, cached), slot));
        }
        // Stable: equal scores stay in arrival order.
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        Some(scored.into_iter().map(|(_, slot)| slot).collect())
    }

    /// Admits a waiting sequence with its first chunk, if lanes, budget and blocks allow it.
    fn admit(&mut self, step: &mut Step, budget: &mut u32, slot: u32) -> bool {
        let forms_batch = self.config.batching == Batching::Static;
        let sequence = &self.sequences[slot as usize];
        if sequence.pending > 0
            || sequence.lanes_wanted as usize > self.free_lanes.len()
            || (*budget == 0 && !forms_batch)
        {
            return false;
        }
        let (known, resumed) = (sequence.known(), sequence.outputs > 0);
        let restore = self.plan_restore(slot);
        let remaining = known - restore.tokens;
        let chunk = remaining.min(*budget);
        // A resumed sequence may have outgrown the budget: it is computed in chunks in any case.
        if chunk < remaining && !self.config.chunks_prompts() && !resumed {
            return false;
        }
        let wanted = match forms_batch {
            true => self.batch_blocks(slot).saturating_sub(restore.shared),
            false => self.blocks_wanted(&restore, known, chunk),
        };
        let spare = if self.running.is_empty() { 0 } else { self.config.watermark_blocks() };
        let promised = if forms_batch { self.promised_blocks() } else { 0 };
        let needed = u64::from(wanted) + u64::from(restore.pinned) + u64::from(spare) + promised;
        if needed > u64::from(self.blocks.available()) {
            return false;
        }
        self.start(step, slot, restore.cached_tokens());
        self.restore(step, slot, &restore);
        if chunk > 0 {
            self.leave_window(slot);
            let end = self.sequences[slot as usize].planned + chunk;
            let missing = self.config.blocks_for(end).saturating_sub(self.sequences[slot as usize].table_len);
            self.grow_table(slot, missing);
            self.schedule(step, budget, slot, chunk);
        }
        if forms_batch {
            self.grow_to_reservation(slot);
        }
        true
    }

    /// Takes a sequence from the queue into the running set.
    fn start(&mut self, step: &mut Step, slot: u32, cached: u32) {
        let rank = self.sequences[slot as usize].rank;
        self.waiting.remove(&rank);
        let lanes = self.sequences[slot as usize].lanes_wanted;
        let reserved: Vec<i32> = (1..lanes).filter_map(|_| self.free_lanes.pop()).collect();
        let lane = self.free_lanes.pop().unwrap_or(-1);
        let sequence = &mut self.sequences[slot as usize];
        sequence.status = Status::Running;
        sequence.lane = lane;
        sequence.reserved_lanes = reserved;
        sequence.cached_tokens = cached;
        if self.policy.window().is_some() {
            let score = self.score(slot, cached);
            self.sequences[slot as usize].rank.score = score;
        }
        self.insert_running(slot);
        step.admitted.push(Admission { slot, uid: rank.sequence, lane, cached });
    }

    pub(super) fn insert_running(&mut self, slot: u32) {
        let rank = self.sequences[slot as usize].rank;
        let at = self.running.partition_point(|&other| self.sequences[other as usize].rank < rank);
        self.running.insert(at, slot);
    }

    /// Blocks that a formed batch reserves for one request: all it can come to hold.
    fn batch_blocks(&self, slot: u32) -> u32 {
        let sequence = &self.sequences[slot as usize];
        let stored = sequence.prompt_len + sequence.max_tokens - 1;
        let one = self.config.blocks_held(stored, self.config.max_num_batched_tokens.min(stored));
        let shared = (sequence.prompt_len / self.config.block_size).min(one);
        shared + sequence.lanes_wanted * (one - shared)
    }

    /// Blocks reserved by the members of a batch that do not hold them yet.
    fn promised_blocks(&self) -> u64 {
        let missing = |&slot: &u32| {
            let held =
                self.sequences[slot as usize].table().iter().filter(|&&block| block >= 0).count() as u32;
            u64::from(self.batch_blocks(slot).saturating_sub(held))
        };
        self.running.iter().map(missing).sum()
    }

    /// Takes a batch member's whole reservation, where it is known which blocks that means.
    fn grow_to_reservation(&mut self, slot: u32) {
        let sequence = &self.sequences[slot as usize];
        if sequence.lanes_wanted == 1 && self.config.sliding_window.is_none() {
            let missing = self.batch_blocks(slot).saturating_sub(sequence.table_len);
            self.grow_table(slot, missing);
        }
    }

    /// A row for a sequence that has the blocks for it: what it writes and ends with counts from
    /// now on (`unschedule` takes it back).
    #[inline]
    fn schedule(&mut self, step: &mut Step, budget: &mut u32, slot: u32, count: u32) {
        *budget -= count;
        let sequence = &mut self.sequences[slot as usize];
        let row = row_of(sequence, slot, count);
        sequence.planned += count;
        sequence.rows_outstanding += 1;
        if sequence.planned == sequence.total() {
            sequence.pending += 1;
            let at = step.rows.len() as u32;
            step.samples.push(Sample { slot, uid: row.uid, row: at, lane: row.lane });
        }
        step.rows.push(row);
    }

    /// What has to wait until all rows are known: their events, and the sequences of requests with
    /// n > 1 whose prompts end here.
    fn commit(&mut self, step: &mut Step, budget_left: u32) {
        step.num_tokens = self.config.max_num_batched_tokens - budget_left;
        if let Some(log) = &mut self.log {
            for row in &step.rows {
                log.push(Kind::Scheduled, row.uid, -1, row.count.into());
            }
        }
        // Only a prompt's end can split; asking decodes too would touch their cold half.
        for at in step.num_decodes..step.rows.len() {
            let sequence = &self.sequences[step.rows[at].slot as usize];
            if sequence.lanes_wanted > 1 && sequence.pending > 0 {
                self.split(step, at);
            }
        }
    }
}

#[inline]
fn row_of(sequence: &Sequence, slot: u32, count: u32) -> Row {
    Row {
        slot,
        uid: sequence.uid,
        epoch: sequence.epoch,
        lane: sequence.lane,
        start: sequence.planned,
        count,
        unknown: sequence.pending > 0,
    }
}
