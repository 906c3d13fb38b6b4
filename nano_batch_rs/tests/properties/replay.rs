//! The event log read into the model, with who runs and who waits recomputed by the policy.

use nano_batch_core::events::Kind as EventKind;

use crate::model::{Event, State};
use crate::rng::mix;
use crate::world::World;

impl World {
    /// Reads the new events into the model and checks the state.
    pub fn after_operation(&mut self) {
        self.read_events();
        let freed = std::mem::take(&mut self.model.freed);
        self.to_poison.extend(freed.into_iter().filter(|&block| self.model.is_free(block as usize)));
        self.follow_chains();
        self.check_state();
    }

    pub fn read_events(&mut self) {
        let log = self.engine.scheduler().events().expect("the event log is on");
        let mut missing = (log.count() - self.model.seen) as usize;
        let mut events = Vec::new();
        let stretches: Vec<_> = log.stretches().collect();
        for stretch in stretches.iter().rev() {
            let columns = &stretch.events;
            let from = columns.step.len() - missing.min(columns.step.len());
            for at in (from..columns.step.len()).rev() {
                assert_eq!(columns.step[at], self.model.step, "an event's step");
                let (kind, sequence) = (columns.kind[at], columns.sequence[at]);
                events.push(Event {
                    kind,
                    sequence,
                    block: columns.block[at],
                    argument: columns.argument[at],
                });
            }
            missing -= columns.step.len() - from;
        }
        assert_eq!(missing, 0, "events were dropped before they could be read");
        self.last_forked = None;
        for event in events.into_iter().rev() {
            self.apply(event);
        }
    }

    fn apply(&mut self, event: Event) {
        let kind = event.kind;
        self.digest = mix(self.digest ^ mix(u64::from(kind) << 32 | u64::from(event.sequence)));
        self.digest = mix(self.digest ^ mix((event.block as u64) << 32 ^ event.argument as u64));
        let uid = event.sequence;
        let starts_as_fork = kind == EventKind::Admitted as u8 && self.last_forked == Some(uid);
        if kind == EventKind::Admitted as u8 && !starts_as_fork {
            self.check_admission(event);
        }
        if kind == EventKind::Preempted as u8 {
            self.check_victim(uid);
        }
        if kind == EventKind::Freed as u8 && self.model.seqs[&uid].state == State::Ending {
            let used = self.flights.iter().any(|flight| flight.uids.contains(&uid));
            assert!(!used && !self.plan.planning, "blocks released under an outstanding step");
        }
        self.model.apply(event, &self.tracks, &mut self.counts);
        self.last_forked = (kind == EventKind::Forked as u8).then_some(uid);
        self.score_after(kind, event, starts_as_fork);
    }

    fn score_after(&mut self, kind: u8, event: Event, starts_as_fork: bool) {
        let uid = event.sequence;
        let queued = [EventKind::Arrived, EventKind::Forked, EventKind::Preempted].map(|k| k as u8);
        if queued.contains(&kind) {
            let planned = self.model.seqs[&uid].swapped.unwrap_or(0);
            let score = self.queue_score(uid, planned);
            self.model.seqs.get_mut(&uid).expect("queued").score = score;
        } else if starts_as_fork {
            let parent = self.model.seqs[&uid].forked_from.expect("a fork");
            let score = self.model.seqs[&parent].score;
            self.model.seqs.get_mut(&uid).expect("forked").score = score;
        }
    }

    /// A policy's score, recomputed from what is asked and what is known.
    pub fn queue_score(&self, uid: u32, planned: u32) -> f64 {
        let track = &self.tracks[&uid];
        match self.scenario.policy {
            "priority" => track.priority as f64,
            "sjf" => {
                let remaining = track.prompt_len.saturating_sub(planned) + track.max_tokens - track.outputs();
                f64::from(remaining) + self.scenario.config.sjf_ageing * track.arrival
            }
            _ => 0.0,
        }
    }

    /// Sequences of a state in rank order.
    pub fn ranked(&self, state: State) -> Vec<u32> {
        let mut ranked: Vec<_> = self.model.in_state(state).map(|(uid, seq)| (uid, seq.score)).collect();
        ranked.sort_by(|a, b| {
            let arrival = |uid: u32| self.tracks[&uid].arrival;
            a.1.total_cmp(&b.1).then(arrival(a.0).total_cmp(&arrival(b.0))).then(a.0.cmp(&b.0))
        });
        ranked.into_iter().map(|(uid, _)| uid).collect()
    }
}
