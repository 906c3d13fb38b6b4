//! Planning a step and executing it on the simulated memory, with everything about its rows checked.

use std::collections::HashSet;

use nano_batch_core::config::Batching;
use nano_batch_core::step::{Row, Step};

use crate::arrays::RowView;
use crate::memory::Stored;
use crate::model::State;
use crate::rng::mix;
use crate::world::{Flight, PlanState, World};

impl World {
    pub fn plan_step(&mut self) {
        let before = self.engine.scheduler().snapshot();
        if self.scenario.policy == "sjf" {
            self.rank_running();
        }
        self.engine.plan().expect("fewer than two steps are outstanding");
        let step = self.engine.scheduler().newest_step().expect("the step just planned").clone();
        self.counts.steps += 1;
        self.counts.operations += 1;
        self.model.step += 1;
        assert_eq!(step.number, u64::from(self.model.step));
        let split = self.follow_splits(&step);
        self.plan = PlanState { planning: true, step: step.clone(), ..PlanState::default() };
        let poison_first = std::mem::take(&mut self.to_poison);
        self.read_events();
        assert_eq!(self.plan.admitted, step.admitted.len());
        assert_eq!(self.plan.preempted as usize, step.preempted.len());
        self.check_keyframe(&before);
        self.check_limits(&step);
        self.plan.planning = false;
        let pad_to = self.rng.between(0, self.scenario.config.max_num_seqs) as usize;
        let rows = self.arrays.fill(self.engine.scheduler(), &step, pad_to);
        self.check_tables(&step, &rows);
        self.count_movement(&step);
        for block in poison_first {
            self.memory.poison(block);
        }
        self.memory.movement(&step.swap_out, &step.swap_in, &step.copies);
        for block in std::mem::take(&mut self.model.freed) {
            if self.model.is_free(block as usize) {
                self.memory.poison(block);
            }
        }
        let hashes = self.write_rows(&step, &rows);
        self.read_keys(&step, &rows, &hashes);
        self.expect_samples(&step);
        let uids = step.rows.iter().map(|row| row.uid).chain(split.iter().copied()).collect();
        if step.rows.is_empty() {
            self.counts.empty_steps += 1;
        } else {
            self.flights.push_back(Flight { step, hashes, uids, split });
        }
        self.after_operation();
    }

    fn rank_running(&mut self) {
        let running: Vec<(u32, u32)> =
            self.model.in_state(State::Running).map(|(uid, s)| (uid, s.stored)).collect();
        for (uid, stored) in running {
            let score = self.queue_score(uid, stored);
            self.model.seqs.get_mut(&uid).expect("running").score = score;
        }
    }

    /// The sequences of n > 1 requests whose prompt ends here get their names; who they are.
    fn follow_splits(&mut self, step: &Step) -> HashSet<u32> {
        let mut split = HashSet::new();
        for &(parent_slot, child_slot) in &step.forks {
            let uid_of = |slot: u32| self.engine.scheduler().sequence(slot).uid;
            let (parent, child) = (uid_of(parent_slot), uid_of(child_slot));
            assert_eq!(child, self.next_uid, "sequence numbers follow each other");
            self.next_uid += 1;
            self.counts.splits += 1;
            let track = self.tracks.get_mut(&parent).expect("a track");
            let request = track.request.clone();
            track.name = format!("{request}/0");
            track.lanes_wanted = 1;
            let index =
                step.forks.iter().filter(|fork| fork.0 == parent_slot).position(|fork| fork.1 == child_slot);
            let index = index.expect("it is there") + 1;
            let mut copy = track.fork(child, format!("{request}/{index}"), request, index as u64);
            copy.pending += 1;
            self.tracks.insert(child, copy);
            self.alive.insert(child);
            split.extend([parent, child]);
        }
        split
    }

    /// A keyframe added by this plan is the state before it.
    fn check_keyframe(&mut self, before: &nano_batch_core::events::Snapshot) {
        let log = self.engine.scheduler().events().expect("on");
        let newest = &log.stretches().last().expect("a stretch").keyframe;
        if newest.step + 1 == self.model.step && newest.event == before.event {
            assert_eq!(newest, before);
            self.counts.keyframes += 1;
        }
    }

