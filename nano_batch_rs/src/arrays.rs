//! The array form of a step: what a model runner needs, in flat arrays that the caller owns.
//!
//! Shapes: T = tokens of the step, R = rows, S = samples; capacities are at least
//! `max_num_batched_tokens + max_num_seqs` (padding rows have a token each), `max_num_seqs`.

use crate::error::{Error, Result};
use crate::request::Sequence;
use crate::scheduler::Scheduler;
use crate::step::{Row, Step};

/// One set of arrays.
pub struct ArraySet<'a> {
    /// [T] input tokens; −1: the lane's newest token, still on the device.
    pub token_ids: &'a mut [i32],
    /// [T]
    pub positions: &'a mut [i32],
    /// [T] `block × block_size + offset`
    pub slot_mapping: &'a mut [i64],
    /// [R]
    pub lanes: &'a mut [i32],
    /// [R + 1] where each row's tokens begin
    pub query_start_loc: &'a mut [i32],
    /// [R] keys that a row's last query sees, this step's included
    pub context_lens: &'a mut [i32],
    /// [R, width] physical blocks, −1 where there is none
    pub block_table: &'a mut [i32],
    /// [S] the row that each sample is taken from
    pub sample_rows: &'a mut [i32],
    /// [S] the lane that each sampled token belongs to
    pub sample_lanes: &'a mut [i32],
}

/// The per-token arrays of a step, on their own.
pub struct TokenArrays {
    pub token_ids: Vec<i32>,
    pub slot_mapping: Vec<i64>,
}

impl TokenArrays {
    pub fn of(scheduler: &Scheduler, step: &Step) -> Self {
        let (tokens, rows) = (step.num_tokens as usize, step.rows.len());
        let width =
            step.rows.iter().map(|row| scheduler.sequence(row.slot).table_len as usize).max().unwrap_or(0);
        let mut arrays = TokenArrays { token_ids: vec![0; tokens], slot_mapping: vec![0; tokens] };
        ArraySet {
            token_ids: &mut arrays.token_ids,
            positions: &mut vec![0; tokens],
            slot_mapping: &mut arrays.slot_mapping,
            lanes: &mut vec![0; rows],
            query_start_loc: &mut vec![0; rows + 1],
            context_lens: &mut vec![0; rows],
            block_table: &mut vec![-1; rows * width],
            sample_rows: &mut vec![0; step.samples.len()],
            sample_lanes: &mut vec![0; step.samples.len()],
        }
        .fill(scheduler, step, &mut Remembered::new(rows, width), 0);
        arrays
    }
}

/// How long each array must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub tokens: usize,
    pub rows: usize,
    /// Columns of the block table.
    pub width: usize,
}

impl Capacity {
    /// What an engine of this configuration can fill in one step.
    pub fn needed(scheduler: &Scheduler) -> Result<Self> {
        let config = scheduler.config();
        let Some(width) = config.max_blocks_per_sequence() else {
            return Err(Error::InvalidBuffer {
                name: "block_table".into(),
                problem: "has no bound on its width: set max_model_len with a sliding window".into(),
            });
        };
        let rows = config.max_num_seqs as usize;
        Ok(Capacity { tokens: config.max_num_batched_tokens as usize + rows, rows, width: width as usize })
    }
}

/// What a row of a bound block table holds, so that only its changes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    uid: u32,
    version: u32,
    len: u32,
}

const EMPTY: Written = Written { uid: u32::MAX, version: 0, len: 0 };

/// What a set of arrays holds from its last use.
pub struct Remembered {
    rows: Vec<Written>,
    width: usize,
}

impl Remembered {
    /// For a block table [rows, width] that is filled with −1.
    pub fn new(rows: usize, width: usize) -> Self {
        Remembered { rows: vec![EMPTY; rows], width }
    }

    #[inline]
    fn write(&mut self, target: &mut [i32], at: usize, sequence: &Sequence) {
        let before = self.rows[at];
        let now = Written { uid: sequence.uid, version: sequence.table_version, len: sequence.table_len };
        if before != now {
            self.write_changes(target, at, now, sequence.table());
        }
    }

