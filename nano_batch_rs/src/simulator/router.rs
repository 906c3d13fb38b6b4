//! Which replica serves a request.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Workload;
use crate::config::Choice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    RoundRobin,
    /// The replica with the fewest prompt and output tokens of unfinished requests.
    LeastTokens,
    /// The replica that was sent the longest beginning of the prompt before, where that is at
    /// least half of it; else the one with the fewest tokens.
    PrefixAffinity,
}

impl Choice for Routing {
    const NAME: &'static str = "routing";
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("round_robin", Routing::RoundRobin),
        ("least_tokens", Routing::LeastTokens),
        ("prefix_affinity", Routing::PrefixAffinity),
    ];
}

pub(super) struct Router {
    routing: Routing,
    next: u32,
    /// By replica: tokens of its unfinished requests.
    outstanding: Vec<u64>,
    /// By replica: hashes of the prompt beginnings sent to it, block by block.
    sent: Vec<HashSet<u64>>,
}

impl Router {
    pub fn new(routing: Routing, replicas: u32) -> Self {
        let replicas = replicas as usize;
        Router { routing, next: 0, outstanding: vec![0; replicas], sent: vec![HashSet::new(); replicas] }
    }

    /// The replica for a request that arrives now.
    pub fn route(&mut self, row: u32, workload: &Workload) -> u32 {
        if self.outstanding.len() == 1 {
            return 0;
        }
        let to = match self.routing {
            Routing::RoundRobin => {
                self.next = (self.next + 1) % self.outstanding.len() as u32;
                (self.next + self.outstanding.len() as u32 - 1) % self.outstanding.len() as u32
            }
            Routing::LeastTokens => self.least_loaded(),
            Routing::PrefixAffinity => self.nearest(row, workload),
        };
        self.outstanding[to as usize] += tokens(row, workload);
        to
    }

    /// A request of replica `of` ended.
    pub fn ended(&mut self, of: u32, row: u32, workload: &Workload) {
        if self.outstanding.len() > 1 {
            self.outstanding[of as usize] -= tokens(row, workload);
        }
    }

    fn least_loaded(&self) -> u32 {
        let least = self.outstanding.iter().enumerate().min_by_key(|&(_, tokens)| *tokens);
        least.map_or(0, |(at, _)| at as u32)
    }

    fn nearest(&mut self, row: u32, workload: &Workload) -> u32 {
        let ids = workload.ids(row).unwrap_or(&[]);
        let chain: Vec<u64> = ids
            .iter()
            .scan(0, |parent, id| {
                *parent = xxh3_64_with_seed(&id.to_le_bytes(), *parent);
                Some(*parent)
            })
            .collect();
        let matched =
            |sent: &HashSet<u64>| chain.iter().take_while(|beginning| sent.contains(beginning)).count();
        let longest = self.sent.iter().map(matched).max().unwrap_or(0);
        let to = if longest == 0 || 2 * longest < chain.len() {
            self.least_loaded()
        } else {
            let near = (0..self.sent.len()).filter(|&at| matched(&self.sent[at]) == longest);
            near.min_by_key(|&at| self.outstanding[at]).unwrap_or(0) as u32
        };
        self.sent[to as usize].extend(chain);
        to
    }
}

fn tokens(row: u32, workload: &Workload) -> u64 {
    u64::from(workload.prompt_tokens[row as usize]) + u64::from(workload.output_tokens[row as usize])
}
