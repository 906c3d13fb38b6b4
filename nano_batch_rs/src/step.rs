//! One planned step: the rows it computes, the data it moves, what changed around it.

/// One sequence's tokens in a step: positions `start .. start + count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub slot: u32,
    pub uid: u32,
    pub epoch: u8,
    pub lane: i32,
    pub start: u32,
    pub count: u32,
    /// Its one token is still on the device.
    pub unknown: bool,
}

/// One token that a step ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub slot: u32,
    pub uid: u32,
    /// The row whose last query it is sampled from.
    pub row: u32,
    pub lane: i32,
}

/// A sequence that entered the running set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub slot: u32,
    pub uid: u32,
    pub lane: i32,
    /// Tokens found in the prefix cache.
    pub cached: u32,
}

/// A sequence that left the running set to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preempted {
    pub slot: u32,
    pub uid: u32,
    pub lane: i32,
}

#[derive(Debug, Clone, Default)]
pub struct Step {
    pub number: u64,
    /// Decodes first, then prefill chunks.
    pub rows: Vec<Row>,
    pub num_decodes: usize,
    pub num_tokens: u32,
    pub samples: Vec<Sample>,
    /// (device block, host block)
    pub swap_out: Vec<(i32, i32)>,
    /// (host block, device block)
    pub swap_in: Vec<(i32, i32)>,
    /// (source block, destination block)
    pub copies: Vec<(i32, i32)>,
    pub admitted: Vec<Admission>,
    pub preempted: Vec<Preempted>,
    /// (first sequence, later sequence) of requests with n > 1 whose prompt ends here.
    pub forks: Vec<(u32, u32)>,
    /// Rows of sequences forked off while this step was outstanding: they retire with it.
    pub forked_rows: Vec<Row>,
}

impl Step {
    pub fn reset(&mut self, number: u64) {
        self.number = number;
        self.rows.clear();
        self.num_decodes = 0;
        self.num_tokens = 0;
        self.samples.clear();
        self.swap_out.clear();
        self.swap_in.clear();
        self.copies.clear();
        self.admitted.clear();
        self.preempted.clear();
        self.forks.clear();
        self.forked_rows.clear();
    }

    /// Cached tokens of the sequence of `row`, if this step admitted it; else 0.
    pub fn cached_tokens(&self, row: &Row) -> u32 {
        self.admitted.iter().find(|admitted| admitted.uid == row.uid).map_or(0, |admitted| admitted.cached)
    }
}
