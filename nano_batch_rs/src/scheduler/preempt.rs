//! Making room, and coming back: preemption by recompute or swap, and what admission restores.

use super::Scheduler;
use crate::config::Preemption;
use crate::events::Kind;
use crate::prefix_cache::ROOT;
use crate::request::{SavedBlock, Status};
use crate::step::{Preempted, Step};

/// What a waiting sequence can start from without computing it.
pub(super) struct Restore {
    /// Leading table entries that no query will see: outside the window.
    skipped: u32,
    /// Table entries that come from the prefix cache (the skipped ones among them where the
    /// whole chain was matched).
    matched: u32,
    /// Whether everything that was swapped out comes back.
    complete: bool,
    /// Table entries in all.
    entries: u32,
    pub tokens: u32,
    block_size: u32,
    /// Held blocks that lie on the device already.
    pub shared: u32,
    /// Cached blocks without owners among the shared: they stop being available.
    pub pinned: u32,
}

impl Restore {
    pub(super) fn cached_tokens(&self) -> u32 {
        self.matched * self.block_size
    }
}

impl Scheduler {
    /// Preempts a running sequence: its row of this step, if it has one already, is taken back.
    pub(super) fn preempt(&mut self, step: &mut Step, budget: &mut u32, slot: u32) {
        self.settle(slot);
        let copied = self.unschedule(step, budget, slot);
        self.running.retain(|&other| other != slot);
        let sequence = &mut self.sequences[slot as usize];
        sequence.preemptions += 1;
        let (uid, lane) = (sequence.uid, sequence.lane);
        step.preempted.push(Preempted { slot, uid, lane });
        let swapped = self.config.preemption == Preemption::Swap && !copied && self.swap_out(step, slot);
        self.release_table(slot);
        if !swapped {
            self.forget_computed(slot);
        }
        self.release_lanes(slot);
        self.record(Kind::Preempted, uid, -1, swapped.into());
        self.enqueue(slot);
    }

    /// Takes a sequence's row out of the step being planned. True if a copy-on-write went with
    /// it: then its last block's content is not in place, and it must be recomputed.
    fn unschedule(&mut self, step: &mut Step, budget: &mut u32, slot: u32) -> bool {
        let Some(at) = step.rows.iter().position(|row| row.slot == slot) else { return false };
        let row = step.rows.remove(at);
        *budget += row.count;
        if at < step.num_decodes {
            step.num_decodes -= 1;
        }
        let sampled = step.samples.iter().position(|sample| sample.uid == row.uid);
        if let Some(sampled) = sampled {
            step.samples.remove(sampled);
        }
        for sample in step.samples.iter_mut().filter(|sample| sample.row as usize > at) {
            sample.row -= 1;
        }
        let sequence = &mut self.sequences[slot as usize];
        sequence.planned -= row.count;
        sequence.rows_outstanding -= 1;
        sequence.pending -= u8::from(sampled.is_some());
        let table = self.sequences[slot as usize].table();
        let before = step.copies.len();
        step.copies.retain(|&(_, destination)| !table.contains(&destination));
        step.copies.len() < before
    }

    /// Drops what a sequence has computed. Rows of it that are still outstanding do not count.
    fn forget_computed(&mut self, slot: u32) {
        self.release_chain(slot);
        let sequence = &mut self.sequences[slot as usize];
        sequence.planned = 0;
        sequence.computed = 0;
        sequence.epoch = sequence.epoch.wrapping_add(1);
    }

    /// Copies to the host what would otherwise be lost, and remembers where the rest is. False,
    /// with nothing changed, if the host pool is too small.
    fn swap_out(&mut self, step: &mut Step, slot: u32) -> bool {
        let sequence = &self.sequences[slot as usize];
        let stored = self.config.blocks_for(sequence.planned) as usize;
        let own = |block: i32| {
            let block = block as u32;
            self.blocks.references(block) == 1 && self.blocks.entry_of(block).is_none()
        };
        let wanted = sequence.table()[..stored].iter().filter(|&&block| block >= 0 && own(block)).count();
        if wanted > self.host_free.len() {
            return false;
        }
        let (uid, table) = (sequence.uid, sequence.table()[..stored].to_vec());
        let mut saved = Vec::with_capacity(stored);
        for block in table {
            saved.push(self.save_block(step, uid, block));
        }
        self.sequences[slot as usize].saved = saved;
        true
    }

    fn save_block(&mut self, step: &mut Step, uid: u32, block: i32) -> SavedBlock {
        if block < 0 {
            return SavedBlock::Released;
        }
        if let Some(entry) = self.blocks.entry_of(block as u32) {
            self.blocks.cache.retain(entry);
            return SavedBlock::Cached(entry);
        }
        if self.blocks.references(block as u32) > 1 {
            return SavedBlock::Lost;
        }
        match self.host_free.pop() {
            Some(host) => {
                step.swap_out.push((block, host as i32));
                self.record(Kind::SwappedOut, uid, block, host.into());
                SavedBlock::Host(host)
            }
            None => SavedBlock::Lost,
        }
    }

