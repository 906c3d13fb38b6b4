//! What is asked for, and the state of one sequence that answers it.

use std::ops::{Deref, DerefMut};

use crate::config::Config;
use crate::error::{Error, MAX_TOKEN_ID, Result};
use crate::events::NONE;
use crate::policy::Rank;
use crate::prefix_cache::{EntryId, ROOT};

/// A prompt.
#[derive(Debug, Clone)]
pub enum Prompt {
    Tokens(Vec<i32>),
    /// A length only: nothing is stored per token and nothing is cached.
    Length(u32),
    /// A trace's block ids of `size` tokens each; token t stands for the virtual token
    /// `ids[t / size] × size + t % size`, made on demand.
    Blocks {
        ids: Vec<u32>,
        size: u32,
        len: u32,
    },
}

impl Prompt {
    pub fn len(&self) -> usize {
        match self {
            Prompt::Tokens(tokens) => tokens.len(),
            Prompt::Length(len) | Prompt::Blocks { len, .. } => *len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self, id: &str) -> Result<()> {
        match self {
            Prompt::Tokens(tokens) => match tokens.iter().find(|&&token| token < 0) {
                Some(&token) => Err(Error::token(id, token)),
                None => Ok(()),
            },
            Prompt::Length(_) => Ok(()),
            Prompt::Blocks { ids, size, len } => {
                if *size == 0 {
                    return Err(Error::invalid("prompt_block_size", size, "at least 1"));
                }
                if len.div_ceil(*size) as usize != ids.len() {
                    let limit = format!("{} blocks of {size} for {len} tokens", len.div_ceil(*size));
                    return Err(Error::invalid("prompt_block_ids", format!("{} blocks", ids.len()), limit));
                }
                let largest = u64::from(ids.iter().copied().max().unwrap_or(0));
                if (largest + 1) * u64::from(*size) > 1 << 32 {
                    let limit =
                        format!("below 2^32 / prompt_block_size = {}", (1u64 << 32) / u64::from(*size));
                    return Err(Error::invalid("prompt_block_ids", largest, limit));
                }
                Ok(())
            }
        }
    }
}

/// A request as it arrives.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompt: Prompt,
    pub max_tokens: u32,
    /// Stop tokens do not count before this many output tokens.
    pub min_tokens: u32,
    /// Smaller numbers go first under the `priority` policy.
    pub priority: i64,
    /// Seconds; only its order matters to the core.
    pub arrival: f64,
    /// Sequences sampled from the one prompt.
    pub n: u32,
    pub stop_token_ids: Vec<i32>,
    pub ignore_eos: bool,
    pub cache_salt: String,
}

impl Request {
    pub fn new(prompt: Prompt, max_tokens: u32) -> Self {
        Request {
            prompt,
            max_tokens,
            min_tokens: 0,
            priority: 0,
            arrival: 0.0,
            n: 1,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            cache_salt: String::new(),
        }
    }

    /// Refuses what could never be served. `id` is for the message.
    pub fn check(&self, id: &str, config: &Config) -> Result<()> {
        if self.prompt.is_empty() {
            return Err(Error::EmptyPrompt { id: id.to_owned() });
        }
        self.prompt.check(id)?;
        if self.max_tokens == 0 {
            return Err(Error::invalid("max_tokens", 0, "at least 1"));
        }
        if self.n == 0 {
            return Err(Error::invalid("n", 0, "at least 1"));
        }
        if !self.arrival.is_finite() {
            return Err(Error::invalid("arrival_time", self.arrival, "a finite number of seconds"));
        }
        if self.min_tokens > self.max_tokens {
            return Err(Error::invalid(
                "min_tokens",
                self.min_tokens,
                format!("at most max_tokens = {}", self.max_tokens),
            ));
        }
        if let Some(&value) = self.stop_token_ids.iter().find(|&&token| token < 0) {
            return Err(Error::token(id, value));
        }
        self.check_size(id, config)
    }

    fn check_size(&self, id: &str, config: &Config) -> Result<()> {
        let too_large = |what, value: u64, limit: u32| {
            if value > u64::from(limit) {
                Err(Error::RequestTooLarge { id: id.to_owned(), what, value, limit: limit.into() })
            } else {
                Ok(())
            }
        };
        let prompt = self.prompt.len() as u64;
        // The last output token is never fed back, so its KV is not stored.
        let stored = prompt + u64::from(self.max_tokens) - 1;
        too_large(
            "stored tokens (prompt + max_tokens - 1; max_model_len)",
            stored,
            config.max_model_len.unwrap_or(i32::MAX as u32),
        )?;
        too_large("lanes (n; max_num_seqs)", self.n.into(), config.max_num_seqs)?;
        if !config.chunks_prompts() {
            too_large(
                "tokens in one step (prompt without chunking; max_num_batched_tokens)",
                prompt,
                config.max_num_batched_tokens,
            )?;
        }
        let blocks = self.blocks_at_most(stored as u32, config);
        too_large("blocks at once (num_blocks)", blocks, config.num_blocks)
    }

