//! The block allocator and the prefix cache alone, against linear scans over plain vectors.

use nano_batch_core::block_allocator::BlockAllocator;
use nano_batch_core::block_cache::BlockCache;
use nano_batch_core::config::Eviction;
use nano_batch_core::prefix_cache::{EntryId, Key, ROOT};

use crate::reporting;
use crate::rng::Rng;

const EVICTIONS: [Eviction; 3] = [Eviction::Lru, Eviction::Lfu, Eviction::Fifo];

/// A chain of full blocks: its salt, and all tokens from the first block on.
type Content = (u32, Vec<i32>);

#[derive(Clone, Default)]
struct NaiveBlock {
    references: u32,
    content: Option<Content>,
    released: u64,
    indexed: u64,
    uses: u64,
}

/// One owner of a chain of blocks, as a sequence is.
struct Holder {
    content: Content,
    blocks: Vec<u32>,
    chain: EntryId,
    hash: u128,
    indexed: usize,
}

struct Pair {
    real: BlockAllocator,
    naive: Vec<NaiveBlock>,
    eviction: Eviction,
    block_size: usize,
    holders: Vec<Holder>,
    clock: u64,
    bytes: Vec<u8>,
    operations: u64,
    evictions: u64,
    hits: u64,
    duplicates: u64,
}

impl Pair {
    fn new(rng: &mut Rng) -> Self {
        let (blocks, block_size) = (rng.between(1, 24), rng.between(1, 3));
        let eviction = *rng.choose(&EVICTIONS);
        let bits = if rng.once_in(2) { 4 } else { 128 };
        Pair {
            real: BlockAllocator::new(blocks, block_size, eviction, bits),
            naive: vec![NaiveBlock::default(); blocks as usize],
            eviction,
            block_size: block_size as usize,
            holders: Vec::new(),
            clock: 0,
            bytes: Vec::new(),
            operations: 0,
            evictions: 0,
            hits: 0,
            duplicates: 0,
        }
    }

    fn evictable(&self) -> impl Iterator<Item = (usize, &NaiveBlock)> {
        self.naive.iter().enumerate().filter(|(_, block)| block.references == 0 && block.content.is_some())
    }

    fn num_free(&self) -> usize {
        self.naive.iter().filter(|block| block.references == 0 && block.content.is_none()).count()
    }

    fn find(&self, content: &Content) -> Option<u32> {
        self.naive.iter().position(|block| block.content.as_ref() == Some(content)).map(|id| id as u32)
    }

    fn allocate(&mut self) -> Option<u32> {
        let due = self
            .evictable()
            .min_by_key(|(_, block)| match self.eviction {
                Eviction::Lru => (0, block.released),
                Eviction::Lfu => (block.uses, block.released),
                Eviction::Fifo => (0, block.indexed),
            })
            .map(|(id, _)| id as u32);
        let free = self.num_free();
        let taken = self.real.allocate();
        let Some(taken) = taken else {
            assert!(free == 0 && due.is_none(), "no block although some were available");
            return None;
        };
        assert_eq!(taken.evicted.is_some(), free == 0, "content goes only when no block is free");
        if free == 0 {
            assert_eq!(Some(taken.block), due, "{:?} order", self.eviction);
            self.evictions += 1;
        }
        let block = &mut self.naive[taken.block as usize];
        assert_eq!(block.references, 0, "a held block was given away");
        *block = NaiveBlock { references: 1, ..NaiveBlock::default() };
        Some(taken.block)
    }

