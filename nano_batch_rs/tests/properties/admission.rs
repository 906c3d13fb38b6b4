//! Who is admitted and who makes room: the rules, recomputed from the model's state.

use nano_batch_core::config::Batching;
use nano_batch_core::policy::LPM_WINDOW;

use crate::model::{Event, State};
use crate::world::World;

impl World {
    /// An admission out of the queue: in order, with the cached prefix, lanes and blocks for it.
    pub fn check_admission(&mut self, event: Event) {
        let uid = event.sequence;
        assert!(self.plan.planning && self.plan.preempted == 0, "admitted in a step that preempts");
        let next = self.next_in_queue().expect("the queue has it");
        assert_eq!(uid, next, "admitted out of order under {}", self.scenario.policy);
        let entry = self.plan.step.admitted[self.plan.admitted];
        self.plan.admitted += 1;
        assert_eq!((entry.uid, entry.lane), (uid, event.block));
        let (track, seq) = (&self.tracks[&uid], &self.model.seqs[&uid]);
        let matched = self.model.match_prefix(track);
        let cached = matched.len() as u32 * self.scenario.config.block_size;
        assert_eq!(entry.cached, cached, "cached tokens of {}", track.name);
        self.counts.hits += u64::from(entry.cached > 0);
        let starts_with = event.argument as u32;
        assert!(starts_with < track.tokens.len() as u32, "the last known token is always computed");
        match seq.swapped {
            None => assert_eq!(starts_with, entry.cached, "{} starts with what the cache had", track.name),
            Some(stored) => {
                assert!(starts_with >= entry.cached && starts_with <= stored.max(cached));
                self.counts.resumed_hits += u64::from(entry.cached > 0);
            }
        }
        assert!(
            self.lanes_taken() + track.lanes_wanted <= self.scenario.config.max_num_seqs,
            "too many lanes"
        );
        if let Some(needed) = self.blocks_needed(uid) {
            assert!(needed <= self.model.available(), "admitted without the blocks for it");
        }
        if self.scenario.policy == "lpm" {
            self.model.seqs.get_mut(&uid).expect("queued").score = -f64::from(entry.cached);
        }
    }

    /// The waiting sequence that the policy puts first.
    fn next_in_queue(&mut self) -> Option<u32> {
        let queue = self.ranked(State::Waiting);
        if self.scenario.policy != "lpm" {
            return queue.first().copied();
        }
        if self.plan.shortlist.is_none() {
            let mut scored: Vec<(usize, u32)> = queue
                .into_iter()
                .take(LPM_WINDOW)
                .map(|uid| (self.model.match_prefix(&self.tracks[&uid]).len(), uid))
                .collect();
            scored.sort_by_key(|&(matched, _)| std::cmp::Reverse(matched));
            self.plan.shortlist = Some(scored.into_iter().map(|(_, uid)| uid).collect());
        }
        self.plan.shortlist.as_ref().and_then(|list| list.get(self.plan.admitted).copied())
    }

    fn lanes_taken(&self) -> u32 {
        let lanes = |(uid, _): (u32, _)| self.tracks[&uid].lanes_wanted;
        self.model.in_state(State::Running).map(lanes).sum()
    }

    /// Blocks that must be available to admit a sequence; none where the rule is not a plain one.
    fn blocks_needed(&self, uid: u32) -> Option<usize> {
        let (config, track, seq) = (&self.scenario.config, &self.tracks[&uid], &self.model.seqs[&uid]);
        if config.sliding_window.is_some() || config.batching == Batching::Static || seq.swapped.is_some() {
            return None;
        }
        let matched = self.model.match_prefix(track);
        let pinned = matched.iter().filter(|&&block| self.model.block(block).references == 0).count();
        let running = self.model.in_state(State::Running).next().is_some();
        let spare = if running { (config.watermark * f64::from(config.num_blocks)) as usize } else { 0 };
        Some(track.tokens.len().div_ceil(config.block_size as usize) - matched.len() + pinned + spare)
    }

    /// The victim is the lowest-ranked running sequence.
    pub fn check_victim(&mut self, uid: u32) {
        assert!(self.plan.planning, "preempted outside of planning");
        assert_eq!(self.ranked(State::Running).last(), Some(&uid), "the victim is not the lowest-ranked");
        assert_eq!(self.plan.step.preempted[self.plan.preempted as usize].uid, uid);
        self.plan.preempted += 1;
    }

    /// Work is not left lying: the first in the queue waits for a reason.
    pub fn check_queue_waits_for_a_reason(&mut self, budget_left: u32) {
        let config = &self.scenario.config;
        if config.batching != Batching::Continuous
            || self.plan.preempted > 0
            || !self.plan.step.preempted.is_empty()
        {
            return;
        }
        let Some(first) = self.next_in_queue() else { return };
        let config = &self.scenario.config;
        let track = &self.tracks[&first];
        let stalled = self.model.in_state(State::Running).any(|(uid, seq)| {
            let row = self.plan.step.rows.iter().any(|row| row.uid == uid);
            !row && seq.stored + 1 < self.tracks[&uid].len()
        });
        let ending: u32 =
            self.model.in_state(State::Ending).map(|(uid, _)| self.tracks[&uid].lanes_wanted).sum();
        let lanes = self.lanes_taken() + ending + track.lanes_wanted > config.max_num_seqs;
        let matched = self.model.match_prefix(track).len() as u32 * config.block_size;
        let whole = !config.enable_chunked_prefill && track.outputs() == 0;
        let too_long = whole && track.tokens.len() as u32 - matched > budget_left;
        let Some(needed) = self.blocks_needed(first) else { return };
        let reason = stalled || lanes || too_long || budget_left == 0 || track.pending > 0;
        assert!(reason || needed > self.model.available(), "{} could have been admitted", track.name);
        if stalled {
            self.counts.stalls += 1;
        }
    }
}
