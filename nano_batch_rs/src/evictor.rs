//! Which cached block without owners goes first.

use std::collections::BTreeSet;

use crate::config::Eviction;

const NONE: u32 = u32::MAX;

/// The evictable blocks in their order of eviction. LRU is a linked list through arrays, O(1);
/// LFU and FIFO need a sorted set, O(log n).
pub enum Evictor {
    Lru(LinkedBlocks),
    /// (uses, time of release, block)
    Lfu(SortedBlocks),
    /// (0, time of indexing, block)
    Fifo(SortedBlocks),
}

impl Evictor {
    pub fn new(kind: Eviction) -> Self {
        match kind {
            Eviction::Lru => Evictor::Lru(LinkedBlocks::default()),
            Eviction::Lfu => Evictor::Lfu(SortedBlocks::default()),
            Eviction::Fifo => Evictor::Fifo(SortedBlocks::default()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Evictor::Lru(list) => list.len,
            Evictor::Lfu(set) | Evictor::Fifo(set) => set.order.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `uses`: how often the content was used; `indexed`: when it was indexed; `now`: a counter.
    pub fn push(&mut self, block: u32, uses: u64, indexed: u64, now: u64) {
        match self {
            Evictor::Lru(list) => list.push(block),
            Evictor::Lfu(set) => set.insert(block, uses, now),
            Evictor::Fifo(set) => set.insert(block, 0, indexed),
        }
    }

    pub fn remove(&mut self, block: u32) {
        match self {
            Evictor::Lru(list) => list.remove(block),
            Evictor::Lfu(set) | Evictor::Fifo(set) => set.remove(block),
        }
    }

    pub fn pop(&mut self) -> Option<u32> {
        match self {
            Evictor::Lru(list) => list.pop(),
            Evictor::Lfu(set) | Evictor::Fifo(set) => set.pop(),
        }
    }
}

/// A doubly linked list through two arrays, oldest at `head`.
pub struct LinkedBlocks {
    prev: Vec<u32>,
    next: Vec<u32>,
    head: u32,
    tail: u32,
    len: usize,
}

impl Default for LinkedBlocks {
    fn default() -> Self {
        LinkedBlocks { prev: Vec::new(), next: Vec::new(), head: NONE, tail: NONE, len: 0 }
    }
}

impl LinkedBlocks {
    fn push(&mut self, block: u32) {
        let at = block as usize;
        if at >= self.prev.len() {
            self.prev.resize(at + 1, NONE);
            self.next.resize(at + 1, NONE);
        }
        self.prev[at] = self.tail;
        self.next[at] = NONE;
        match self.tail {
            NONE => self.head = block,
            tail => self.next[tail as usize] = block,
        }
        self.tail = block;
        self.len += 1;
    }

    fn remove(&mut self, block: u32) {
        let (prev, next) = (self.prev[block as usize], self.next[block as usize]);
        match prev {
            NONE => self.head = next,
            prev => self.next[prev as usize] = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.prev[next as usize] = prev,
        }
        self.len -= 1;
    }

    fn pop(&mut self) -> Option<u32> {
        let block = (self.head != NONE).then_some(self.head)?;
        self.remove(block);
        Some(block)
    }
}

#[derive(Default)]
pub struct SortedBlocks {
    order: BTreeSet<(u64, u64, u32)>,
    key: Vec<(u64, u64)>,
}

impl SortedBlocks {
    fn insert(&mut self, block: u32, first: u64, second: u64) {
        let at = block as usize;
        if at >= self.key.len() {
            self.key.resize(at + 1, (0, 0));
        }
        self.key[at] = (first, second);
        self.order.insert((first, second, block));
    }

    fn remove(&mut self, block: u32) {
        let (first, second) = self.key[block as usize];
        self.order.remove(&(first, second, block));
    }

    fn pop(&mut self) -> Option<u32> {
        self.order.pop_first().map(|(_, _, block)| block)
    }
}
