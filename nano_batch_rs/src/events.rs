//! The event log: what happened to sequences and blocks, in causal order (docs/records.md).

use std::collections::VecDeque;

/// Steps between keyframes.
pub const KEYFRAME_STEPS: u32 = 256;
pub const NO_SEQUENCE: u32 = u32::MAX;
pub const NONE: i32 = -1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Arrived = 0,
    Forked = 1,
    Admitted = 2,
    Scheduled = 3,
    Allocated = 4,
    Shared = 5,
    Copied = 6,
    Freed = 7,
    Cached = 8,
    Evicted = 9,
    SwappedOut = 10,
    SwappedIn = 11,
    Preempted = 12,
    Finished = 13,
}

/// The state of all blocks and sequences at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub step: u32,
    /// Events before this moment, counted from the run's start.
    pub event: u64,
    pub block_references: Vec<i32>,
    pub block_cached: Vec<u8>,
    /// Sequence numbers, ascending.
    pub sequence: Vec<u32>,
    /// 0 waiting, 1 running, 2 ending.
    pub state: Vec<u8>,
    /// Tokens whose KV is written by the steps planned so far.
    pub stored: Vec<i32>,
    pub lane: Vec<i32>,
    pub table_offsets: Vec<i32>,
    pub tables: Vec<i32>,
}

/// The five columns of a stretch of events.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    pub step: Vec<u32>,
    pub kind: Vec<u8>,
    pub sequence: Vec<u32>,
    pub block: Vec<i32>,
    pub argument: Vec<i64>,
}

/// A keyframe and the events up to the next.
#[derive(Debug, Clone)]
pub struct Stretch {
    pub keyframe: Snapshot,
    pub events: Columns,
}

pub struct EventLog {
    capacity: u64,
    stretches: VecDeque<Stretch>,
    step: u32,
    count: u64,
    kept: u64,
}

impl EventLog {
    pub fn new(capacity: u64, start: Snapshot) -> Self {
        let first = Stretch { keyframe: start, events: Columns::default() };
        EventLog { capacity, stretches: VecDeque::from([first]), step: 0, count: 0, kept: 0 }
    }

    #[inline]
    pub fn push(&mut self, kind: Kind, sequence: u32, block: i32, argument: i64) {
        let step = self.step;
        if let Some(Stretch { events, .. }) = self.stretches.back_mut() {
            events.step.push(step);
            events.kind.push(kind as u8);
            events.sequence.push(sequence);
            events.block.push(block);
            events.argument.push(argument);
            self.count += 1;
            self.kept += 1;
        }
    }

    /// One `scheduled` event of one token for each of `sequences`.
    pub fn push_decodes(&mut self, sequences: impl ExactSizeIterator<Item = u32>) {
        let (step, count) = (self.step, sequences.len());
        if let Some(Stretch { events, .. }) = self.stretches.back_mut() {
            let len = events.step.len() + count;
            events.step.resize(len, step);
            events.kind.resize(len, Kind::Scheduled as u8);
            events.sequence.extend(sequences);
            events.block.resize(len, NONE);
            events.argument.resize(len, 1);
            self.count += count as u64;
            self.kept += count as u64;
        }
    }

    /// Events from here on belong to `step`.
    pub fn begin_step(&mut self, step: u32) {
        self.step = step;
    }

    /// Whether a keyframe is due before the next step: by steps, or because a quarter of the ring
    /// is in this stretch: whole stretches are dropped, so none may be large.
    pub fn wants_keyframe(&self) -> bool {
        self.stretches.back().is_some_and(|stretch| {
            self.step - stretch.keyframe.step >= KEYFRAME_STEPS
                || stretch.events.step.len() as u64 > self.capacity / 4
        })
    }

    pub fn add_keyframe(&mut self, keyframe: Snapshot) {
        self.stretches.push_back(Stretch { keyframe, events: Columns::default() });
        while self.kept > self.capacity - self.capacity / 4 && self.stretches.len() > 1 {
            if let Some(oldest) = self.stretches.pop_front() {
                self.kept -= oldest.events.step.len() as u64;
            }
        }
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Events so far, the dropped ones too.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn stretches(&self) -> impl Iterator<Item = &Stretch> {
        self.stretches.iter()
    }
}
