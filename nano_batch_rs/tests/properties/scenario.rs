//! Random engines and random requests: small memories, so that they run out often.

use nano_batch_core::config::{Config, Eviction, Preemption};
use nano_batch_core::policy::parse_policy;
use nano_batch_core::request::{Prompt, Request};

use crate::rng::{Rng, mix};
use crate::track::{Kind, NewTrack, VOCABULARY};

pub const POLICIES: [&str; 6] = ["fcfs", "priority", "sjf", "lpm", "static", "prefill_first"];

#[derive(Debug, Clone)]
pub struct Scenario {
    pub config: Config,
    pub policy: &'static str,
    /// Requests that arrive.
    pub requests: u32,
    /// Steps that may be planned ahead: 0 or 1.
    pub depth: usize,
    /// One driver operation in so many is an abort, a finish, a fork; 0: never.
    pub disturb: u64,
    pub fork: u64,
    pub longest_prompt: u32,
}

impl Scenario {
    pub fn random(rng: &mut Rng) -> Self {
        let policy = *rng.choose(&POLICIES);
        let (kind, batching) = parse_policy(policy).expect("a policy");
        let block_size = if rng.once_in(3) { rng.between(1, 64) } else { *rng.choose(&[1, 2, 3, 4, 8, 16]) };
        let num_blocks = rng.between(3, 12) + if rng.once_in(3) { rng.between(0, 60) } else { 0 };
        let capacity = num_blocks * block_size;
        let longest_prompt = rng.between(1, capacity.min(160));
        let window = rng.once_in(3).then(|| match rng.below(4) {
            0 => 1,
            1 => rng.between(1, block_size),
            _ => rng.between(1, 3 * block_size + 5),
        });
        let swaps = rng.once_in(2);
        let config = Config {
            num_blocks,
            block_size,
            max_num_seqs: rng.between(1, 10),
            max_num_batched_tokens: if rng.once_in(2) { rng.between(1, 24) } else { rng.between(8, 250) },
            policy: kind,
            batching,
            preemption: if swaps { Preemption::Swap } else { Preemption::Recompute },
            num_swap_blocks: if swaps { rng.between(1, num_blocks) } else { 0 },
            enable_prefix_caching: !rng.once_in(4),
            enable_chunked_prefill: !rng.once_in(4),
            sliding_window: window,
            eviction: *rng.choose(&[Eviction::Lru, Eviction::Lfu, Eviction::Fifo]),
            watermark: *rng.choose(&[0.0, 0.01, 0.1, 0.3]),
            max_model_len: (window.is_some() || rng.once_in(4)).then(|| rng.between(longest_prompt, 400)),
            event_log: Some(if rng.once_in(4) { u64::from(rng.between(1, 200)) } else { 1_000_000 }),
            eos_token_id: rng.once_in(4).then(|| rng.below(VOCABULARY) as i32),
            sjf_ageing: f64::from(rng.between(0, 20)),
            hash_bits: if rng.once_in(4) { 4 } else { 128 },
        };
        Scenario {
            config,
            policy,
            requests: rng.between(4, 24),
            depth: rng.below(2) as usize,
            disturb: if rng.once_in(3) { 0 } else { 24 },
            fork: *rng.choose(&[0, 0, 30, 8]),
            longest_prompt,
        }
    }

    /// A random request and what is true of it.
    pub fn request(&self, rng: &mut Rng, uid: u32) -> (Request, NewTrack) {
        let len = rng.between(1, self.longest_prompt);
        let (prompt, kind, tokens) = match rng.below(10) {
            0 => length_prompt(uid, len),
            1 | 2 => blocks_prompt(rng, len),
            _ => tokens_prompt(rng, len),
        };
        let max_tokens = rng.between(1, 30);
        let mut stops = Vec::new();
        if rng.once_in(3) {
            stops = (0..rng.between(1, 3)).map(|_| rng.below(VOCABULARY) as i32).collect();
        }
        let request = Request {
            min_tokens: if rng.once_in(3) { rng.between(0, max_tokens) } else { 0 },
            priority: rng.below(4) as i64 - 1,
            arrival: if rng.once_in(4) { 3.0 } else { f64::from(rng.between(0, 40)) / 4.0 },
            n: if rng.once_in(5) { rng.between(1, 4) } else { 1 },
            stop_token_ids: stops,
            ignore_eos: rng.once_in(2),
            cache_salt: (*rng.choose(&["", "", "", "salt", "pepper"])).to_owned(),
            ..Request::new(prompt, max_tokens)
        };
        let mut stops = request.stop_token_ids.clone();
        stops.extend(self.config.eos_token_id.filter(|_| !request.ignore_eos));
        let new = NewTrack {
            uid,
            name: format!("r{uid}"),
            kind,
            prompt: tokens,
            salt: request.cache_salt.clone(),
            max_tokens,
            min_tokens: request.min_tokens,
            stops,
            priority: request.priority,
            arrival: request.arrival,
            n: request.n,
        };
        (request, new)
    }
}

/// Only the length is known to the engine: the tokens made up here are nobody else's.
fn length_prompt(uid: u32, len: u32) -> (Prompt, Kind, Vec<i32>) {
    let tokens = (0..len).map(|t| mix(u64::from(uid) << 32 | u64::from(t)) as i32).collect();
    (Prompt::Length(len), Kind::Length, tokens)
}

/// One of three prompt families, left at a random token.
fn tokens_prompt(rng: &mut Rng, len: u32) -> (Prompt, Kind, Vec<i32>) {
    let (family, shared) = (rng.below(3), rng.between(0, len));
    let of_family = |t: u32| (mix(family << 32 | u64::from(t)) % 5) as i32;
    let tokens: Vec<i32> =
        (0..len).map(|t| if t < shared { of_family(t) } else { rng.below(VOCABULARY) as i32 }).collect();
    (Prompt::Tokens(tokens.clone()), Kind::Tokens, tokens)
}

/// A trace's prompt: leading ids from a family; ids reach up to the last that 32 bits allow.
fn blocks_prompt(rng: &mut Rng, len: u32) -> (Prompt, Kind, Vec<i32>) {
    let size = rng.between(1, 20);
    let count = len.div_ceil(size);
    let shared = rng.between(0, count);
    let largest = ((1u64 << 32) / u64::from(size) - 1) as u32;
    let ids: Vec<u32> =
        (0..count).map(|at| if at < shared { largest - at } else { rng.between(0, 6) }).collect();
    let token = |t: u32| (ids[(t / size) as usize] * size + t % size) as i32;
    let tokens = (0..len).map(token).collect();
    (Prompt::Blocks { ids, size, len }, Kind::Blocks, tokens)
}
