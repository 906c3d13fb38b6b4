//! The index of cached content: which chain of full blocks is known, and where it lies.
//!
//! An entry stands for one full block of tokens behind one parent entry. The chained hash only
//! finds candidates; a hit compares the tokens, the salt and the parent's identity, so a collision
//! cannot serve another request's KV. An entry whose block was evicted stays, without a block,
//! while cached children or running sequences hang on it: their identity is built on its own.

use hashbrown::{HashTable, hash_table};
use xxhash_rust::xxh3::xxh3_128;

pub type EntryId = u32;
/// The parent of a first block.
pub const ROOT: EntryId = u32::MAX;
const NO_BLOCK: u32 = u32::MAX;

/// What identifies a full block's content.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    pub parent: EntryId,
    pub salt: u32,
    pub hash: u128,
    pub tokens: &'a [i32],
}

struct Entry {
    hash: u128,
    parent: EntryId,
    salt: u32,
    block: u32,
    /// Child entries and sequences that stand on this entry.
    holders: u32,
    uses: u64,
    indexed: u64,
}

impl Entry {
    #[inline]
    fn matches(&self, key: &Key, tokens: &[i32]) -> bool {
        self.hash == key.hash && self.parent == key.parent && self.salt == key.salt && tokens == key.tokens
    }
}

pub struct PrefixCache {
    entries: Vec<Entry>,
    vacant: Vec<EntryId>,
    index: HashTable<EntryId>,
    /// The tokens of entry e are at `e × block_size`.
    tokens: Vec<i32>,
    block_size: usize,
    hash_mask: u128,
}

impl PrefixCache {
    /// Room for `expected` entries is taken at once, so that no step waits for a table to grow.
    pub fn new(block_size: u32, hash_bits: u32, expected: usize) -> Self {
        PrefixCache {
            entries: Vec::with_capacity(expected),
            vacant: Vec::new(),
            index: HashTable::with_capacity(expected),
            tokens: Vec::with_capacity(expected * block_size as usize),
            block_size: block_size as usize,
            hash_mask: u128::MAX >> (128 - hash_bits),
        }
    }

    /// The hash that a chain under `salt` starts from.
    pub fn root_hash(&self, salt: &str) -> u128 {
        xxh3_128(salt.as_bytes()) & self.hash_mask
    }

    /// The hash of a block behind its parent's. `bytes` is scratch space.
    pub fn chain_hash(&self, parent: u128, tokens: &[i32], bytes: &mut Vec<u8>) -> u128 {
        bytes.resize(16 + 4 * tokens.len(), 0);
        bytes[..16].copy_from_slice(&parent.to_le_bytes());
        for (target, token) in bytes[16..].chunks_exact_mut(4).zip(tokens) {
            target.copy_from_slice(&token.to_le_bytes());
        }
        xxh3_128(bytes) & self.hash_mask
    }

    pub fn find(&self, key: &Key) -> Option<EntryId> {
        let (entries, tokens, size) = (&self.entries, &self.tokens, self.block_size);
        let matches =
            |&id: &EntryId| entries[id as usize].matches(key, &tokens[id as usize * size..][..size]);
        self.index.find(key.hash as u64, matches).copied()
    }

    /// The entry of `key`, made without a block if it is new. The caller attaches a block or
    /// retains it: an entry with neither is forgotten by the next `release` that reaches it.
    pub fn intern(&mut self, key: &Key, now: u64) -> EntryId {
        let (id, new) = self.find_or_make(key, now);
        if new {
            self.retain(key.parent);
        }
        id
    }

    /// The entry of `key`, with the caller's hold moved to it from the parent: a new entry takes
    /// that hold over as its own on its parent, which then need not be touched.
    pub fn extend(&mut self, key: &Key, now: u64) -> EntryId {
        let (id, new) = self.find_or_make(key, now);
        self.retain(id);
        if !new {
            self.release(key.parent);
        }
        id
    }

    /// The entry of `key`, and whether it is new: then its hold on its parent is still owed.
    fn find_or_make(&mut self, key: &Key, now: u64) -> (EntryId, bool) {
        let (entries, tokens, size) = (&self.entries, &self.tokens, self.block_size);
        let matches =
            |&id: &EntryId| entries[id as usize].matches(key, &tokens[id as usize * size..][..size]);
        let vacancy = match self.index.entry(key.hash as u64, matches, |&id| entries[id as usize].hash as u64)
        {
            hash_table::Entry::Occupied(found) => return (*found.get(), false),
            hash_table::Entry::Vacant(vacancy) => vacancy,
        };
        let entry = Entry {
            hash: key.hash,
            parent: key.parent,
            salt: key.salt,
            block: NO_BLOCK,
            holders: 0,
            uses: 0,
            indexed: now,
        };
        let id = self.vacant.pop().unwrap_or(self.entries.len() as EntryId);
        vacancy.insert(id);
        let start = id as usize * size;
        if id as usize == self.entries.len() {
            self.entries.push(entry);
            self.tokens.extend_from_slice(key.tokens);
        } else {
            self.entries[id as usize] = entry;
            self.tokens[start..start + size].copy_from_slice(key.tokens);
        }
        (id, true)
    }

    pub fn retain(&mut self, id: EntryId) {
        if id != ROOT {
            self.entries[id as usize].holders += 1;
        }
    }

    /// Gives up one hold on an entry; entries that nothing needs any more are forgotten, upwards.
    pub fn release(&mut self, mut id: EntryId) {
        while id != ROOT {
            let entry = &mut self.entries[id as usize];
            entry.holders -= 1;
            if entry.holders > 0 || entry.block != NO_BLOCK {
                return;
            }
            id = self.forget(id);
        }
    }

    /// Removes an entry and returns its parent, on which one hold is left to give up.
    fn forget(&mut self, id: EntryId) -> EntryId {
        let (hash, parent) = (self.entries[id as usize].hash, self.entries[id as usize].parent);
        if let Ok(found) = self.index.find_entry(hash as u64, |&other| other == id) {
            found.remove();
        }
        self.vacant.push(id);
        parent
    }

    pub fn block(&self, id: EntryId) -> Option<u32> {
        let block = self.entries[id as usize].block;
        (block != NO_BLOCK).then_some(block)
    }

    pub fn attach(&mut self, id: EntryId, block: u32, now: u64) {
        let entry = &mut self.entries[id as usize];
        entry.block = block;
        entry.uses = 1;
        entry.indexed = now;
    }

    /// Takes an entry's block away.
    pub fn detach(&mut self, id: EntryId) {
        let entry = &mut self.entries[id as usize];
        entry.block = NO_BLOCK;
        if entry.holders == 0 {
            let parent = self.forget(id);
            self.release(parent);
        }
    }

    pub fn count_use(&mut self, id: EntryId) {
        self.entries[id as usize].uses += 1;
    }

    /// (uses, time of indexing), as the evictor orders by.
    pub fn history(&self, id: EntryId) -> (u64, u64) {
        let entry = &self.entries[id as usize];
        (entry.uses, entry.indexed)
    }

    /// The low 63 bits of an entry's hash: what the event log shows of it.
    pub fn short_hash(&self, id: EntryId) -> i64 {
        (self.entries[id as usize].hash as u64 & i64::MAX as u64) as i64
    }

    /// Entries alive, with a block or without.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}
