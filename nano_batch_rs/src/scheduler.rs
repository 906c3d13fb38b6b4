//! The scheduler: continuous batching over a paged KV cache.
//!
//! A step is *planned* (`plan.rs`: who runs, on which blocks; `preempt.rs`: who must make room),
//! executed by the driver, and *retired* with its sampled tokens (`retire.rs`). Two steps may be
//! outstanding, so that one can be planned while the device runs the other.

mod decode;
mod fork;
mod plan;
mod preempt;
mod rank;
mod retire;
mod slots;
mod snapshot;

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::block_allocator::BlockAllocator;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::{EventLog, Kind, NONE};
use crate::policy::{Candidate, Policy, Rank};
use crate::prefix_cache::{EntryId, Key, ROOT};
use crate::request::{Content, FinishReason, Prompt, RecentTokens, Request, SavedBlock, Sequence, Status};
use crate::step::Step;

pub use decode::DecodeStep;
pub use slots::Slots;

/// Steps that may await their tokens at once.
pub const MAX_OUTSTANDING: usize = 2;

/// Output tokens that room is taken for when a request arrives, so that no step has to.
const EXPECTED_OUTPUTS: u32 = 512;

/// A sequence that ended, with the slot and number it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub slot: u32,
    pub uid: u32,
    pub reason: FinishReason,
    pub outputs: u32,
}

pub struct Scheduler {
    config: Config,
    policy: Box<dyn Policy>,
    sequences: Vec<Sequence>,
    /// By slot.
    recent: Vec<RecentTokens>,
    vacant: Vec<u32>,
    next_uid: u32,
    blocks: BlockAllocator,
    waiting: BTreeMap<Rank, u32>,
    /// In rank order.
    running: Vec<u32>,
    free_lanes: Vec<i32>,
    num_ending: u32,
    host_free: Vec<u32>,
    /// Host blocks that the newest step reads: free from the next step on.
    host_read: Vec<u32>,
    outstanding: VecDeque<Step>,
    spare_steps: Vec<Step>,
    /// The newest step, if it has no rows and so awaits nothing.
    empty_step: Option<Step>,
    /// A step of decodes alone awaits its tokens.
    decodes_planned: bool,
    step: u64,
    /// The driver's time, for policies that ask how long a request has waited.
    now: f64,
    log: Option<EventLog>,
    salts: HashMap<String, u32>,
    ended: Vec<Ended>,
    // Scratch space, kept to avoid allocation.
    matched: Vec<(EntryId, u32)>,
    virtual_tokens: Vec<i32>,
    hash_bytes: Vec<u8>,
}

impl Scheduler {
    pub fn new(config: Config) -> Result<Self> {
        config.check()?;
        let policy = config.policy.build(&config);
        Ok(Self::with_policy(config, policy))
    }

    /// With a policy of the caller's instead of `config.policy`; `config` is taken as checked.
    pub fn with_policy(config: Config, policy: Box<dyn Policy>) -> Self {
        let blocks =
            BlockAllocator::new(config.num_blocks, config.block_size, config.eviction, config.hash_bits);
        let mut scheduler = Scheduler {
            policy,
            sequences: Vec::new(),
            recent: Vec::new(),
            vacant: Vec::new(),
            next_uid: 0,
            blocks,
            waiting: BTreeMap::new(),
            running: Vec::new(),
            free_lanes: (0..config.max_num_seqs as i32).rev().collect(),
            num_ending: 0,
            host_free: (0..config.num_swap_blocks).rev().collect(),
            host_read: Vec::new(),
            outstanding: VecDeque::new(),
            spare_steps: Vec::new(),
            empty_step: None,
            decodes_planned: false,
            step: 0,
            now: 0.0,
            log: None,
            salts: HashMap::from([(String::new(), 0)]),
            ended: Vec::new(),
            matched: Vec::new(),
            virtual_tokens: Vec::new(),
            hash_bytes: Vec::new(),
            config,
        };
        if let Some(capacity) = scheduler.config.event_log {
            scheduler.log = Some(EventLog::new(capacity, scheduler.snapshot()));
        }
        scheduler
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn blocks(&self) -> &BlockAllocator {
        &self.blocks
    }

    pub fn events(&self) -> Option<&EventLog> {
        self.log.as_ref()
    }

    pub fn sequence(&self, slot: u32) -> &Sequence {
        &self.sequences[slot as usize]
    }

    /// Steps planned so far; the newest one's number.
    pub fn step(&self) -> u64 {
        self.step
    }

    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Slots of the running sequences, in rank order.
    pub fn running(&self) -> &[u32] {
        &self.running
    }

    /// Slots of the waiting sequences, in queue order.
    pub fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        self.waiting.values().copied()
    }

    pub fn num_host_free(&self) -> usize {
        self.host_free.len() + self.host_read.len()
    }

    pub fn has_unfinished(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty() || self.num_ending > 0
    }

    /// Outstanding steps, oldest first.
    pub fn outstanding(&self) -> &VecDeque<Step> {
        &self.outstanding
    }