    fn write_changes(&mut self, target: &mut [i32], at: usize, now: Written, table: &[i32]) {
        let before = std::mem::replace(&mut self.rows[at], now);
        let row = &mut target[at * self.width..(at + 1) * self.width];
        let kept =
            if (before.uid, before.version) == (now.uid, now.version) { before.len as usize } else { 0 };
        row[kept..table.len()].copy_from_slice(&table[kept..]);
        if before.len as usize > table.len() {
            row[table.len()..before.len as usize].fill(-1);
        }
    }
}

/// Rows and tokens written, padding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    pub rows: usize,
    pub tokens: usize,
}

impl ArraySet<'_> {
    /// Writes a step just planned by `scheduler`. `pad_to`: rows to fill up to; padding rows have
    /// one token each, lane −1, context 0, slot −1 and an empty table.
    pub fn fill(
        &mut self,
        scheduler: &Scheduler,
        step: &Step,
        remembered: &mut Remembered,
        pad_to: usize,
    ) -> Filled {
        self.fill_decodes(scheduler, &step.rows[..step.num_decodes], remembered);
        let mut token = step.num_decodes;
        for (at, row) in step.rows.iter().enumerate().skip(step.num_decodes) {
            self.lanes[at] = row.lane;
            self.query_start_loc[at] = token as i32;
            self.context_lens[at] = (row.start + row.count) as i32;
            remembered.write(self.block_table, at, scheduler.sequence(row.slot));
            token = self.fill_chunk(scheduler, row, token);
        }
        for (at, sample) in step.samples.iter().enumerate() {
            self.sample_rows[at] = sample.row as i32;
            self.sample_lanes[at] = sample.lane;
        }
        let rows = step.rows.len().max(pad_to);
        for at in step.rows.len()..rows {
            self.lanes[at] = -1;
            self.query_start_loc[at] = token as i32;
            self.context_lens[at] = 0;
            remembered.write_changes(self.block_table, at, EMPTY, &[]);
            self.token_ids[token] = 0;
            self.positions[token] = 0;
            self.slot_mapping[token] = -1;
            token += 1;
        }
        self.query_start_loc[rows] = token as i32;
        Filled { rows, tokens: token }
    }

    /// Rows of one token each. Slices of one length spare the loop its bounds checks.
    fn fill_decodes(&mut self, scheduler: &Scheduler, rows: &[Row], remembered: &mut Remembered) {
        let block_size = scheduler.config().block_size;
        let count = rows.len();
        let (token_ids, positions) = (&mut self.token_ids[..count], &mut self.positions[..count]);
        let (slot_mapping, lanes) = (&mut self.slot_mapping[..count], &mut self.lanes[..count]);
        let query_start_loc = &mut self.query_start_loc[..count];
        let context_lens = &mut self.context_lens[..count];
        for (at, row) in rows.iter().enumerate() {
            let sequence = scheduler.sequence(row.slot);
            lanes[at] = row.lane;
            query_start_loc[at] = at as i32;
            context_lens[at] = row.start as i32 + 1;
            token_ids[at] = if row.unknown { -1 } else { sequence.last_token };
            positions[at] = row.start as i32;
            let tail_start = (sequence.table_len - 1) * block_size;
            let (block, offset) = if row.start >= tail_start {
                (sequence.tail, row.start - tail_start)
            } else {
                // A batch member with its whole reservation writes before its last block.
                (sequence.table()[(row.start / block_size) as usize], row.start % block_size)
            };
            slot_mapping[at] = i64::from(block) * i64::from(block_size) + i64::from(offset);
            remembered.write(self.block_table, at, sequence);
        }
    }

    fn fill_chunk(&mut self, scheduler: &Scheduler, row: &Row, mut token: usize) -> usize {
        let block_size = scheduler.config().block_size;
        let sequence = scheduler.sequence(row.slot);
        let mut position = row.start;
        let end = row.start + row.count;
        while position < end {
            let (index, offset) = (position / block_size, position % block_size);
            let run = (block_size - offset).min(end - position);
            let slot =
                i64::from(sequence.table()[index as usize]) * i64::from(block_size) + i64::from(offset);
            for ahead in 0..run {
                self.token_ids[token] = if row.unknown { -1 } else { sequence.token(position + ahead) };
                self.positions[token] = (position + ahead) as i32;
                self.slot_mapping[token] = slot + i64::from(ahead);
                token += 1;
            }
            position += run;
        }
        token
    }
}
