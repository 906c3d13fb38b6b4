//! Physical blocks: who holds them, which are free, which are kept for their content.
//!
//! A block is *in use* (references > 0), *cached* (no references, but its content is indexed) or
//! *free*. Allocating, sharing and releasing are O(1) (O(log n) under LFU and FIFO eviction).

use crate::config::Eviction;
use crate::evictor::Evictor;
use crate::prefix_cache::{EntryId, Key, PrefixCache};

const NO_ENTRY: EntryId = EntryId::MAX;
/// Tokens of cached content that room is taken for from the start.
const EXPECTED_TOKENS: u32 = 1 << 20;

/// A block taken, and the hash of the cached content that went for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocated {
    pub block: u32,
    pub evicted: Option<i64>,
}

pub struct BlockAllocator {
    num_blocks: u32,
    references: Vec<u32>,
    /// References beyond each block's first.
    repeated: u64,
    entry: Vec<EntryId>,
    /// Blocks below `fresh` were used before; the free ones among them are in `recycled`.
    fresh: u32,
    recycled: Vec<u32>,
    evictor: Evictor,
    pub cache: PrefixCache,
    now: u64,
}

impl BlockAllocator {
    pub fn new(num_blocks: u32, block_size: u32, eviction: Eviction, hash_bits: u32) -> Self {
        let expected = num_blocks.min(EXPECTED_TOKENS / block_size) as usize;
        BlockAllocator {
            num_blocks,
            references: vec![0; num_blocks as usize],
            repeated: 0,
            entry: vec![NO_ENTRY; num_blocks as usize],
            fresh: 0,
            recycled: Vec::new(),
            evictor: Evictor::new(eviction),
            cache: PrefixCache::new(block_size, hash_bits, expected),
            now: 0,
        }
    }

    pub fn num_blocks(&self) -> u32 {
        self.num_blocks
    }

    pub fn num_free(&self) -> u32 {
        self.num_blocks - self.fresh + self.recycled.len() as u32
    }

    pub fn num_cached(&self) -> u32 {
        self.evictor.len() as u32
    }

    /// Blocks with owners.
    pub fn num_used(&self) -> u32 {
        self.num_blocks - self.available()
    }

    /// References beyond each block's first: the blocks that sharing saves.
    pub fn repeated_references(&self) -> u64 {
        self.repeated
    }

    /// Blocks that `allocate` can still give.
    pub fn available(&self) -> u32 {
        self.num_free() + self.num_cached()
    }

    pub fn references(&self, block: u32) -> u32 {
        self.references[block as usize]
    }

    pub fn entry_of(&self, block: u32) -> Option<EntryId> {
        let entry = self.entry[block as usize];
        (entry != NO_ENTRY).then_some(entry)
    }

    /// Of every block: its references, and whether the prefix cache knows its content.
    pub fn states(&self) -> (Vec<i32>, Vec<u8>) {
        let references = self.references.iter().map(|&count| count as i32).collect();
        let cached = self.entry.iter().map(|&entry| u8::from(entry != NO_ENTRY)).collect();
        (references, cached)
    }

    /// A block for one owner: a free one, else the content that eviction orders first goes.
    pub fn allocate(&mut self) -> Option<Allocated> {
        let mut evicted = None;
        let block = if let Some(block) = self.recycled.pop() {
            block
        } else if self.fresh < self.num_blocks {
            self.fresh += 1;
            self.fresh - 1
        } else {
            let block = self.evictor.pop()?;
            evicted = Some(self.unindex(block));
            block
        };
        self.references[block as usize] = 1;
        Some(Allocated { block, evicted })
    }

    /// Takes a block's content out of the index; the hash of what it was.
    fn unindex(&mut self, block: u32) -> i64 {
        let entry = std::mem::replace(&mut self.entry[block as usize], NO_ENTRY);
        let hash = self.cache.short_hash(entry);
        self.cache.detach(entry);
        hash
    }

    /// One more owner for a block that is in use or cached.
    pub fn share(&mut self, block: u32) {
        let references = &mut self.references[block as usize];
        *references += 1;
        match *references {
            1 => self.evictor.remove(block),
            _ => self.repeated += 1,
        }
        let entry = self.entry[block as usize];
        if entry != NO_ENTRY {
            self.cache.count_use(entry);
        }
    }

    /// One owner fewer. The last one leaves the block cached if its content is indexed.
    pub fn release(&mut self, block: u32) {
        let references = &mut self.references[block as usize];
        *references -= 1;
        if *references > 0 {
            self.repeated -= 1;
            return;
        }
        match self.entry[block as usize] {
            NO_ENTRY => self.recycled.push(block),
            entry => {
                let (uses, indexed) = self.cache.history(entry);
                self.now += 1;
                self.evictor.push(block, uses, indexed, self.now);
            }
        }
    }

    /// Takes a block's content out of the index, so that its last owner frees it. The hash of
    /// what it was, if it was indexed.
    pub fn forget_content(&mut self, block: u32) -> Option<i64> {
        self.entry_of(block)?;
        debug_assert!(self.references(block) > 0, "an evictable block is in the evictor");
        Some(self.unindex(block))
    }

    /// Indexes a full block's content. Content that is cached already is not indexed twice: the
    /// block then stays its sequence's own. The caller's hold moves from the key's parent to the
    /// content's entry, which is returned, with whether it got `block`.
    pub fn index(&mut self, block: u32, key: &Key) -> (EntryId, bool) {
        self.now += 1;
        let id = self.cache.extend(key, self.now);
        let ours = self.cache.block(id).is_none() && self.entry[block as usize] == NO_ENTRY;
        if ours {
            self.attach(id, block);
        }
        (id, ours)
    }

    fn attach(&mut self, id: EntryId, block: u32) {
        self.now += 1;
        self.cache.attach(id, block, self.now);
        self.entry[block as usize] = id;
    }

    /// Puts content into the cache without an owner, as if its last owner had just left; content
    /// that is there already is refreshed as if used. Where blocks are all held, nothing happens.
    pub fn insert_or_refresh(&mut self, id: EntryId) {
        match self.cache.block(id) {
            Some(block) => {
                self.share(block);
                self.release(block);
            }
            None => {
                if let Some(Allocated { block, .. }) = self.allocate() {
                    self.attach(id, block);
                    self.release(block);
                }
            }
        }
    }
}
