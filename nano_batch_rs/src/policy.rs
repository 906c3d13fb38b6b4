//! In which order requests are admitted and, reversed, preempted.
//!
//! A policy scores requests; the total order is (score, arrival, sequence number), smallest first.

use crate::config::{Batching, Choice, Config};
use crate::error::Result;

/// What a policy sees of a request. Lengths in tokens, times in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub arrival: f64,
    pub priority: i64,
    /// Prompt tokens not yet computed plus output tokens not yet produced.
    pub remaining_tokens: u32,
    /// Tokens whose KV is there: the cached prefix of a waiting request.
    pub cached_tokens: u32,
}

/// All that a policy that ranks every request at every step sees of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// The sequence's number.
    pub sequence: u32,
    pub running: bool,
    pub arrival: f64,
    pub priority: i64,
    pub prompt_tokens: u32,
    /// Tokens whose KV is there.
    pub computed_tokens: u32,
    pub output_tokens: u32,
    pub max_tokens: u32,
    pub preemptions: u32,
    /// Entries of its block table.
    pub blocks: u32,
}

pub trait Policy: Send + Sync {
    /// One score for each candidate, smallest first.
    fn score(&self, candidate: &Candidate) -> f64;

    /// `None`: the order of waiting requests never changes and a sorted queue serves it.
    /// `Some(k)`: the first k in arrival order are scored anew at every step that may admit.
    fn window(&self) -> Option<usize> {
        None
    }

    /// Whether a running request's score changes from step to step.
    fn rescores_running(&self) -> bool {
        false
    }

    /// Whether `rank_all` orders waiting and running requests anew before every step.
    fn ranks_all(&self) -> bool {
        false
    }

    /// One score for each of `requests`, waiting ones first; `now` is the driver's time. An error
    /// leaves the step unplanned.
    fn rank_all(&mut self, _now: f64, _requests: &[Ranked], _scores: &mut Vec<f64>) -> Result<()> {
        Ok(())
    }
}

/// First come, first served.
struct Fcfs;

impl Policy for Fcfs {
    fn score(&self, _: &Candidate) -> f64 {
        0.0
    }
}

/// The smallest priority number first.
struct Priority;

impl Policy for Priority {
    fn score(&self, candidate: &Candidate) -> f64 {
        candidate.priority as f64
    }
}

/// Shortest job first: fewest remaining tokens. A second of waiting counts as `ageing` tokens
/// fewer; as it does for every request, comparing `remaining + ageing × arrival` is the same.
struct Sjf {
    ageing: f64,
}

impl Policy for Sjf {
    fn score(&self, candidate: &Candidate) -> f64 {
        f64::from(candidate.remaining_tokens) + self.ageing * candidate.arrival
    }

    fn rescores_running(&self) -> bool {
        true
    }
}

/// Longest cached prefix first, among the first 128 in arrival order: matching every waiting
/// prompt at every step would cost more than it saves.
struct Lpm;

pub const LPM_WINDOW: usize = 128;

impl Policy for Lpm {
    fn score(&self, candidate: &Candidate) -> f64 {
        -f64::from(candidate.cached_tokens)
    }

    fn window(&self) -> Option<usize> {
        Some(LPM_WINDOW)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    Fcfs,
    Priority,
    Sjf,
    Lpm,
}

impl PolicyKind {
    pub fn build(self, config: &Config) -> Box<dyn Policy> {
        match self {
            PolicyKind::Fcfs => Box::new(Fcfs),
            PolicyKind::Priority => Box::new(Priority),
            PolicyKind::Sjf => Box::new(Sjf { ageing: config.sjf_ageing }),
            PolicyKind::Lpm => Box::new(Lpm),
        }
    }
}

impl Choice for (PolicyKind, Batching) {
    const NAME: &'static str = "policy";
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("fcfs", (PolicyKind::Fcfs, Batching::Continuous)),
        ("priority", (PolicyKind::Priority, Batching::Continuous)),
        ("sjf", (PolicyKind::Sjf, Batching::Continuous)),
        ("lpm", (PolicyKind::Lpm, Batching::Continuous)),
        ("static", (PolicyKind::Fcfs, Batching::Static)),
        ("prefill_first", (PolicyKind::Fcfs, Batching::PrefillFirst)),
    ];
}

/// Sets policy and batching from the one word that a user gives for both.
pub fn parse_policy(word: &str) -> Result<(PolicyKind, Batching)> {
    <(PolicyKind, Batching)>::parse(word)
}

/// A place in the total order.
#[derive(Debug, Clone, Copy)]
pub struct Rank {
    pub score: f64,
    pub arrival: f64,
    pub sequence: u32,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score
            .total_cmp(&other.score)
            .then(self.arrival.total_cmp(&other.arrival))
            .then(self.sequence.cmp(&other.sequence))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}