    /// Blocks that all sequences of the request hold at their longest: full prompt blocks are
    /// shared, the others each sequence's own.
    pub fn blocks_at_most(&self, stored: u32, config: &Config) -> u64 {
        let one = config.blocks_held(stored, config.max_num_batched_tokens.min(stored));
        let shared = (self.prompt.len() as u32 / config.block_size).min(one);
        u64::from(shared) + u64::from(self.n) * u64::from(one - shared)
    }
}

/// Checks a sampled token.
pub fn check_token(id: impl FnOnce() -> String, token: i64) -> Result<i32> {
    if !(0..=MAX_TOKEN_ID).contains(&token) {
        return Err(Error::token(id(), token));
    }
    Ok(token as i32)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    Length,
    Abort,
    /// The driver's own word, kept beside it.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No sequence lives in this slot.
    Vacant,
    Waiting,
    Running,
    /// Ended, but a step that uses its blocks is still outstanding.
    Ending,
}

/// Where a swapped-out sequence's blocks went, one for each entry of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedBlock {
    /// Given back before: outside the sliding window.
    Released,
    Host(u32),
    /// Kept by the prefix cache under this entry, on which the sequence has a hold.
    Cached(EntryId),
    /// Held by another sequence, so neither copied nor kept for us.
    Lost,
}

/// The content that a sequence's blocks are named by.
#[derive(Debug, Clone)]
pub enum Content {
    /// `Sequence::tokens` holds prompt and outputs.
    Tokens,
    Length,
    Blocks {
        ids: std::sync::Arc<[u32]>,
        size: u32,
    },
}

/// One sequence. Positions and counts are in tokens.
///
/// What every step touches is kept in one cache line; the rest lies behind a pointer, read and
/// written as if it were here (`Deref`). The table changes only through methods, which keep
/// `table_len`, `tail` and `table_version` true.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct Sequence {
    pub status: Status,
    /// A shared partial last block may have to be copied before the next write.
    pub shared_tail: bool,
    /// Its full blocks still enter the prefix cache.
    pub cacheable: bool,
    /// Output tokens sampled by outstanding steps.
    pub pending: u8,
    /// Outstanding steps with a row of this sequence.
    pub rows_outstanding: u8,
    /// Changed when its KV is dropped, so that outstanding rows from before do not count. At most
    /// two steps are outstanding: a wrapped counter cannot be mistaken.
    pub epoch: u8,
    /// Whether a token can stop it before `max_tokens`.
    pub stoppable: bool,
    /// Whether output tokens are stored.
    pub stores_tokens: bool,
    pub lane: i32,
    pub uid: u32,
    pub prompt_len: u32,
    pub outputs: u32,
    pub max_tokens: u32,
    /// Tokens whose KV the steps planned so far write.
    pub planned: u32,
    /// Tokens whose KV the retired steps have written.
    pub computed: u32,
    /// Full blocks whose place in the prefix cache is settled.
    pub hashed: u32,
    pub last_token: i32,
    /// Bumped when the table changed other than by growing.
    pub table_version: u32,
    pub table_len: u32,
    /// The table's last entry.
    pub tail: i32,
    pub(crate) rest: Box<Rest>,
}

/// How many sampled tokens are kept beside each other before they join the others.
const RECENT: usize = 16;

/// A sequence's newest tokens, token p at `p % RECENT`: one cache line near its neighbours', where
/// appending to each sequence's own memory would miss the cache every time.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub struct RecentTokens([i32; RECENT]);

/// What is touched when a sequence arrives, moves between queues, fills a block, or ends. What
/// filling a block needs comes first.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct Rest {
    /// The hash of block `hashed − 1`, and its entry, on which the sequence has a hold.
    pub chain_hash: u128,
    /// Prompt and outputs, but for the recent ones.
    pub tokens: Vec<i32>,
    table: Vec<i32>,
    pub chain: EntryId,
    pub salt: u32,
    pub content: Content,
    /// Leading table entries given back to a sliding window.
    pub released: u32,
    pub min_tokens: u32,
    pub stop_token_ids: Vec<i32>,
    pub root_hash: u128,
    /// Hashes of its leading full blocks, as far as matching needed them.
    pub hashes: Vec<u128>,
    pub rank: Rank,
    pub priority: i64,
    /// Lanes it takes at admission: `n` until its prompt ends, then 1.
    pub lanes_wanted: u32,
    pub reserved_lanes: Vec<i32>,
    pub cached_tokens: u32,
    pub preemptions: u32,
    pub saved: Vec<SavedBlock>,
}

impl Deref for Sequence {
    type Target = Rest;

    #[inline]
    fn deref(&self) -> &Rest {
        &self.rest
    }
}

impl DerefMut for Sequence {
    #[inline]
    fn deref_mut(&mut self) -> &mut Rest {
        &mut self.rest
    }
}

