//! The naive model: the state of blocks and sequences rebuilt from the event log alone, with every
//! rule of `docs/records.md` and of the prefix cache checked on the way.

use std::collections::{BTreeMap, HashMap};

use nano_batch_core::config::{Config, Eviction};
use nano_batch_core::events::{Kind, NO_SEQUENCE, Snapshot};

use crate::counts::Counts;
use crate::track::Track;

pub type Tracks = HashMap<u32, Track>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waiting,
    Running,
    Ending,
}

#[derive(Debug, Clone)]
pub struct Seq {
    pub state: State,
    pub stored: u32,
    pub lane: i32,
    pub table: Vec<i32>,
    /// The score of its place in the queue, or among the running.
    pub score: f64,
    pub forked_from: Option<u32>,
    /// Tokens it had stored when it was last swapped out, while it waits.
    pub swapped: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub kind: u8,
    pub sequence: u32,
    pub block: i32,
    pub argument: i64,
}

/// One physical block as the model sees it.
#[derive(Debug, Clone, Default)]
pub struct Block {
    pub references: i32,
    /// The name of the cached content: the hash of all tokens up to the block's end.
    pub content: Option<u64>,
    released: u64,
    indexed: u64,
    uses: u64,
}

pub struct Model {
    pub config: Config,
    pub blocks: Vec<Block>,
    pub seqs: BTreeMap<u32, Seq>,
    /// Where cached content lies.
    pub cached: HashMap<u64, i32>,
    /// The content before it in its chain; none for a first block.
    pub parents: HashMap<u64, Option<u64>>,
    clock: u64,
    pub seen: u64,
    pub step: u32,
    /// Blocks freed by the events applied last.
    pub freed: Vec<i32>,
}

impl Model {
    pub fn new(config: &Config) -> Self {
        Model {
            config: config.clone(),
            blocks: vec![Block::default(); config.num_blocks as usize],
            seqs: BTreeMap::new(),
            cached: HashMap::new(),
            parents: HashMap::new(),
            clock: 0,
            seen: 0,
            step: 0,
            freed: Vec::new(),
        }
    }

    pub fn block(&self, id: i32) -> &Block {
        &self.blocks[id as usize]
    }

    pub fn is_free(&self, id: usize) -> bool {
        self.blocks[id].references == 0 && self.blocks[id].content.is_none()
    }

    pub fn num_free(&self) -> usize {
        (0..self.blocks.len()).filter(|&id| self.is_free(id)).count()
    }

    pub fn available(&self) -> usize {
        self.blocks.iter().filter(|block| block.references == 0).count()
    }

    pub fn in_state(&self, state: State) -> impl Iterator<Item = (u32, &Seq)> {
        self.seqs.iter().filter(move |(_, seq)| seq.state == state).map(|(&uid, seq)| (uid, seq))
    }

    /// Cached leading full blocks of a sequence, the block of its last token left out.
    pub fn match_prefix(&self, track: &Track) -> Vec<i32> {
        let block_size = self.config.block_size;
        if !self.config.enable_prefix_caching {
            return Vec::new();
        }
        let full = track.cacheable_len().min(track.tokens.len() as u32 - 1) / block_size;
        let name = |index: u32| track.hashes[((index + 1) * block_size - 1) as usize];
        (0..full).map_while(|index| self.cached.get(&name(index)).copied()).collect()
    }

    fn seq(&mut self, uid: u32) -> &mut Seq {
        self.seqs.get_mut(&uid).unwrap_or_else(|| panic!("event for unknown sequence {uid}"))
    }

