//! The driver: it adds requests, plans steps, executes them on the simulated memory, gives tokens,
//! and holds the engine against the models after every operation.

use std::collections::{HashMap, HashSet, VecDeque};

use nano_batch_core::engine::{Engine, Finished};
use nano_batch_core::events::Kind as EventKind;
use nano_batch_core::step::Step;

use crate::arrays::Arrays;
use crate::counts::Counts;
use crate::memory::Memory;
use crate::model::{Event, Model, State, Tracks};
use crate::rng::{Rng, mix};
use crate::scenario::Scenario;
use crate::track::{Kind, Track};

/// A planned step whose tokens were not given yet.
pub struct Flight {
    pub step: Step,
    /// By row: the hash of all tokens up to the row's last.
    pub hashes: Vec<u64>,
    /// Sequences with a part in it, those forked off since included.
    pub uids: HashSet<u32>,
    /// Sequences whose n > 1 prompt ends in it: they are called by their request's id.
    pub split: HashSet<u32>,
}

pub struct World {
    pub scenario: Scenario,
    pub rng: Rng,
    pub engine: Engine,
    pub model: Model,
    pub tracks: Tracks,
    pub alive: HashSet<u32>,
    pub memory: Memory,
    pub arrays: Arrays,
    pub flights: VecDeque<Flight>,
    /// By lane: the newest token, as it lies on the device.
    pub lane_token: HashMap<i32, i32>,
    /// Blocks freed since the newest step was planned.
    pub to_poison: Vec<i32>,
    pub counts: Counts,
    pub next_uid: u32,
    pub arrived: u32,
    /// Everything the engine said, mixed into one number.
    pub digest: u64,
    pub ended: HashMap<String, String>,
    /// When the driver aborts a sequence, by what it has said.
    pub abort_at: fn(&Track) -> bool,
    last_forked: Option<u32>,
    pub plan: PlanState,
}

/// What is remembered while the events of one plan are read.
#[derive(Default)]
pub struct PlanState {
    pub planning: bool,
    pub step: Step,
    pub preempted: u32,
    pub admitted: usize,
    pub shortlist: Option<Vec<u32>>,
}

impl World {
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        let engine = Engine::new(scenario.config.clone()).expect("a valid configuration");
        let config = &scenario.config;
        World {
            rng: Rng::new(seed),
            model: Model::new(config),
            memory: Memory::new(config.num_blocks, config.num_swap_blocks, config.block_size),
            arrays: Arrays::new(engine.scheduler()),
            engine,
            scenario,
            tracks: HashMap::new(),
            alive: HashSet::new(),
            flights: VecDeque::new(),
            lane_token: HashMap::new(),
            to_poison: Vec::new(),
            counts: Counts::default(),
            next_uid: 0,
            arrived: 0,
            digest: 0,
            ended: HashMap::new(),
            abort_at: |_| false,
            last_forked: None,
            plan: PlanState::default(),
        }
    }

    /// Serves all requests of the scenario to their end.
    pub fn run(&mut self) {
        let mut turns = 0;
        while self.arrived < self.scenario.requests || self.engine.scheduler().has_unfinished() {
            turns += 1;
            let running = self.model.in_state(State::Running).count();
            assert!(
                turns < 40_000,
                "no end in sight: {running} run, {} wait",
                self.model.seqs.len() - running
            );
            if self.arrived < self.scenario.requests && self.rng.once_in(3) {
                self.add();
            }
            self.disturb();
            let full = self.flights.len() > self.scenario.depth;
            if full || (!self.flights.is_empty() && self.rng.once_in(2)) {
                self.update();
            } else {
                self.plan_step();
            }
        }
        self.check_end();
    }

    pub fn add(&mut self) {
        self.arrived += 1;
        let (request, new) = self.scenario.request(&mut self.rng, self.next_uid);
        let before = self.engine.scheduler().snapshot();
        match self.engine.add_request(&new.name.clone(), request) {
            Ok(()) => {
                self.counts.requests += 1;
                self.counts.operations += 1;
                self.alive.insert(self.next_uid);
                self.tracks.insert(self.next_uid, Track::new(new));
                self.next_uid += 1;
            }
            Err(_) => {
                self.counts.refused += 1;
                assert_eq!(
                    self.engine.scheduler().snapshot(),
                    before,
                    "a refused request changed the engine"
                );
            }
        }
        self.after_operation();
    }

    /// Gives the oldest outstanding step its tokens.
    pub fn update(&mut self) {
        let flight = self.flights.pop_front().expect("an outstanding step");
        // Read again: forks since then await tokens of their own.
        let step = self.engine.scheduler().outstanding().front().expect("an outstanding step").clone();
        assert_eq!(step.number, flight.step.number);
        let mut tokens = Vec::new();
        let mut by_name: HashMap<String, Vec<i64>> = HashMap::new();
        for sample in &step.samples {
            let track = &self.tracks[&sample.uid];
            let row = step.rows[sample.row as usize];
            if self.alive.contains(&sample.uid) {
                let token =
                    track.sample(flight.hashes[sample.row as usize], (row.start + row.count) as usize);
                let name = if flight.split.contains(&sample.uid) { &track.request } else { &track.name };
                by_name.entry(name.clone()).or_default().push(token.into());
                tokens.push(token);
            } else {
                tokens.push(if self.rng.once_in(2) { -1 } else { 5 });
            }
        }
        let ended = if self.rng.once_in(2) {
            self.engine.update(by_name).expect("tokens for all awaited samples")
        } else {
            self.engine.update_arrays(step.number, &tokens).expect("one token for each sample")
        };
        assert_eq!(ended, self.take_tokens(&step, &tokens), "what ended");
        self.after_operation();
        if self.flights.is_empty() {
            self.check_settled();
        }
        for sample in step.samples {
            if self.alive.contains(&sample.uid) && (self.abort_at)(&self.tracks[&sample.uid]) {
                let name = self.tracks[&sample.uid].name.clone();
                self.end(&name, &[sample.uid], "abort", None);
            }
        }
    }

    /// The models take the tokens; what must have ended.
    fn take_tokens(&mut self, step: &Step, tokens: &[i32]) -> Vec<Finished> {
        let mut ended = Vec::new();
        for (sample, &token) in step.samples.iter().zip(tokens) {
            self.counts.operations += 1;
            if !self.alive.contains(&sample.uid) {
                self.counts.discarded += 1;
                continue;
            }
            self.counts.tokens += 1;
            let track = self.tracks.get_mut(&sample.uid).expect("a track");
            track.push(token);
            track.pending -= 1;
            if let Some(reason) = track.finish_reason() {
                ended.push(Finished { id: track.name.clone(), reason: reason.to_owned() });
                self.alive.remove(&sample.uid);
                self.ended.insert(track.name.clone(), reason.to_owned());
            }
        }
        ended
    }

    /// Reads the new events into the model and checks the state.
    pub fn after_operation(&mut self) {
        self.read_events();
        let freed = std::mem::take(&mut self.model.freed);
        self.to_poison.extend(freed.into_iter().filter(|&block| self.model.is_free(block as usize)));
        self.follow_chains();
        self.check_state();
    }

    /// With a step in flight, a window may pass a block before its content is settled: the
    /// sequence's later blocks are then not cached. Only then.
    fn follow_chains(&mut self) {
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

    /// The engine's state equals the model's, and the model's makes sense.
    fn check_state(&self) {
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
    fn check_settled(&self) {
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
    fn check_end(&mut self) {
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