    /// A new holder shares what is cached of a random chain.
    fn open(&mut self, rng: &mut Rng) {
        let salt = rng.below(2) as u32;
        let tokens: Vec<i32> =
            (0..rng.between(1, 6) as usize * self.block_size).map(|_| rng.below(2) as i32).collect();
        let root_hash = self.real.cache.root_hash(["", "salt"][salt as usize]);
        let mut holder =
            Holder { content: (salt, tokens), blocks: Vec::new(), chain: ROOT, hash: root_hash, indexed: 0 };
        while holder.blocks.len() * self.block_size < holder.content.1.len() {
            let (hash, found) = self.look_up(&holder);
            let expected = self.find(&self.prefix(&holder, holder.blocks.len() + 1));
            let entry = found.filter(|&entry| self.real.cache.block(entry).is_some());
            assert_eq!(entry.and_then(|entry| self.real.cache.block(entry)), expected, "what is cached");
            let (Some(entry), Some(block)) = (entry, expected) else { break };
            self.real.share(block);
            self.real.cache.retain(entry);
            self.real.cache.release(holder.chain);
            let shared = &mut self.naive[block as usize];
            shared.references += 1;
            shared.uses += 1;
            self.hits += 1;
            holder.blocks.push(block);
            (holder.chain, holder.hash, holder.indexed) = (entry, hash, holder.indexed + 1);
        }
        self.holders.push(holder);
    }

    fn prefix(&self, holder: &Holder, blocks: usize) -> Content {
        (holder.content.0, holder.content.1[..blocks * self.block_size].to_vec())
    }

    /// The hash of a holder's next block behind its chain, and its entry.
    fn look_up(&mut self, holder: &Holder) -> (u128, Option<EntryId>) {
        let start = holder.indexed * self.block_size;
        let tokens = &holder.content.1[start..start + self.block_size];
        let hash = self.real.cache.chain_hash(holder.hash, tokens, &mut self.bytes);
        let key = Key { parent: holder.chain, salt: holder.content.0, hash, tokens };
        (hash, self.real.cache.find(&key))
    }

    /// A holder takes its next block and, as a rule, indexes it.
    fn grow(&mut self, rng: &mut Rng) {
        let Some(at) = self.any(rng) else { return };
        let mut holder = self.holders.swap_remove(at);
        if holder.blocks.len() * self.block_size < holder.content.1.len()
            && let Some(block) = self.allocate()
        {
            holder.blocks.push(block);
            self.index(&mut holder, block);
        }
        self.holders.push(holder);
    }

    fn index(&mut self, holder: &mut Holder, block: u32) {
        let content = self.prefix(holder, holder.indexed + 1);
        let known = self.find(&content);
        let (hash, _) = self.look_up(holder);
        let start = holder.indexed * self.block_size;
        let tokens = &holder.content.1[start..start + self.block_size];
        let key = Key { parent: holder.chain, salt: holder.content.0, hash, tokens };
        let (entry, ours) = self.real.index(block, &key);
        assert_eq!(ours, known.is_none(), "content is indexed once");
        self.duplicates += u64::from(!ours);
        if ours {
            self.clock += 1;
            let indexed = &mut self.naive[block as usize];
            (indexed.content, indexed.uses, indexed.indexed) = (Some(content), 1, self.clock);
        }
        (holder.chain, holder.hash, holder.indexed) = (entry, hash, holder.indexed + 1);
    }

    fn close(&mut self, rng: &mut Rng) {
        let Some(at) = self.any(rng) else { return };
        let holder = self.holders.swap_remove(at);
        for &block in holder.blocks.iter().rev() {
            self.real.release(block);
            self.clock += 1;
            let released = &mut self.naive[block as usize];
            released.references -= 1;
            released.released = self.clock;
        }
        self.real.cache.release(holder.chain);
    }

    fn forget(&mut self, rng: &mut Rng) {
        let Some(at) = self.any(rng) else { return };
        let Some(&block) = self.holders[at].blocks.last() else { return };
        let known = self.naive[block as usize].content.take().is_some();
        assert_eq!(self.real.forget_content(block).is_some(), known);
    }

    fn any(&self, rng: &mut Rng) -> Option<usize> {
        (!self.holders.is_empty()).then(|| rng.below(self.holders.len() as u64) as usize)
    }

