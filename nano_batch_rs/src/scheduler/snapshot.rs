//! The state of all blocks and sequences, as the event log rebuilds it.

use super::Scheduler;
use crate::events::Snapshot;
use crate::request::Status;

impl Scheduler {
    pub fn snapshot(&self) -> Snapshot {
        let (references, cached) = self.blocks.states();
        let mut live: Vec<_> = self.sequences.iter().filter(|s| s.status != Status::Vacant).collect();
        // An ended sequence is there for the blocks it still holds.
        live.retain(|s| s.status != Status::Ending || s.table().iter().any(|&block| block >= 0));
        live.sort_by_key(|s| s.uid);
        let mut snapshot = Snapshot {
            step: self.step as u32,
            event: self.log.as_ref().map_or(0, |log| log.count()),
            block_references: references,
            block_cached: cached,
            table_offsets: vec![0],
            ..Snapshot::default()
        };
        for sequence in live {
            let waiting = sequence.status == Status::Waiting;
            let state = match sequence.status {
                Status::Vacant | Status::Waiting => 0,
                Status::Running => 1,
                Status::Ending => 2,
            };
            snapshot.sequence.push(sequence.uid);
            snapshot.state.push(state);
            snapshot.stored.push(if waiting { 0 } else { sequence.planned as i32 });
            snapshot.lane.push(if state == 1 { sequence.lane } else { -1 });
            snapshot.tables.extend(sequence.table());
            snapshot.table_offsets.push(snapshot.tables.len() as i32);
        }
        snapshot
    }
}
