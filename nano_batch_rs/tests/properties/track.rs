//! What is true of a sequence, whatever the scheduler does: its tokens, and which token comes next.

use crate::rng::mix;

/// Token ids that sampling gives: few, so that stop tokens are hit and prompts repeat.
pub const VOCABULARY: u64 = 23;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tokens,
    Length,
    Blocks,
}

/// One sequence as the driver knows it.
#[derive(Debug, Clone)]
pub struct Track {
    pub uid: u32,
    pub name: String,
    /// The request whose id the driver gives tokens under until the prompt's end.
    pub request: String,
    pub kind: Kind,
    /// Prompt and outputs given so far; virtual ones for `Blocks`, made-up ones for `Length`.
    pub tokens: Vec<i32>,
    /// `hashes[t]` names all tokens up to and with t, and the cache salt.
    pub hashes: Vec<u64>,
    salt_hash: u64,
    pub prompt_len: u32,
    pub max_tokens: u32,
    pub min_tokens: u32,
    pub stops: Vec<i32>,
    pub priority: i64,
    pub arrival: f64,
    /// Lanes it takes: n until its prompt ends.
    pub lanes_wanted: u32,
    /// Outputs sampled by steps whose tokens were not given yet.
    pub pending: u32,
    /// (tokens from which on, branch): what its sampling depends on besides its tokens.
    branches: Vec<(usize, u64)>,
    /// Its chain of cached blocks was broken: the window passed a block before it was settled.
    pub lost_chain: bool,
}

pub struct NewTrack {
    pub uid: u32,
    pub name: String,
    pub kind: Kind,
    pub prompt: Vec<i32>,
    pub salt: String,
    pub max_tokens: u32,
    pub min_tokens: u32,
    pub stops: Vec<i32>,
    pub priority: i64,
    pub arrival: f64,
    pub n: u32,
}

impl Track {
    pub fn new(new: NewTrack) -> Self {
        let salt_hash = new.salt.bytes().fold(7, |hash, byte| mix(hash ^ u64::from(byte)));
        let branch = new.name.bytes().fold(11, |hash, byte| mix(hash ^ u64::from(byte)));
        let mut track = Track {
            uid: new.uid,
            request: new.name.clone(),
            name: new.name,
            kind: new.kind,
            tokens: Vec::new(),
            hashes: Vec::new(),
            salt_hash,
            prompt_len: new.prompt.len() as u32,
            max_tokens: new.max_tokens,
            min_tokens: new.min_tokens,
            stops: new.stops,
            priority: new.priority,
            arrival: new.arrival,
            lanes_wanted: new.n,
            pending: 0,
            branches: vec![(0, branch)],
            lost_chain: false,
        };
        for token in new.prompt {
            track.push(token);
        }
        track
    }

    pub fn push(&mut self, token: i32) {
        let before = self.hashes.last().copied().unwrap_or(self.salt_hash);
        self.hashes.push(mix(before ^ (token as u32 as u64) << 1));
        self.tokens.push(token);
    }

    /// A copy that samples its own way from its next token on.
    pub fn fork(&self, uid: u32, name: String, request: String, way: u64) -> Self {
        let mut child = self.clone();
        (child.uid, child.name, child.request) = (uid, name, request);
        child.lanes_wanted = 1;
        child.branches.push((self.tokens.len(), mix(self.branch_at(self.tokens.len()) ^ way)));
        child
    }

    fn branch_at(&self, len: usize) -> u64 {
        self.branches.iter().rev().find(|(from, _)| *from <= len).expect("a branch from 0 on").1
    }

    pub fn outputs(&self) -> u32 {
        self.tokens.len() as u32 - self.prompt_len
    }

    /// Tokens that exist, the ones not given yet included.
    pub fn len(&self) -> u32 {
        self.tokens.len() as u32 + self.pending
    }

    /// Tokens that the prefix cache may know.
    pub fn cacheable_len(&self) -> u32 {
        match self.kind {
            _ if self.lost_chain => 0,
            Kind::Tokens => self.tokens.len() as u32,
            Kind::Length => 0,
            Kind::Blocks => self.prompt_len,
        }
    }

    /// The token sampled behind the prefix that `hash` names, `len` tokens long.
    pub fn sample(&self, hash: u64, len: usize) -> i32 {
        (mix(hash ^ self.branch_at(len)) % VOCABULARY) as i32
    }

    /// Why the sequence ends with its newest output, if it does.
    pub fn finish_reason(&self) -> Option<&'static str> {
        let newest = self.tokens.last().expect("a prompt has tokens");
        if self.outputs() >= self.min_tokens && self.stops.contains(newest) {
            return Some("stop");
        }
        (self.outputs() >= self.max_tokens).then_some("length")
    }

    /// The tokens of an undisturbed run of this sequence, as many as it has now.
    pub fn undisturbed(&self) -> Vec<i32> {
        let mut alone = self.clone();
        alone.tokens.truncate(self.prompt_len as usize);
        alone.hashes.truncate(self.prompt_len as usize);
        while alone.tokens.len() < self.tokens.len() {
            let len = alone.tokens.len();
            let next = alone.sample(*alone.hashes.last().expect("a prompt has tokens"), len);
            alone.push(next);
            let is_last = alone.tokens.len() == self.tokens.len();
            assert!(is_last || alone.finish_reason().is_none(), "{} outlived its end", self.name);
        }
        alone.tokens
    }
}