    fn turn(&mut self, rng: &mut Rng) {
        self.operations += 1;
        match rng.below(20) {
            0..5 => self.open(rng),
            5..14 => self.grow(rng),
            14..19 => self.close(rng),
            _ => self.forget(rng),
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.real.num_free() as usize, self.num_free());
        assert_eq!(self.real.num_cached() as usize, self.evictable().count());
        for (id, block) in self.naive.iter().enumerate() {
            assert_eq!(self.real.references(id as u32), block.references, "references of block {id}");
            assert_eq!(self.real.entry_of(id as u32).is_some(), block.content.is_some());
        }
    }
}

#[test]
fn the_allocator_equals_linear_scans() {
    let (mut operations, mut evictions, mut hits, mut duplicates) = (0, 0, 0, 0);
    for case in 0..400 {
        let mut rng = Rng::new(case);
        let mut pair = Pair::new(&mut rng);
        reporting(case, &pair.eviction.clone(), || {
            for _ in 0..800 {
                pair.turn(&mut rng);
            }
            while !pair.holders.is_empty() {
                pair.close(&mut rng);
            }
            pair.check();
        });
        assert!(pair.naive.iter().all(|block| block.references == 0));
        operations += pair.operations;
        evictions += pair.evictions;
        hits += pair.hits;
        duplicates += pair.duplicates;
    }
    assert!(operations >= 320_000);
    assert!(evictions > 10_000 && hits > 10_000 && duplicates > 1_000, "{evictions} {hits} {duplicates}");
}

/// The cache alone, over chains of ids: a vector in eviction order, searched from one end.
struct NaiveCache {
    size: usize,
    eviction: Eviction,
    /// (chain up to this block, uses), the next to go first.
    order: Vec<(Vec<i32>, u64)>,
}

impl NaiveCache {
    fn access(&mut self, ids: &[i32]) -> usize {
        let chains: Vec<Vec<i32>> = (1..=ids.len()).map(|len| ids[..len].to_vec()).collect();
        let known =
            |order: &[(Vec<i32>, u64)], chain: &Vec<i32>| order.iter().position(|(other, _)| other == chain);
        let hits = chains.iter().take_while(|chain| known(&self.order, chain).is_some()).count();
        let touched: Vec<_> = match self.eviction {
            Eviction::Fifo => chains,
            Eviction::Lru | Eviction::Lfu => chains.into_iter().rev().collect(),
        };
        for chain in touched {
            let found = known(&self.order, &chain);
            if self.eviction == Eviction::Fifo && found.is_some() {
                continue;
            }
            let uses = found.map_or(1, |at| self.order.remove(at).1 + 1);
            if self.order.len() == self.size {
                self.order.remove(0);
            }
            let later = |other: &(Vec<i32>, u64)| self.eviction == Eviction::Lfu && other.1 > uses;
            let at = self.order.iter().position(later).unwrap_or(self.order.len());
            self.order.insert(at, (chain, uses));
        }
        hits
    }
}

#[test]
fn the_block_cache_equals_an_ordered_list() {
    let mut hits = 0;
    for case in 0..150 {
        let mut rng = Rng::new(1000 + case);
        let (size, eviction) = (rng.between(1, 12), *rng.choose(&EVICTIONS));
        let mut real = BlockCache::new(size, eviction).expect("a size");
        let mut naive = NaiveCache { size: size as usize, eviction, order: Vec::new() };
        for _ in 0..300 {
            let ids: Vec<i32> = (0..rng.between(0, 7)).map(|_| rng.below(3) as i32).collect();
            let found = real.access(&ids);
            reporting(case, &(eviction, size, &ids), || assert_eq!(found, naive.access(&ids)));
            assert_eq!(real.num_cached() as usize, naive.order.len());
            hits += found;
        }
    }
    assert!(hits > 10_000, "{hits} hits");
}