    pub fn apply(&mut self, event: Event, tracks: &Tracks, counts: &mut Counts) {
        self.seen += 1;
        self.clock += 1;
        let (uid, block, argument) = (event.sequence, event.block, event.argument);
        match event.kind {
            k if k == Kind::Arrived as u8 => {
                assert_eq!(argument as u32, tracks[&uid].prompt_len, "arrived with its prompt's length");
                self.insert(uid, None);
            }
            k if k == Kind::Forked as u8 => self.insert(uid, Some(argument as u32)),
            k if k == Kind::Admitted as u8 => {
                let entries = self.config.blocks_for(argument as u32) as usize;
                let seq = self.seq(uid);
                assert!(
                    seq.state == State::Waiting && seq.table.is_empty(),
                    "only waiting sequences are admitted"
                );
                seq.table.resize(entries, -1);
                (seq.state, seq.lane, seq.stored, seq.swapped) =
                    (State::Running, block, argument as u32, None);
            }
            k if k == Kind::Scheduled as u8 => {
                let seq = self.seq(uid);
                assert_eq!(seq.state, State::Running);
                seq.stored += argument as u32;
            }
            k if k == Kind::Allocated as u8 => {
                assert!(self.is_free(block as usize), "block {block} allocated while held or cached");
                self.blocks[block as usize].references = 1;
                self.place(uid, block, argument as usize);
            }
            k if k == Kind::Shared as u8 => self.share(uid, block, argument as usize, counts),
            k if k == Kind::Copied as u8 => {
                assert!(self.is_free(block as usize), "copy-on-write into a block that is not free");
                assert!(self.block(argument as i32).references > 1, "copied a block of one owner");
                self.blocks[argument as usize].references -= 1;
                self.blocks[block as usize].references = 1;
                let table = &mut self.seq(uid).table;
                let at =
                    table.iter().position(|&b| b == argument as i32).expect("the source is in its table");
                table[at] = block;
            }
            k if k == Kind::Freed as u8 => self.free(uid, block, argument as usize),
            k if k == Kind::Cached as u8 => self.index(uid, block, tracks),
            k if k == Kind::Evicted as u8 => self.evict(uid, block, counts),
            k if k == Kind::SwappedOut as u8 => {
                let block = self.block(block);
                assert!(block.references == 1 && block.content.is_none(), "copied out what others keep");
                assert!((argument as u32) < self.config.num_swap_blocks);
            }
            k if k == Kind::SwappedIn as u8 => assert_eq!(self.block(block).references, 1),
            k if k == Kind::Preempted as u8 => {
                let seq = self.seq(uid);
                assert!(seq.table.iter().all(|&block| block < 0), "preempted with blocks in its table");
                seq.swapped = (argument == 1).then_some(seq.stored);
                (seq.state, seq.stored, seq.lane) = (State::Waiting, 0, -1);
                seq.table.clear();
            }
            k if k == Kind::Finished as u8 => {
                let seq = self.seq(uid);
                (seq.state, seq.lane) = (State::Ending, -1);
                self.drop_if_empty(uid);
            }
            other => panic!("unknown event kind {other}"),
        }
    }

    fn insert(&mut self, uid: u32, forked_from: Option<u32>) {
        let seq = Seq {
            state: State::Waiting,
            stored: 0,
            lane: -1,
            table: Vec::new(),
            score: 0.0,
            forked_from,
            swapped: None,
        };
        assert!(self.seqs.insert(uid, seq).is_none(), "sequence number {uid} was used before");
    }

    fn place(&mut self, uid: u32, block: i32, index: usize) {
        let table = &mut self.seq(uid).table;
        if index == table.len() {
            table.push(-1);
        }
        assert_eq!(table[index], -1, "a table entry was overwritten");
        table[index] = block;
    }

    fn share(&mut self, uid: u32, block: i32, index: usize, counts: &mut Counts) {
        let shared = &mut self.blocks[block as usize];
        assert!(shared.references > 0 || shared.content.is_some(), "shared a free block");
        if shared.content.is_some() {
            shared.uses += 1;
        }
        shared.references += 1;
        counts.shared += 1;
        self.place(uid, block, index);
    }