    fn check_limits(&mut self, step: &Step) {
        let config = &self.scenario.config;
        let tokens: u32 = step.rows.iter().map(|row| row.count).sum();
        assert_eq!(tokens, step.num_tokens);
        assert!(tokens <= config.max_num_batched_tokens, "over the token budget");
        assert!(step.rows.len() <= config.max_num_seqs as usize, "more rows than max_num_seqs");
        let distinct: HashSet<u32> = step.rows.iter().map(|row| row.uid).collect();
        assert_eq!(distinct.len(), step.rows.len(), "a sequence has two rows");
        for (at, row) in step.rows.iter().enumerate() {
            self.check_row(row, at < step.num_decodes);
        }
        let config = &self.scenario.config;
        let decodes = step.num_decodes > 0;
        if config.batching != Batching::Continuous {
            assert!(!decodes || step.num_decodes == step.rows.len(), "a baseline mixed prefill and decode");
        }
        let left = config.max_num_batched_tokens - tokens;
        if config.batching == Batching::Continuous
            && left > 0
            && self.model.in_state(State::Ending).next().is_none()
        {
            for (uid, seq) in self.model.in_state(State::Running) {
                let track = &self.tracks[&uid];
                let ready =
                    seq.stored + 1 == track.len() && track.outputs() + track.pending < track.max_tokens;
                let has_part = distinct.contains(&uid) || step.samples.iter().any(|sample| sample.uid == uid);
                assert!(has_part || !ready || track.outputs() + track.pending == 0, "a decode was left out");
            }
        }
        self.check_queue_waits_for_a_reason(left);
        self.counts.rows += step.rows.len() as u64;
        self.counts.operations += step.rows.len() as u64;
        self.counts.unknown_rows += step.rows.iter().filter(|row| row.unknown).count() as u64;
    }

    fn check_row(&mut self, row: &Row, decode: bool) {
        let (track, seq) = (&self.tracks[&row.uid], &self.model.seqs[&row.uid]);
        let config = &self.scenario.config;
        // A split row counts its own sample already.
        assert!(self.alive.contains(&row.uid), "a row for a sequence that ended");
        assert_eq!((seq.state, seq.lane), (State::Running, row.lane));
        assert_eq!(seq.stored, row.start + row.count, "planned tokens");
        assert!(row.count > 0 && row.start + row.count <= track.len(), "computed tokens that do not exist");
        assert!(track.outputs() + track.pending < track.max_tokens, "a wasted row");
        if decode {
            assert!(row.count == 1 && row.start + 1 == track.len() && row.start >= track.prompt_len);
        }
        assert_eq!(
            row.unknown,
            row.start as usize == track.tokens.len(),
            "placeholders only for awaited tokens"
        );
        let chunks = config.enable_chunked_prefill && config.batching != Batching::PrefillFirst;
        if !chunks && track.outputs() == 0 {
            assert_eq!(row.start + row.count, track.len(), "a prompt was cut without chunking");
        }
        self.counts.chunks += u64::from(row.start + row.count < track.len());
    }

    /// Tables cover exactly the computed tokens; what a window has passed is −1.
    fn check_tables(&mut self, step: &Step, rows: &[RowView]) {
        let config = &self.scenario.config;
        for (uid, seq) in self.model.in_state(State::Running) {
            let track = &self.tracks[&uid];
            let covered = config.blocks_for(seq.stored) as usize;
            let reserved = config.blocks_for(track.prompt_len + track.max_tokens - 1) as usize;
            let whole = config.batching == Batching::Static && config.sliding_window.is_none();
            if whole && seq.forked_from.is_none() && !track.name.contains('/') && track.lanes_wanted == 1 {
                assert_eq!(seq.table.len(), reserved, "a batch member's reservation");
            } else if whole {
                assert!(seq.table.len() == covered || seq.table.len() == reserved);
            } else {
                assert_eq!(seq.table.len(), covered, "the table of {}", track.name);
            }
            let first = seq.table.iter().position(|&block| block >= 0).unwrap_or(seq.table.len());
            assert!(seq.table[first..].iter().all(|&block| block >= 0), "a hole in the table");
            assert!(config.sliding_window.is_some() || first == 0, "released without a window");
        }
        for (row, view) in step.rows.iter().zip(rows) {
            let seq = &self.model.seqs[&row.uid];
            assert_eq!(view.table[..seq.table.len()], seq.table, "the bound table");
            assert!(view.table[seq.table.len()..].iter().all(|&block| block == -1));
            let passed =
                config.sliding_window.map_or(0, |w| (row.start + 1).saturating_sub(w) / config.block_size);
            let first = seq.table.iter().position(|&block| block >= 0).expect("the block it writes");
            assert_eq!(first as u32, passed, "blocks released to the window");
            self.counts.released += u64::from(passed > 0);
        }
    }

