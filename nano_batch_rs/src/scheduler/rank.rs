//! The order of requests: where scores change between steps, and policies that rank all of them.

use super::Scheduler;
use crate::error::Result;
use crate::policy::Ranked;

impl Scheduler {
    /// Tells the driver's time. Only policies that rank all requests ever see it.
    pub fn set_now(&mut self, now: f64) {
        self.now = now;
    }

    /// Sorts the running sequences by scores of now: nearly sorted already, so nearly linear.
    pub(super) fn rank_running(&mut self) {
        for at in 0..self.running.len() {
            let slot = self.running[at];
            let score = self.score(slot, self.sequences[slot as usize].cached_tokens);
            self.sequences[slot as usize].rank.score = score;
        }
        self.sort_running();
    }

    /// Asks a policy that ranks all requests for their scores and orders queue and running set by
    /// them. An error changes nothing.
    pub(super) fn rank_all(&mut self) -> Result<()> {
        if !self.policy.ranks_all() || !self.has_unfinished() {
            return Ok(());
        }
        let slots: Vec<u32> = self.waiting.values().chain(&self.running).copied().collect();
        let waiting = self.waiting.len();
        let requests: Vec<Ranked> =
            slots.iter().enumerate().map(|(at, &slot)| self.ranked(slot, at >= waiting)).collect();
        let mut scores = Vec::with_capacity(slots.len());
        self.policy.rank_all(self.now, &requests, &mut scores)?;
        self.waiting.clear();
        for (at, (&slot, &score)) in slots.iter().zip(&scores).enumerate() {
            let rank = &mut self.sequences[slot as usize].rank;
            rank.score = score;
            if at < waiting {
                self.waiting.insert(*rank, slot);
            }
        }
        self.sort_running();
        Ok(())
    }

    fn sort_running(&mut self) {
        let sequences = &self.sequences;
        self.running.sort_by(|&a, &b| sequences[a as usize].rank.cmp(&sequences[b as usize].rank));
    }

    fn ranked(&self, slot: u32, running: bool) -> Ranked {
        let sequence = &self.sequences[slot as usize];
        Ranked {
            sequence: sequence.uid,
            running,
            arrival: sequence.rank.arrival,
            priority: sequence.priority,
            prompt_tokens: sequence.prompt_len,
            computed_tokens: if running { sequence.planned } else { 0 },
            output_tokens: sequence.outputs,
            max_tokens: sequence.max_tokens,
            preemptions: sequence.preemptions,
            blocks: sequence.table_len,
        }
    }
}
