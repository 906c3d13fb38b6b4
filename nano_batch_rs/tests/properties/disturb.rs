//! Aborts, finishes and forks at random moments.

use std::collections::HashSet;

use nano_batch_core::error::Error;
use nano_batch_core::request::Status;

use crate::world::World;

impl World {
    pub fn disturb(&mut self) {
        if self.scenario.disturb > 0 && self.rng.once_in(self.scenario.disturb) {
            self.end_one();
        }
        // Copies of copies would outgrow what is served: their number is bounded.
        if self.scenario.fork > 0 && self.counts.forks < 40 && self.rng.once_in(self.scenario.fork) {
            self.fork_one();
        }
    }

    fn any_alive(&mut self) -> Option<u32> {
        let mut alive: Vec<u32> = self.alive.iter().copied().collect();
        alive.sort_unstable();
        (!alive.is_empty()).then(|| *self.rng.choose(&alive))
    }

    /// Ends one sequence, or all sequences of its request.
    fn end_one(&mut self) {
        let Some(uid) = self.any_alive() else { return };
        let track = &self.tracks[&uid];
        let whole = track.request != track.name && self.rng.once_in(2);
        let id = if whole { track.request.clone() } else { track.name.clone() };
        let of_request = |other: &u32| whole && self.tracks[other].request == track.request;
        let members: Vec<u32> =
            self.alive.iter().copied().filter(|other| *other == uid || of_request(other)).collect();
        let fewest = members.iter().map(|member| self.tracks[member].outputs()).min().expect("a member");
        let keep = self.rng.once_in(3).then(|| self.rng.between(0, fewest));
        let reason = *self.rng.choose(&["abort", "stop", "stop_string"]);
        let before = self.engine.scheduler().snapshot();
        let too_many = self.engine.finish(&id, reason, Some(self.tracks[&uid].outputs() + 1));
        assert!(matches!(too_many, Err(Error::InvalidArgument { name: "keep", .. })), "{too_many:?}");
        assert_eq!(self.engine.scheduler().snapshot(), before);
        self.end(&id, &members, reason, keep);
    }

    /// The driver ends the sequences `members`, which are those that `id` names.
    pub fn end(&mut self, id: &str, members: &[u32], reason: &str, keep: Option<u32>) {
        let ended = self.engine.finish(id, reason, keep).expect("a live sequence");
        let names: HashSet<String> = members.iter().map(|uid| self.tracks[uid].name.clone()).collect();
        assert_eq!(ended.iter().map(|ended| ended.id.clone()).collect::<HashSet<_>>(), names);
        assert_eq!(ended.len(), members.len());
        assert!(ended.iter().all(|ended| ended.reason == reason));
        self.counts.operations += 1;
        self.counts.kept += u64::from(keep.is_some());
        self.counts.aborts += u64::from(reason == "abort");
        self.counts.finishes += u64::from(reason != "abort");
        for member in members {
            self.alive.remove(member);
            let late = self.flights.iter().any(|flight| flight.uids.contains(member));
            self.counts.ended_late += u64::from(late);
            let name = self.tracks[member].name.clone();
            self.ended.insert(name, reason.to_owned());
        }
        self.after_operation();
    }

    fn fork_one(&mut self) {
        let Some(parent) = self.any_alive() else { return };
        let track = &self.tracks[&parent];
        let refused = track.lanes_wanted > 1 || (track.pending > 0 && self.flights.len() > 1);
        let name = format!("f{}", self.next_uid);
        let before = self.engine.scheduler().snapshot();
        match self.engine.fork(&track.name, &name) {
            Err(Error::CannotFork { .. }) => {
                assert!(refused, "fork refused");
                assert_eq!(self.engine.scheduler().snapshot(), before, "a refused fork changed the engine");
                return;
            }
            other => {
                other.expect("a live sequence");
            }
        }
        assert!(!refused, "fork allowed");
        let uid = self.next_uid;
        self.next_uid += 1;
        self.counts.forks += 1;
        self.counts.operations += 1;
        let child = track.fork(uid, name.clone(), name, u64::from(uid));
        self.tracks.insert(uid, child);
        self.alive.insert(uid);
        self.join_flights(parent, uid);
        self.after_operation();
    }

    /// A running copy has a part in the outstanding steps of its parent, and samples its own token.
    fn join_flights(&mut self, parent: u32, child: u32) {
        let scheduler = self.engine.scheduler();
        let running = scheduler.running().iter().find(|&&slot| scheduler.sequence(slot).uid == child);
        let Some(&slot) = running else { return };
        assert_eq!(scheduler.sequence(slot).status, Status::Running);
        let lane = scheduler.sequence(slot).lane;
        for flight in &mut self.flights {
            if flight.uids.contains(&parent) {
                flight.uids.insert(child);
            }
            let sample = flight.step.samples.iter().find(|sample| sample.uid == parent).copied();
            // The sample may be one that an earlier fork added.
            let row = flight.step.rows.iter().position(|row| row.uid == parent);
            if let Some(at) = sample.map(|sample| sample.row as usize).or(row) {
                let row = flight.step.rows[at];
                let token = self.tracks[&child].sample(flight.hashes[at], (row.start + row.count) as usize);
                self.lane_token.insert(lane, token);
                if let Some(sample) = sample {
                    flight.step.samples.push(nano_batch_core::step::Sample {
                        uid: child,
                        slot,
                        lane,
                        ..sample
                    });
                }
            }
        }
    }
}
