//! The engine's options, checked once.

use crate::error::{Error, Result};
use crate::policy::PolicyKind;

/// What happens to a sequence's KV when it must make room for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preemption {
    /// It is dropped and computed again.
    Recompute,
    /// It is copied to host blocks and back.
    Swap,
}

/// Which cached block goes first when memory is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    Lru,
    Lfu,
    Fifo,
}

/// How prefill and decode share steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// Iteration-level: decodes first, then prompts (in chunks) in the same step.
    Continuous,
    /// A batch is formed, reserves its memory and runs until its longest member ends.
    Static,
    /// Whole prompts before any decode.
    PrefillFirst,
}

/// A word that names one of a fixed set of choices.
pub trait Choice: Sized + Copy + 'static {
    const NAME: &'static str;
    const CHOICES: &'static [(&'static str, Self)];

    fn parse(word: &str) -> Result<Self> {
        let found = Self::CHOICES.iter().find(|(name, _)| *name == word);
        found.map(|(_, choice)| *choice).ok_or_else(|| Error::UnknownOption {
            name: Self::NAME,
            value: word.to_owned(),
            choices: Self::CHOICES.iter().map(|(name, _)| (*name).to_owned()).collect(),
        })
    }
}

impl Choice for Preemption {
    const NAME: &'static str = "preemption";
    const CHOICES: &'static [(&'static str, Self)] =
        &[("recompute", Preemption::Recompute), ("swap", Preemption::Swap)];
}

impl Choice for Eviction {
    const NAME: &'static str = "eviction";
    const CHOICES: &'static [(&'static str, Self)] =
        &[("lru", Eviction::Lru), ("lfu", Eviction::Lfu), ("fifo", Eviction::Fifo)];
}

#[derive(Debug, Clone)]
pub struct Config {
    pub num_blocks: u32,
    pub block_size: u32,
    pub max_num_seqs: u32,
    /// Token budget of a step.
    pub max_num_batched_tokens: u32,
    pub policy: PolicyKind,
    pub batching: Batching,
    pub preemption: Preemption,
    pub num_swap_blocks: u32,
    pub enable_prefix_caching: bool,
    pub enable_chunked_prefill: bool,
    pub sliding_window: Option<u32>,
    pub eviction: Eviction,
    /// Share of the blocks that admission leaves free, in [0, 1).
    pub watermark: f64,
    /// Most tokens a sequence may store; none: what the blocks hold.
    pub max_model_len: Option<u32>,
    /// Most events kept; none: no event log.
    pub event_log: Option<u64>,
    pub eos_token_id: Option<i32>,
    /// Tokens per second by which waiting lowers the `sjf` score.
    pub sjf_ageing: f64,
    /// Bits of the block hash that are used; fewer than 128 only to provoke collisions in tests.
    pub hash_bits: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            num_blocks: 100,
            block_size: 16,
            max_num_seqs: 256,
            max_num_batched_tokens: 8192,
            policy: PolicyKind::Fcfs,
            batching: Batching::Continuous,
            preemption: Preemption::Recompute,
            num_swap_blocks: 0,
            enable_prefix_caching: true,
            enable_chunked_prefill: true,
            sliding_window: None,
            eviction: Eviction::Lru,
            watermark: 0.01,
            max_model_len: None,
            event_log: None,
            eos_token_id: None,
            sjf_ageing: 10.0,
            hash_bits: 128,
        }
    }
}

impl Config {
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("num_blocks", self.num_blocks),
            ("block_size", self.block_size),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("sliding_window", self.sliding_window.unwrap_or(1)),
            ("max_model_len", self.max_model_len.unwrap_or(1)),
        ];
        for (name, value) in positive {
            if value == 0 || value > i32::MAX as u32 {
                return Err(Error::invalid(name, value, format!("between 1 and {}", i32::MAX)));
            }
        }
        if self.num_swap_blocks > i32::MAX as u32 {
            return Err(Error::invalid("num_swap_blocks", self.num_swap_blocks, "an int32"));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(Error::invalid("watermark", self.watermark, "at least 0 and below 1"));
        }
        if !self.sjf_ageing.is_finite() || self.sjf_ageing < 0.0 {
            return Err(Error::invalid("sjf_ageing", self.sjf_ageing, "finite and at least 0"));
        }
        if self.hash_bits == 0 || self.hash_bits > 128 {
            return Err(Error::invalid("hash_bits", self.hash_bits, "between 1 and 128"));
        }
        if self.event_log == Some(0) {
            return Err(Error::invalid("event_log", 0, "at least 1 event, or off"));
        }
        if self.preemption == Preemption::Swap && self.num_swap_blocks == 0 {
            return Err(Error::invalid("num_swap_blocks", 0, "at least 1 with preemption=\"swap\""));
        }
        Ok(())
    }

    /// Blocks that `tokens` stored tokens take.
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_size)
    }

    /// Blocks that a sequence of `tokens` holds at once when it computes up to `chunk` in a step.
    pub fn blocks_held(&self, tokens: u32, chunk: u32) -> u32 {
        let all = self.blocks_for(tokens);
        match self.sliding_window {
            None => all,
            Some(window) => {
                let span = u64::from(window) + u64::from(chunk);
                let limit = span.div_ceil(u64::from(self.block_size)) + 1;
                all.min(u32::try_from(limit).unwrap_or(u32::MAX))
            }
        }
    }

    /// Most blocks in one sequence's table: the width that a bound block table needs.
    pub fn max_blocks_per_sequence(&self) -> Option<u32> {
        match (self.max_model_len, self.sliding_window) {
            (Some(tokens), _) => Some(self.blocks_for(tokens)),
            (None, None) => Some(self.num_blocks),
            (None, Some(_)) => None,
        }
    }

    /// Whether a prompt may be computed over several steps.
    pub fn chunks_prompts(&self) -> bool {
        self.enable_chunked_prefill && self.batching != Batching::PrefillFirst
    }

    /// Free blocks that admission keeps while anything runs.
    pub fn watermark_blocks(&self) -> u32 {
        (self.watermark * f64::from(self.num_blocks)) as u32
    }
}