    /// The step planned last, while it is not retired.
    pub fn newest_step(&self) -> Option<&Step> {
        self.empty_step.as_ref().or(self.outstanding.back())
    }

    pub fn any_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// The sequences that ended since the last call.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Queues a request; its sequence's slot. `id` is for error messages.
    pub fn add(&mut self, request: Request, id: &str) -> Result<u32> {
        request.check(id, &self.config).map_err(|error| error.in_request(id))?;
        if self.next_uid == u32::MAX {
            return Err(Error::Overflow { what: "the number of sequences" });
        }
        let next_salt = self.salts.len() as u32;
        let salt = match self.salts.get(&request.cache_salt) {
            Some(&salt) => salt,
            None => {
                self.salts.insert(request.cache_salt.clone(), next_salt);
                next_salt
            }
        };
        let root_hash = self.blocks.cache.root_hash(&request.cache_salt);
        let slot = self.take_slot();
        let uid = self.sequences[slot as usize].uid;
        let prompt_len = request.prompt.len() as u32;
        let caching = self.config.enable_prefix_caching;
        let sequence = &mut self.sequences[slot as usize];
        sequence.prompt_len = prompt_len;
        sequence.max_tokens = request.max_tokens;
        sequence.min_tokens = request.min_tokens;
        sequence.priority = request.priority;
        sequence.rank.arrival = request.arrival;
        sequence.lanes_wanted = request.n;
        sequence.stop_token_ids = request.stop_token_ids;
        if let (Some(eos), false) = (self.config.eos_token_id, request.ignore_eos) {
            sequence.stop_token_ids.push(eos);
        }
        sequence.stoppable = !sequence.stop_token_ids.is_empty();
        sequence.salt = salt;
        sequence.root_hash = root_hash;
        sequence.chain_hash = root_hash;
        (sequence.content, sequence.tokens) = match request.prompt {
            Prompt::Tokens(tokens) => (Content::Tokens, tokens),
            Prompt::Length(_) => (Content::Length, Vec::new()),
            Prompt::Blocks { ids, size, .. } => (Content::Blocks { ids: ids.into(), size }, Vec::new()),
        };
        sequence.stores_tokens = matches!(sequence.content, Content::Tokens);
        if sequence.stores_tokens {
            let room = sequence.max_tokens.min(EXPECTED_OUTPUTS) as usize;
            sequence.tokens.reserve_exact(room);
        }
        sequence.cacheable = caching && !matches!(sequence.content, Content::Length);
        self.record(Kind::Arrived, uid, NONE, prompt_len.into());
        self.enqueue(slot);
        Ok(slot)
    }

