//! One sequence becomes two: `n > 1` and beam search are built on it.

use super::Scheduler;
use crate::error::{Error, Result};
use crate::events::{Kind, NONE};
use crate::request::{Sequence, Status};
use crate::step::{Row, Sample, Step};

impl Scheduler {
    /// A copy of a sequence that shares its blocks; the new slot. Where the parent's last step
    /// ends with a token that is still awaited, the copy awaits one of its own from that step,
    /// after the step's other samples. Without a free lane the copy waits in the queue.
    pub fn fork(&mut self, parent: u32, id: &str) -> Result<u32> {
        let sequence = &self.sequences[parent as usize];
        let refuse = |reason| Err(Error::CannotFork { id: id.to_owned(), reason });
        if !matches!(sequence.status, Status::Running | Status::Waiting) {
            return refuse("it has ended");
        }
        if sequence.lanes_wanted > 1 {
            return refuse("its n sequences start when its prompt ends");
        }
        if sequence.pending > 0 && self.outstanding.len() > 1 {
            return refuse("two steps are outstanding");
        }
        if self.next_uid == u32::MAX {
            return Err(Error::Overflow { what: "the number of sequences" });
        }
        let lane = match sequence.status {
            Status::Running => self.free_lanes.pop(),
            _ => None,
        };
        let child = self.copy_sequence(parent, lane);
        if lane.is_none() {
            self.enqueue(child);
        }
        self.copy_outstanding(parent, child);
        Ok(child)
    }

    /// The sequences of a request with `n > 1`, whose prompt ends with row `at` of `step`: the
    /// first goes on in the parent's place, the others get the lanes reserved for them. Their
    /// samples stand together.
    pub(super) fn split(&mut self, step: &mut Step, at: usize) {
        let row = step.rows[at];
        let sequence = &mut self.sequences[row.slot as usize];
        sequence.lanes_wanted = 1;
        let lanes = std::mem::take(&mut sequence.reserved_lanes);
        let parent = step.samples.iter().position(|sample| sample.uid == row.uid);
        let after = parent.map_or(step.samples.len(), |parent| parent + 1);
        for (position, lane) in (after..).zip(lanes.into_iter().rev()) {
            let child = self.copy_sequence(row.slot, Some(lane));
            let uid = self.sequences[child as usize].uid;
            // Earlier chunks of the prompt may be outstanding as well.
            self.copy_outstanding(row.slot, child);
            self.sequences[child as usize].rows_outstanding += 1;
            step.forked_rows.push(Row { slot: child, uid, lane, ..row });
            step.samples.insert(position, Sample { slot: child, uid, row: at as u32, lane });
            step.forks.push((row.slot, child));
        }
    }

    /// A copy of a sequence, running on `lane` over shared blocks, or not computed at all.
    fn copy_sequence(&mut self, parent: u32, lane: Option<i32>) -> u32 {
        self.settle(parent);
        let child = self.take_slot();
        let uid = self.sequences[child as usize].uid;
        let source = &self.sequences[parent as usize];
        let parent_uid = source.uid;
        let mut copy = Sequence { uid, lane: NONE, rows_outstanding: 0, ..source.clone() };
        copy.preemptions = 0;
        copy.rank.sequence = uid;
        copy.saved.clear();
        // Blocks that a static batch reserved for the parent's later tokens are the parent's own.
        copy.truncate_table(self.config.blocks_for(copy.planned));
        self.record(Kind::Forked, uid, NONE, parent_uid.into());
        match lane {
            Some(lane) => {
                copy.lane = lane;
                copy.shared_tail = true;
                self.sequences[parent as usize].shared_tail = true;
                self.blocks.cache.retain(copy.chain);
                self.record(Kind::Admitted, uid, lane, copy.planned.into());
                for (index, &block) in copy.table().iter().enumerate().filter(|(_, block)| **block >= 0) {
                    self.blocks.share(block as u32);
                    self.record(Kind::Shared, uid, block, index as i64);
                }
                self.sequences[child as usize] = copy;
                self.insert_running(child);
            }
            None => {
                copy.take_table();
                copy.reserved_lanes.clear();
                copy.chain = crate::prefix_cache::ROOT;
                (copy.planned, copy.computed, copy.hashed, copy.released) = (0, 0, 0, 0);
                copy.shared_tail = false;
                self.sequences[child as usize] = copy;
            }
        }
        child
    }

    /// The parent's part in outstanding steps becomes the child's too.
    fn copy_outstanding(&mut self, parent: u32, child: u32) {
        let parent_uid = self.sequences[parent as usize].uid;
        let sequence = &mut self.sequences[child as usize];
        let (uid, lane, shares_blocks) = (sequence.uid, sequence.lane, sequence.status == Status::Running);
        for step in &mut self.outstanding {
            let rows = step.rows.iter().chain(&step.forked_rows);
            let row = rows.filter(|row| row.uid == parent_uid).copied().next();
            if let Some(row) = row
                && shares_blocks
            {
                sequence.rows_outstanding += 1;
                step.forked_rows.push(Row { slot: child, uid, lane, ..row });
            }
            let sample = step.samples.iter().find(|sample| sample.uid == parent_uid).copied();
            if let Some(sample) = sample {
                step.samples.push(Sample { slot: child, uid, lane, ..sample });
            }
        }
    }
}
