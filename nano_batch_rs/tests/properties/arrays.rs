//! Two sets of arrays, filled in turn, compared with the step they stand for.

use nano_batch_core::arrays::{ArraySet, Capacity, Remembered};
use nano_batch_core::scheduler::Scheduler;
use nano_batch_core::step::Step;

struct Set {
    token_ids: Vec<i32>,
    positions: Vec<i32>,
    slot_mapping: Vec<i64>,
    lanes: Vec<i32>,
    query_start_loc: Vec<i32>,
    context_lens: Vec<i32>,
    block_table: Vec<i32>,
    sample_rows: Vec<i32>,
    sample_lanes: Vec<i32>,
    remembered: Remembered,
}

pub struct Arrays {
    sets: [Set; 2],
    next: usize,
    width: usize,
}

/// One row as the arrays show it.
pub struct RowView {
    pub tokens: Vec<i32>,
    pub slots: Vec<i64>,
    pub table: Vec<i32>,
}

impl Arrays {
    pub fn new(scheduler: &Scheduler) -> Self {
        let Capacity { tokens, rows, width } =
            Capacity::needed(scheduler).expect("a bound on the table's width");
        let set = || Set {
            token_ids: vec![77; tokens],
            positions: vec![77; tokens],
            slot_mapping: vec![77; tokens],
            lanes: vec![77; rows],
            query_start_loc: vec![77; rows + 1],
            context_lens: vec![77; rows],
            block_table: vec![-1; rows * width],
            sample_rows: vec![77; rows],
            sample_lanes: vec![77; rows],
            remembered: Remembered::new(rows, width),
        };
        Arrays { sets: [set(), set()], next: 0, width }
    }

    /// Fills the next set and gives back its rows; everything in it is compared with the step.
    pub fn fill(&mut self, scheduler: &Scheduler, step: &Step, pad_to: usize) -> Vec<RowView> {
        let set = &mut self.sets[self.next];
        self.next = 1 - self.next;
        let filled = ArraySet {
            token_ids: &mut set.token_ids,
            positions: &mut set.positions,
            slot_mapping: &mut set.slot_mapping,
            lanes: &mut set.lanes,
            query_start_loc: &mut set.query_start_loc,
            context_lens: &mut set.context_lens,
            block_table: &mut set.block_table,
            sample_rows: &mut set.sample_rows,
            sample_lanes: &mut set.sample_lanes,
        }
        .fill(scheduler, step, &mut set.remembered, pad_to);
        let rows = step.rows.len();
        assert_eq!(filled.rows, rows.max(pad_to));
        assert_eq!(filled.tokens, step.num_tokens as usize + filled.rows - rows);
        assert_eq!(set.query_start_loc[filled.rows] as usize, filled.tokens);
        for at in rows..filled.rows {
            let token = set.query_start_loc[at] as usize;
            assert_eq!(
                (set.lanes[at], set.context_lens[at], set.slot_mapping[token]),
                (-1, 0, -1),
                "padding"
            );
            assert!(set.block_table[at * self.width..(at + 1) * self.width].iter().all(|&block| block == -1));
        }
        for (at, sample) in step.samples.iter().enumerate() {
            assert_eq!((set.sample_rows[at], set.sample_lanes[at]), (sample.row as i32, sample.lane));
        }
        step.rows
            .iter()
            .enumerate()
            .map(|(at, row)| {
                let tokens = set.query_start_loc[at] as usize..set.query_start_loc[at + 1] as usize;
                assert_eq!(tokens.len() as u32, row.count);
                assert_eq!((set.lanes[at], set.context_lens[at]), (row.lane, (row.start + row.count) as i32));
                let positions: Vec<i32> = (row.start as i32..(row.start + row.count) as i32).collect();
                assert_eq!(set.positions[tokens.clone()], positions);
                RowView {
                    tokens: set.token_ids[tokens.clone()].to_vec(),
                    slots: set.slot_mapping[tokens].to_vec(),
                    table: set.block_table[at * self.width..(at + 1) * self.width].to_vec(),
                }
            })
            .collect()
    }
}