    fn free(&mut self, uid: u32, block: i32, index: usize) {
        let windowless = self.config.sliding_window.is_none();
        let table = &mut self.seq(uid).table;
        assert_eq!(table[index], block, "freed an entry that the table does not have");
        table[index] = -1;
        assert!(
            !windowless || table[index..].iter().all(|&later| later < 0),
            "a head was released before its tail"
        );
        let clock = self.clock;
        let freed = &mut self.blocks[block as usize];
        freed.references -= 1;
        assert!(freed.references >= 0, "block {block} released more often than taken");
        if freed.references == 0 {
            freed.released = clock;
            self.freed.push(block);
        }
        self.drop_if_empty(uid);
    }

    fn drop_if_empty(&mut self, uid: u32) {
        let seq = self.seq(uid);
        if seq.state == State::Ending && seq.table.iter().all(|&block| block < 0) {
            self.seqs.remove(&uid);
        }
    }

    fn index(&mut self, uid: u32, block: i32, tracks: &Tracks) {
        let block_size = self.config.block_size as usize;
        let index = self.seqs[&uid].table.iter().position(|&b| b == block).expect("it indexes its own block");
        let track = &tracks[&uid];
        let last = (index + 1) * block_size - 1;
        assert!(last < track.cacheable_len() as usize, "indexed a block whose tokens are not all known");
        assert!(last < self.seqs[&uid].stored as usize, "indexed a block that is not computed");
        let name = track.hashes[last];
        assert!(!self.cached.contains_key(&name), "content indexed twice");
        assert!(self.block(block).content.is_none(), "a block indexed twice");
        self.cached.insert(name, block);
        self.parents.insert(name, (index > 0).then(|| track.hashes[last - block_size]));
        let clock = self.clock;
        let entry = &mut self.blocks[block as usize];
        (entry.content, entry.indexed, entry.uses) = (Some(name), clock, 1);
    }

    fn evict(&mut self, uid: u32, block: i32, counts: &mut Counts) {
        counts.evictions += 1;
        if uid == NO_SEQUENCE {
            assert_eq!(self.block(block).references, 1, "forgot content that others use");
        } else {
            assert_eq!(self.num_free(), 0, "evicted although blocks were free");
            let due = self.next_to_evict().expect("something is evictable");
            assert_eq!(block, due, "evicted out of order ({:?})", self.config.eviction);
        }
        let name = self.blocks[block as usize].content.take().expect("evicted a block without content");
        self.cached.remove(&name);
    }

    /// The cached block without owners that the eviction order names first, by linear scan.
    fn next_to_evict(&self) -> Option<i32> {
        let key = |block: &Block| match self.config.eviction {
            Eviction::Lru => (0, block.released),
            Eviction::Lfu => (block.uses, block.released),
            Eviction::Fifo => (0, block.indexed),
        };
        let evictable =
            self.blocks.iter().enumerate().filter(|(_, b)| b.references == 0 && b.content.is_some());
        evictable.min_by_key(|(_, block)| key(block)).map(|(id, _)| id as i32)
    }

    /// The state as the engine's own snapshot shows it.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            step: self.step,
            event: self.seen,
            block_references: self.blocks.iter().map(|block| block.references).collect(),
            block_cached: self.blocks.iter().map(|block| u8::from(block.content.is_some())).collect(),
            table_offsets: vec![0],
            ..Snapshot::default()
        };
        for (&uid, seq) in &self.seqs {
            snapshot.sequence.push(uid);
            snapshot.state.push(seq.state as u8);
            snapshot.stored.push(seq.stored as i32);
            snapshot.lane.push(seq.lane);
            snapshot.tables.extend(&seq.table);
            snapshot.table_offsets.push(snapshot.tables.len() as i32);
        }
        snapshot
    }

    /// References equal owners: entries of all tables, counted.
    pub fn check_owners(&self) {
        let mut owners = vec![0; self.blocks.len()];
        for (uid, seq) in &self.seqs {
            for (index, &block) in seq.table.iter().enumerate().filter(|(_, block)| **block >= 0) {
                owners[block as usize] += 1;
                assert!(!seq.table[..index].contains(&block), "sequence {uid} holds block {block} twice");
            }
        }
        for (id, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.references, owners[id], "block {id}: references and owners differ");
        }
    }
}