    /// A slot for a new sequence, which gets the next number.
    fn take_slot(&mut self) -> u32 {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.sequences.push(Sequence::vacant());
            self.recent.push(RecentTokens::default());
            (self.sequences.len() - 1) as u32
        });
        let sequence = &mut self.sequences[slot as usize];
        sequence.uid = self.next_uid;
        sequence.rank.sequence = self.next_uid;
        self.next_uid += 1;
        slot
    }

    fn enqueue(&mut self, slot: u32) {
        let score = if self.policy.window().is_some() { 0.0 } else { self.score(slot, 0) };
        let sequence = &mut self.sequences[slot as usize];
        sequence.status = Status::Waiting;
        sequence.rank.score = score;
        self.waiting.insert(sequence.rank, slot);
    }

    fn score(&self, slot: u32, cached_tokens: u32) -> f64 {
        let sequence = &self.sequences[slot as usize];
        self.policy.score(&Candidate {
            arrival: sequence.rank.arrival,
            priority: sequence.priority,
            remaining_tokens: sequence.remaining_tokens(),
            cached_tokens,
        })
    }

    #[inline]
    fn record(&mut self, kind: Kind, uid: u32, block: i32, argument: i64) {
        if let Some(log) = &mut self.log {
            log.push(kind, uid, block, argument);
        }
    }

    /// Ends a sequence from outside. `keep`: how many of its output tokens count; cached blocks
    /// that reach past them are freed at once, as nobody will ask for them.
    pub fn finish(&mut self, slot: u32, reason: FinishReason, keep: Option<u32>) -> Result<()> {
        if let Some(keep) = keep {
            let outputs = self.sequences[slot as usize].outputs;
            if keep > outputs {
                return Err(Error::invalid(
                    "keep",
                    keep,
                    format!("at most the {outputs} output tokens so far"),
                ));
            }
        }
        self.end(slot, reason, keep);
        self.running.retain(|&slot| self.sequences[slot as usize].status == Status::Running);
        Ok(())
    }

    /// Ends a sequence. The caller takes it out of `running`.
    fn end(&mut self, slot: u32, reason: FinishReason, keep: Option<u32>) {
        let sequence = &mut self.sequences[slot as usize];
        let (uid, status, prompt_len) = (sequence.uid, sequence.status, sequence.prompt_len);
        let outputs = keep.unwrap_or(sequence.outputs);
        self.ended.push(Ended { slot, uid, reason, outputs });
        let code = match reason {
            FinishReason::Stop => 0,
            FinishReason::Length => 1,
            FinishReason::Abort => 2,
            FinishReason::Other => 3,
        };
        self.record(Kind::Finished, uid, NONE, code);
        if status == Status::Waiting {
            let rank = self.sequences[slot as usize].rank;
            self.waiting.remove(&rank);
            self.drop_saved(slot);
            self.vacate(slot);
            return;
        }
        if keep.is_some() {
            self.discard_after(slot, prompt_len + outputs);
        }
        if self.sequences[slot as usize].rows_outstanding > 0 {
            self.sequences[slot as usize].status = Status::Ending;
            self.num_ending += 1;
        } else {
            self.vacate(slot);
        }
    }

    /// Frees the cached content of a sequence's own blocks that reach past `tokens`.
    fn discard_after(&mut self, slot: u32, tokens: u32) {
        let table = self.sequences[slot as usize].table().to_vec();
        for &block in table.iter().skip((tokens / self.config.block_size) as usize) {
            if block >= 0
                && self.blocks.references(block as u32) == 1
                && let Some(hash) = self.blocks.forget_content(block as u32)
            {
                self.record(Kind::Evicted, crate::events::NO_SEQUENCE, block, hash);
            }
        }
    }

    /// Gives back all that a sequence holds and frees its slot.
    fn vacate(&mut self, slot: u32) {
        self.release_table(slot);
        self.release_chain(slot);
        self.release_lanes(slot);
        let uid = self.sequences[slot as usize].uid;
        self.sequences[slot as usize] = Sequence { uid, ..Sequence::vacant() };
        self.vacant.push(slot);
    }

    /// Releases a sequence's blocks, tail before head, so that its tail is evicted first.
    fn release_table(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        let uid = sequence.uid;
        let table = sequence.take_table();
        for (index, &block) in table.iter().enumerate().rev() {
            if block >= 0 {
                self.blocks.release(block as u32);
                self.record(Kind::Freed, uid, block, index as i64);
            }
        }
        let sequence = &mut self.sequences[slot as usize];
        sequence.released = 0;
        sequence.shared_tail = false;
    }

    fn release_chain(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        let chain = std::mem::replace(&mut sequence.chain, ROOT);
        sequence.chain_hash = sequence.root_hash;
        sequence.hashed = 0;
        self.blocks.cache.release(chain);
    }

    fn release_lanes(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        while let Some(lane) = sequence.reserved_lanes.pop() {
            self.free_lanes.push(lane);
        }
        if sequence.lane >= 0 {
            self.free_lanes.push(sequence.lane);
            sequence.lane = NONE;
        }
    }

    fn drop_saved(&mut self, slot: u32) {
        for saved in std::mem::take(&mut self.sequences[slot as usize].saved) {
            match saved {
                SavedBlock::Host(host) => self.host_free.push(host),
                SavedBlock::Cached(entry) => self.blocks.cache.release(entry),
                SavedBlock::Released | SavedBlock::Lost => {}
            }
        }
    }

    /// Makes all of a sequence's tokens readable.
    fn settle(&mut self, slot: u32) {
        self.sequences[slot as usize].settle(&self.recent[slot as usize]);
    }

    /// The chained hash of a sequence's full block, remembered.
    fn block_hash(&mut self, slot: u32, index: u32) -> u128 {
        let block_size = self.config.block_size;
        let sequence = &mut self.sequences[slot as usize];
        while sequence.hashes.len() <= index as usize {
            let parent = sequence.hashes.last().copied().unwrap_or(sequence.root_hash);
            let tokens =
                sequence.block_tokens(sequence.hashes.len() as u32, block_size, &mut self.virtual_tokens);
            let hash = self.blocks.cache.chain_hash(parent, tokens, &mut self.hash_bytes);
            sequence.hashes.push(hash);
        }
        sequence.hashes[index as usize]
    }

    /// Finds a waiting sequence's unbroken cached prefix, into `matched`. The last token is left
    /// out: it must be computed, to be sampled from.
    fn match_prefix(&mut self, slot: u32) {
        self.matched.clear();
        self.settle(slot);
        let sequence = &self.sequences[slot as usize];
        if !sequence.cacheable {
            return;
        }
        let full_blocks = sequence.cacheable_len().min(sequence.known() - 1) / self.config.block_size;
        let mut parent = ROOT;
        for index in 0..full_blocks {
            let hash = self.block_hash(slot, index);
            let sequence = &self.sequences[slot as usize];
            let tokens = sequence.block_tokens(index, self.config.block_size, &mut self.virtual_tokens);
            let key = Key { parent, salt: sequence.salt, hash, tokens };
            let Some(entry) = self.blocks.cache.find(&key) else { return };
            let Some(block) = self.blocks.cache.block(entry) else { return };
            self.matched.push((entry, block));
            parent = entry;
        }
    }
}
