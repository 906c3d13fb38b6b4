//! A scheduler driven step by step, for tests of single rules.

#![allow(dead_code, reason = "each test file uses a part")]

use nano_batch_core::config::{Config, Preemption};
use nano_batch_core::policy::parse_policy;
use nano_batch_core::request::{Prompt, Request};
use nano_batch_core::scheduler::Scheduler;
use nano_batch_core::step::Step;

pub struct Driver {
    pub scheduler: Scheduler,
}

/// Blocks of 2 tokens, no watermark, no prefix cache: change what a test is about.
pub fn config(num_blocks: u32) -> Config {
    Config { num_blocks, block_size: 2, watermark: 0.0, enable_prefix_caching: false, ..Config::default() }
}

pub fn swapping(num_blocks: u32, num_swap_blocks: u32) -> Config {
    Config { preemption: Preemption::Swap, num_swap_blocks, ..config(num_blocks) }
}

pub fn with_policy(name: &str, base: Config) -> Config {
    let (policy, batching) = parse_policy(name).expect("a policy");
    Config { policy, batching, ..base }
}

pub fn tokens(prompt: &[i32], max_tokens: u32) -> Request {
    Request::new(Prompt::Tokens(prompt.to_vec()), max_tokens)
}

pub fn length(prompt: u32, max_tokens: u32) -> Request {
    Request::new(Prompt::Length(prompt), max_tokens)
}

impl Driver {
    pub fn new(config: Config) -> Self {
        Driver { scheduler: Scheduler::new(config).expect("a valid configuration") }
    }

    /// Queues a request; its sequence's slot.
    pub fn add(&mut self, request: Request) -> u32 {
        self.scheduler.add(request, "test").expect("a servable request")
    }

    pub fn plan(&mut self) -> Step {
        self.scheduler.plan().expect("fewer than two steps outstanding").clone()
    }

    /// Gives every sample of the oldest outstanding step the token 9.
    pub fn retire(&mut self) {
        let step = self.scheduler.outstanding().front().expect("an outstanding step");
        let (number, samples) = (step.number, step.samples.len());
        let step = self.scheduler.retire(number, &vec![9; samples]).expect("the oldest step");
        self.scheduler.recycle(step);
    }

    pub fn step(&mut self) -> Step {
        let step = self.plan();
        if !step.rows.is_empty() {
            self.retire();
        }
        step
    }

    /// Steps until `wanted`, which must come.
    pub fn step_until(&mut self, wanted: impl Fn(&Step) -> bool) -> Step {
        (0..1000).map(|_| self.step()).find(wanted).expect("a step as wanted")
    }

    pub fn finish_all(&mut self) {
        for _ in 0..1000 {
            if !self.scheduler.has_unfinished() {
                return;
            }
            self.step();
        }
        panic!("no end in sight");
    }

    pub fn table(&self, slot: u32) -> Vec<i32> {
        self.scheduler.sequence(slot).table().to_vec()
    }

    pub fn slots(step: &Step) -> Vec<u32> {
        step.rows.iter().map(|row| row.slot).collect()
    }

    pub fn is_cached(&self, block: i32) -> bool {
        self.scheduler.blocks().entry_of(block as u32).is_some()
    }
}
