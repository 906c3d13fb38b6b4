//! The prefix cache alone, without sequences: what a trace would hit at a given size.

use crate::block_allocator::BlockAllocator;
use crate::config::Eviction;
use crate::error::{Error, Result};
use crate::prefix_cache::{EntryId, Key, ROOT};

/// A cache of `num_blocks` blocks whose content is named by chained ids, one a block.
pub struct BlockCache {
    blocks: BlockAllocator,
    eviction: Eviction,
    root_hash: u128,
    bytes: Vec<u8>,
    chain: Vec<EntryId>,
}

impl BlockCache {
    pub fn new(num_blocks: u32, eviction: Eviction) -> Result<Self> {
        if num_blocks == 0 || num_blocks > i32::MAX as u32 {
            return Err(Error::invalid("num_blocks", num_blocks, format!("between 1 and {}", i32::MAX)));
        }
        let blocks = BlockAllocator::new(num_blocks, 1, eviction, 128);
        let root_hash = blocks.cache.root_hash("");
        Ok(BlockCache { blocks, eviction, root_hash, bytes: Vec::new(), chain: Vec::new() })
    }

    /// One request over the chain `ids`: the length of its unbroken cached prefix, counted before
    /// its blocks enter. Under FIFO they enter head first and hits refresh nothing; else they are
    /// touched tail first, so that a request's head outlives its tail.
    pub fn access(&mut self, ids: &[i32]) -> usize {
        self.intern_chain(ids);
        let cached = |id: &&EntryId| self.blocks.cache.block(**id).is_some();
        let hits = self.chain.iter().take_while(cached).count();
        if self.eviction == Eviction::Fifo {
            for &id in &self.chain {
                if self.blocks.cache.block(id).is_none() {
                    self.blocks.insert_or_refresh(id);
                }
            }
        } else {
            for &id in self.chain.iter().rev() {
                self.blocks.insert_or_refresh(id);
            }
        }
        for id in self.chain.drain(..) {
            self.blocks.cache.release(id);
        }
        hits
    }

    /// `access` of each chain `ids[offsets[i]..offsets[i + 1]]`, in order.
    pub fn access_all(&mut self, offsets: &[i64], ids: &[i32]) -> Result<Vec<u32>> {
        check_offsets(offsets, ids)?;
        let chain = |pair: &[i64]| &ids[pair[0] as usize..pair[1] as usize];
        Ok(offsets.windows(2).map(|pair| self.access(chain(pair)) as u32).collect())
    }

    /// Makes and holds the entries of a whole chain, so that none is forgotten on the way.
    fn intern_chain(&mut self, ids: &[i32]) {
        let (mut parent, mut hash) = (ROOT, self.root_hash);
        for token in ids.chunks_exact(1) {
            let cache = &mut self.blocks.cache;
            hash = cache.chain_hash(hash, token, &mut self.bytes);
            parent = cache.intern(&Key { parent, salt: 0, hash, tokens: token }, 0);
            cache.retain(parent);
            self.chain.push(parent);
        }
    }

    pub fn num_cached(&self) -> u32 {
        self.blocks.num_cached()
    }
}

/// That the offsets cut all of `ids` into chains.
pub fn check_offsets(offsets: &[i64], ids: &[i32]) -> Result<()> {
    let whole = offsets.first() == Some(&0) && offsets.last() == Some(&(ids.len() as i64));
    if !whole || !offsets.is_sorted() {
        let limit = format!("ascending from 0 to the number of ids, {}", ids.len());
        return Err(Error::invalid("offsets", format!("{} entries", offsets.len()), limit));
    }
    Ok(())
}
