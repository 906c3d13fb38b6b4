//! What holds after every operation, with no step outstanding, and at the end.

use std::collections::HashSet;

use crate::model::State;
use crate::track::Kind;
use crate::world::World;

impl World {
    /// With a step in flight, a window may pass a block before its content is settled: the
    /// sequence's later blocks are then not cached. Only then.
    pub fn follow_chains(&mut self) {
        let scheduler = self.engine.scheduler();
        for &slot in scheduler.running() {
            let sequence = scheduler.sequence(slot);
            let track = self.tracks.get_mut(&sequence.uid).expect("a track");
            let caches = self.scenario.config.enable_prefix_caching && track.kind != Kind::Length;
            if caches && !sequence.cacheable && !track.lost_chain {
                assert!(
                    self.scenario.depth > 0 && self.scenario.config.sliding_window.is_some(),
                    "a lost chain"
                );
                track.lost_chain = true;
                self.counts.lost_chains += 1;
            }
        }
    }

    /// The engine's state equals the model's, and the model's makes sense.
    pub fn check_state(&self) {
        let scheduler = self.engine.scheduler();
        assert_eq!(scheduler.snapshot(), self.model.snapshot(), "snapshot and replay of the events");
        self.model.check_owners();
        assert_eq!(scheduler.blocks().num_free() as usize, self.model.num_free());
        assert_eq!(scheduler.blocks().available() as usize, self.model.available());
        let uids =
            |slots: Vec<u32>| slots.into_iter().map(|slot| scheduler.sequence(slot).uid).collect::<Vec<_>>();
        assert_eq!(uids(scheduler.waiting().collect()), self.ranked(State::Waiting), "the queue's order");
        assert_eq!(uids(scheduler.running().to_vec()), self.ranked(State::Running), "the running order");
        for &slot in scheduler.running() {
            let sequence = scheduler.sequence(slot);
            let track = &self.tracks[&sequence.uid];
            assert_eq!(self.engine.name(slot), track.name);
            if track.kind == Kind::Tokens {
                // The newest few may lie elsewhere; what rows read of them is compared there.
                assert!(track.tokens.starts_with(&sequence.tokens), "the tokens of {}", track.name);
            }
        }
        let lanes: Vec<i32> = self.model.in_state(State::Running).map(|(_, seq)| seq.lane).collect();
        let distinct: HashSet<i32> = lanes.iter().copied().collect();
        assert_eq!(distinct.len(), lanes.len(), "two sequences on one lane");
        assert!(lanes.iter().all(|&lane| lane >= 0 && (lane as u32) < self.scenario.config.max_num_seqs));
        for (uid, _) in self.model.in_state(State::Ending) {
            let awaited = self.flights.iter().any(|flight| flight.uids.contains(&uid));
            assert!(awaited, "sequence {uid} ended and keeps its blocks for nothing");
        }
        assert_eq!(scheduler.outstanding().len(), self.flights.len());
    }

    /// With no step outstanding, all that is planned is computed, and full blocks are settled.
    pub fn check_settled(&self) {
        let scheduler = self.engine.scheduler();
        for &slot in scheduler.running() {
            let sequence = scheduler.sequence(slot);
            let track = &self.tracks[&sequence.uid];
            assert_eq!(sequence.computed, sequence.planned, "computed tokens of {}", track.name);
            assert_eq!((sequence.pending, sequence.rows_outstanding), (0, 0));
            if sequence.cacheable {
                let full = sequence.computed.min(track.cacheable_len()) / self.scenario.config.block_size;
                assert!(sequence.hashed >= full, "{} has full blocks that were not indexed", track.name);
            }
        }
    }

    /// Nothing is left over, and every sequence said what it says undisturbed.
    pub fn check_end(&mut self) {
        while !self.flights.is_empty() {
            self.update();
        }
        assert!(self.model.seqs.is_empty() && self.alive.is_empty());
        assert!(self.model.blocks.iter().all(|block| block.references == 0), "a block leaked");
        let scheduler = self.engine.scheduler();
        assert_eq!(
            scheduler.num_host_free() as u32,
            self.scenario.config.num_swap_blocks,
            "a host block leaked"
        );
        let mut entries = HashSet::new();
        for &name in self.model.cached.keys() {
            let mut next = Some(name);
            while let Some(name) = next {
                entries.insert(name);
                next = self.model.parents[&name];
            }
        }
        assert_eq!(scheduler.blocks().cache.len(), entries.len(), "entries of the prefix cache");
        for track in self.tracks.values() {
            assert_eq!(track.tokens, track.undisturbed(), "the tokens of {}", track.name);
        }
    }
}
