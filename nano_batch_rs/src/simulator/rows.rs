//! Which row of the workload a sequence number stands for.

use std::collections::VecDeque;

/// A request that ended, where those are forgotten.
const GONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Rows {
    /// The number of the first in `rows`.
    first: u32,
    rows: VecDeque<u32>,
    forgets: bool,
}

impl Rows {
    /// `forgets`: what ended is not asked for again.
    pub fn new(forgets: bool) -> Self {
        Rows { first: 0, rows: VecDeque::new(), forgets }
    }

    /// The next number is that of `row`.
    pub fn push(&mut self, row: u32) {
        self.rows.push_back(row);
    }

    #[inline]
    pub fn of(&self, number: u32) -> u32 {
        self.rows[(number - self.first) as usize]
    }

    pub fn ended(&mut self, number: u32) {
        if !self.forgets {
            return;
        }
        self.rows[(number - self.first) as usize] = GONE;
        while self.rows.front() == Some(&GONE) {
            self.rows.pop_front();
            self.first += 1;
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        u64::from(self.first) + self.rows.len() as u64
    }

    /// All rows by number, where none is forgotten.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.rows.iter().copied()
    }
}