    /// Writes each row's tokens; the hash of all tokens up to its last.
    fn write_rows(&mut self, step: &Step, rows: &[RowView]) -> Vec<u64> {
        let block_size = self.scenario.config.block_size;
        let mut written = HashSet::new();
        let mut hashes = Vec::new();
        for (row, view) in step.rows.iter().zip(rows) {
            let track = &self.tracks[&row.uid];
            let siblings = step.forks.iter().filter(|fork| fork.0 == row.slot).count() as i32;
            let mut hash = 0;
            for (at, &slot) in view.slots.iter().enumerate() {
                let position = row.start + at as u32;
                let block = self.model.seqs[&row.uid].table[(position / block_size) as usize];
                assert_eq!(slot, i64::from(block) * i64::from(block_size) + i64::from(position % block_size));
                assert_eq!(
                    self.model.block(block).references - siblings,
                    1,
                    "wrote to a block of two owners"
                );
                assert!(self.model.block(block).content.is_none(), "wrote to a block that the cache knows");
                assert!(written.insert(slot), "two rows wrote slot {slot}");
                hash = if row.unknown {
                    assert_eq!(view.tokens[at], -1);
                    let mut ahead = track.clone();
                    ahead.push(self.lane_token[&row.lane]);
                    ahead.hashes[position as usize]
                } else {
                    if track.kind == crate::track::Kind::Tokens {
                        assert_eq!(view.tokens[at], track.tokens[position as usize], "an input token");
                    }
                    track.hashes[position as usize]
                };
                self.memory.write(slot, Stored { position, hash });
            }
            hashes.push(hash);
        }
        hashes
    }

    /// Every key that a query may see reads back what the sequence's own tokens say.
    fn read_keys(&mut self, step: &Step, rows: &[RowView], hashes: &[u64]) {
        let window = self.scenario.config.sliding_window.unwrap_or(u32::MAX);
        for ((row, view), &last) in step.rows.iter().zip(rows).zip(hashes) {
            let track = &self.tracks[&row.uid];
            for position in (row.start + 1).saturating_sub(window)..row.start + row.count {
                let known = track.hashes.get(position as usize).copied();
                let expected = Stored { position, hash: known.unwrap_or(last) };
                let found = self.memory.read(&view.table, position);
                assert_eq!(found, expected, "{} reads another's KV at {position} in {row:?}", track.name);
                self.counts.checked_slots += 1;
            }
        }
    }

    /// The samples are those of the rows that reach their sequence's end; tokens go to the lanes.
    fn expect_samples(&mut self, step: &Step) {
        let mut expected = Vec::new();
        for (at, row) in step.rows.iter().enumerate() {
            if row.start + row.count == self.tracks[&row.uid].len() {
                expected.push((row.uid, at as u32));
                let children = step.forks.iter().filter(|fork| fork.0 == row.slot);
                expected.extend(children.map(|f| (self.engine.scheduler().sequence(f.1).uid, at as u32)));
            }
        }
        let given: Vec<_> = step.samples.iter().map(|sample| (sample.uid, sample.row)).collect();
        assert_eq!(given, expected, "the samples");
        for sample in &step.samples {
            let row = step.rows[sample.row as usize];
            let is_child = row.uid != sample.uid;
            let track = self.tracks.get_mut(&sample.uid).expect("a track");
            track.pending += u32::from(!is_child);
            assert_eq!(self.model.seqs[&sample.uid].lane, sample.lane);
        }
        self.digest = mix(self.digest ^ step.num_tokens as u64 ^ (step.num_decodes as u64) << 32);
        self.fill_lanes(step);
    }

    fn fill_lanes(&mut self, step: &Step) {
        for sample in &step.samples {
            let row = step.rows[sample.row as usize];
            let track = &self.tracks[&sample.uid];
            let hash = match track.hashes.get((row.start + row.count - 1) as usize) {
                Some(&hash) => hash,
                None => {
                    let mut ahead = track.clone();
                    ahead.push(self.lane_token[&row.lane]);
                    *ahead.hashes.last().expect("just pushed")
                }
            };
            let token = track.sample(hash, (row.start + row.count) as usize);
            self.lane_token.insert(sample.lane, token);
        }
    }

    fn count_movement(&mut self, step: &Step) {
        self.counts.copies += step.copies.len() as u64;
        self.counts.swapped_out += step.swap_out.len() as u64;
        self.counts.swapped_in += step.swap_in.len() as u64;
        let swapped = |uid: &u32| self.model.seqs[uid].swapped.is_some();
        for preempted in &step.preempted {
            let was_swapped = swapped(&preempted.uid);
            self.counts.recomputed += u64::from(!was_swapped);
            let swaps = self.scenario.config.num_swap_blocks > 0;
            self.counts.swap_fallbacks += u64::from(swaps && !was_swapped);
        }
    }
}