impl Sequence {
    pub fn vacant() -> Self {
        Sequence {
            status: Status::Vacant,
            shared_tail: false,
            cacheable: false,
            pending: 0,
            rows_outstanding: 0,
            epoch: 0,
            stoppable: false,
            stores_tokens: false,
            lane: NONE,
            uid: 0,
            prompt_len: 0,
            outputs: 0,
            max_tokens: 0,
            planned: 0,
            computed: 0,
            hashed: 0,
            last_token: 0,
            table_version: 0,
            table_len: 0,
            tail: NONE,
            rest: Box::new(Rest::vacant()),
        }
    }

    /// The physical blocks, −1 where a sliding window has passed.
    #[inline]
    pub fn table(&self) -> &[i32] {
        &self.rest.table
    }

    #[inline]
    pub fn push_block(&mut self, block: i32) {
        self.rest.table.push(block);
        self.table_len += 1;
        self.tail = block;
    }

    /// Changes one entry; what it was.
    pub fn replace_block(&mut self, index: usize, block: i32) -> i32 {
        let before = std::mem::replace(&mut self.rest.table[index], block);
        self.table_version += 1;
        self.tail = self.rest.table.last().copied().unwrap_or(NONE);
        before
    }

    /// Drops the entries behind the first `len`.
    pub fn truncate_table(&mut self, len: u32) {
        if len < self.table_len {
            self.rest.table.truncate(len as usize);
            self.table_version += 1;
            self.table_len = len;
            self.tail = self.rest.table.last().copied().unwrap_or(NONE);
        }
    }

    /// Empties the table; what it was.
    pub fn take_table(&mut self) -> Vec<i32> {
        self.table_version += 1;
        self.table_len = 0;
        self.tail = NONE;
        std::mem::take(&mut self.rest.table)
    }

    /// Tokens whose value is known: the prompt and the outputs so far.
    #[inline]
    pub fn known(&self) -> u32 {
        self.prompt_len + self.outputs
    }

    /// Tokens that exist, those still on the device included.
    #[inline]
    pub fn total(&self) -> u32 {
        self.known() + u32::from(self.pending)
    }

    /// Whether its next row computes the one newest token.
    #[inline]
    pub fn decodes(&self) -> bool {
        self.total() == self.planned + 1 && self.total() > self.prompt_len
    }

    /// Whether its last token is sampled, or will be by an outstanding step.
    #[inline]
    pub fn exhausted(&self) -> bool {
        self.outputs + u32::from(self.pending) >= self.max_tokens
    }

    /// Tokens that may enter the prefix cache: those with known content.
    pub fn cacheable_len(&self) -> u32 {
        match self.content {
            Content::Tokens => self.known(),
            Content::Length => 0,
            Content::Blocks { .. } => self.prompt_len,
        }
    }

    /// The tokens of full block `index`; `scratch` holds virtual ones.
    pub fn block_tokens<'a>(&'a self, index: u32, block_size: u32, scratch: &'a mut Vec<i32>) -> &'a [i32] {
        let range = (index * block_size) as usize..((index + 1) * block_size) as usize;
        match &self.content {
            Content::Blocks { ids, size } => {
                let size = *size as usize;
                scratch.clear();
                scratch.extend(range.map(|t| (ids[t / size] as usize * size + t % size) as u32 as i32));
                scratch
            }
            Content::Tokens | Content::Length => &self.tokens[range],
        }
    }

    /// The value of a known token; 0 where only lengths are. All but the newest must be settled.
    #[inline]
    pub fn token(&self, position: u32) -> i32 {
        if position + 1 == self.known() && self.outputs > 0 {
            self.last_token
        } else if self.stores_tokens {
            self.tokens[position as usize]
        } else {
            0
        }
    }

    /// Takes a sampled token. Whether the recent ones are to be settled now.
    #[inline]
    pub fn append(&mut self, token: i32, recent: &mut RecentTokens) -> bool {
        recent.0[self.known() as usize % RECENT] = token;
        self.last_token = token;
        self.outputs += 1;
        self.pending -= 1;
        self.stores_tokens && (self.known() as usize).is_multiple_of(RECENT)
    }

    /// Moves the recent tokens to where all tokens are.
    pub fn settle(&mut self, recent: &RecentTokens) {
        if self.stores_tokens {
            let known = self.known() as usize;
            let settled = self.rest.tokens.len();
            self.rest.tokens.extend((settled..known).map(|position| recent.0[position % RECENT]));
        }
    }

    /// Prompt tokens to compute plus output tokens to produce.
    pub fn remaining_tokens(&self) -> u32 {
        self.prompt_len.saturating_sub(self.planned) + self.max_tokens.saturating_sub(self.outputs)
    }
}

impl Rest {
    fn vacant() -> Self {
        Rest {
            tokens: Vec::new(),
            table: Vec::new(),
            released: 0,
            chain: ROOT,
            chain_hash: 0,
            stop_token_ids: Vec::new(),
            min_tokens: 0,
            content: Content::Length,
            salt: 0,
            root_hash: 0,
            hashes: Vec::new(),
            rank: Rank { score: 0.0, arrival: 0.0, sequence: 0 },
            priority: 0,
            lanes_wanted: 1,
            reserved_lanes: Vec::new(),
            cached_tokens: 0,
            preemptions: 0,
            saved: Vec::new(),
        }
    }
}