    /// Looks up, without changing anything but `matched`, what a waiting sequence can start from.
    pub(super) fn plan_restore(&mut self, slot: u32) -> Restore {
        self.match_prefix(slot);
        let block_size = self.config.block_size;
        let matched = self.matched.len() as u32;
        let sequence = &self.sequences[slot as usize];
        let released =
            sequence.saved.iter().take_while(|saved| **saved == SavedBlock::Released).count() as u32;
        let total = sequence.saved.len() as u32;
        let start = matched.max(released).min(total);
        let there =
            sequence.saved[start as usize..].iter().take_while(|saved| self.restorable(saved)).count() as u32;
        let complete = total > 0 && start + there == total;
        // Past a window's gap only everything helps; without one, any longer prefix does.
        let (entries, tokens) = if complete && sequence.planned > matched * block_size {
            (total, sequence.planned)
        } else if released == 0 && start + there > matched {
            (start + there, (start + there) * block_size)
        } else {
            (matched, matched * block_size)
        };
        let complete = complete && tokens == sequence.planned;
        let past = match self.config.sliding_window {
            Some(window) => ((tokens + 1).saturating_sub(window) / block_size).min(entries),
            None => 0,
        };
        let skipped = if complete { past.max(released) } else { past };
        let mut restore = Restore {
            skipped,
            matched: matched.min(entries),
            complete,
            entries,
            tokens,
            block_size,
            shared: 0,
            pinned: 0,
        };
        for index in skipped..entries {
            if let Some(block) = self.cached_block(slot, &restore, index) {
                restore.shared += 1;
                restore.pinned += u32::from(self.blocks.references(block) == 0);
            }
        }
        restore
    }

    fn restorable(&self, saved: &SavedBlock) -> bool {
        match saved {
            SavedBlock::Host(_) => true,
            SavedBlock::Cached(entry) => self.blocks.cache.block(*entry).is_some(),
            SavedBlock::Released | SavedBlock::Lost => false,
        }
    }

    /// The device block that holds entry `index` of a restored table already, if one does.
    fn cached_block(&self, slot: u32, restore: &Restore, index: u32) -> Option<u32> {
        if index < restore.matched {
            return Some(self.matched[index as usize].1);
        }
        match self.sequences[slot as usize].saved.get(index as usize) {
            Some(SavedBlock::Cached(entry)) => self.blocks.cache.block(*entry),
            _ => None,
        }
    }

    /// Blocks beyond the shared ones that admission must see available: for all tokens known so
    /// far, or what a window lets the sequence hold at once.
    pub(super) fn blocks_wanted(&self, restore: &Restore, known: u32, chunk: u32) -> u32 {
        let all = self.config.blocks_for(known) - restore.skipped;
        let held = match self.config.sliding_window {
            None => all,
            Some(_) => all.min(self.config.blocks_held(known, chunk)),
        };
        held.saturating_sub(restore.shared)
    }

    /// Gives an admitted sequence the blocks that `plan_restore` found.
    pub(super) fn restore(&mut self, step: &mut Step, slot: u32, restore: &Restore) {
        let uid = self.sequences[slot as usize].uid;
        let lane = self.sequences[slot as usize].lane;
        self.record(Kind::Admitted, uid, lane, restore.tokens.into());
        self.share_entries(slot, restore);
        self.swap_in_entries(step, slot, restore);
        let last = (restore.matched > 0).then(|| self.matched[restore.matched as usize - 1].0);
        let swapped = !self.sequences[slot as usize].saved.is_empty();
        self.drop_saved(slot);
        if !(restore.complete && swapped) {
            // The chain starts anew behind what the cache had.
            self.blocks.cache.retain(last.unwrap_or(ROOT));
            self.release_chain(slot);
            let sequence = &mut self.sequences[slot as usize];
            sequence.chain = last.unwrap_or(ROOT);
            sequence.chain_hash = match restore.matched {
                0 => sequence.root_hash,
                matched => sequence.hashes[matched as usize - 1],
            };
            sequence.hashed = restore.matched;
            sequence.planned = restore.tokens;
            sequence.computed = restore.tokens;
            sequence.epoch = sequence.epoch.wrapping_add(1);
        }
        let sequence = &mut self.sequences[slot as usize];
        sequence.released = restore.skipped;
        sequence.status = Status::Running;
    }

    /// The table, with the entries that lie on the device; the others −1 for now. Blocks before
    /// the window count as used, but are not held.
    fn share_entries(&mut self, slot: u32, restore: &Restore) {
        let uid = self.sequences[slot as usize].uid;
        for index in 0..restore.entries {
            let block = self.cached_block(slot, restore, index);
            let held = index >= restore.skipped;
            self.sequences[slot as usize].push_block(match block {
                Some(block) if held => block as i32,
                _ => -1,
            });
            if let Some(block) = block {
                self.blocks.share(block);
                self.record(Kind::Shared, uid, block as i32, index.into());
                if !held {
                    self.blocks.release(block);
                    self.record(Kind::Freed, uid, block as i32, index.into());
                }
            }
        }
    }

    fn swap_in_entries(&mut self, step: &mut Step, slot: u32, restore: &Restore) {
        let uid = self.sequences[slot as usize].uid;
        for index in restore.skipped.max(restore.matched)..restore.entries {
            let at = index as usize;
            let SavedBlock::Host(host) = self.sequences[slot as usize].saved[at] else { continue };
            let Some(block) = self.take_block(uid) else { continue };
            self.sequences[slot as usize].replace_block(at, block);
            // Not dropped with the rest: this step reads it.
            self.sequences[slot as usize].saved[at] = SavedBlock::Lost;
            self.host_read.push(host);
            step.swap_in.push((host as i32, block));
            self.record(Kind::Allocated, uid, block, index.into());
            self.record(Kind::SwappedIn, uid, block, host.into());
        }
    }
}
