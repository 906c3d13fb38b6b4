//! The driver: it adds requests, plans steps, executes them on the simulated memory, gives tokens,
//! and holds the engine against the models after every operation.

use std::collections::{HashMap, HashSet, VecDeque};

use nano_batch_core::engine::{Engine, Finished};
use nano_batch_core::step::Step;

use crate::arrays::Arrays;
use crate::counts::Counts;
use crate::memory::Memory;
use crate::model::{Model, State, Tracks};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::track::Track;

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
    pub last_forked: Option<u32>,
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
}
