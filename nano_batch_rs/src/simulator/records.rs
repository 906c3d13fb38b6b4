//! What a simulated run leaves behind, as columns (docs/records.md).

use super::contiguous::Regions;
use super::quantiles::Streamed;
use super::replica::Replica;
use super::requests::Noted;
use super::rows::Rows;
use super::{Options, Outcome, Workload};
use crate::request::FinishReason;
use crate::scheduler::{DecodeStep, Scheduler};
use crate::step::Step;

/// One entry a step kept.
#[derive(Debug, Default, Clone)]
pub struct StepColumns {
    pub step: Vec<u32>,
    pub start_s: Vec<f64>,
    pub duration_s: Vec<f64>,
    pub prefill_tokens: Vec<u32>,
    pub decode_tokens: Vec<u32>,
    pub running: Vec<u32>,
    pub waiting: Vec<u32>,
    pub blocks_used: Vec<u32>,
    pub blocks_cached: Vec<u32>,
    pub blocks_free: Vec<u32>,
    pub slots_used: Vec<u64>,
    pub slots_reserved: Vec<u64>,
    pub slots_internal: Vec<u64>,
    /// Free slots in gaps too small for `slots_wanted`, which the first waiting request wants of a
    /// contiguous allocator; 0 under paging, where any free block serves.
    pub slots_external: Vec<u64>,
    pub slots_wanted: Vec<u64>,
    /// The largest gap; 0 under paging.
    pub slots_largest_hole: Vec<u64>,
    pub preemptions: Vec<u32>,
    /// Every so many steps one is kept.
    pub stride: u64,
    seen: u64,
}

impl StepColumns {
    /// Whether the next step is one to keep.
    fn wants(&mut self, most: u64) -> bool {
        let wanted = self.seen.is_multiple_of(self.stride);
        self.seen += 1;
        if wanted && self.step.len() as u64 >= most {
            self.thin();
            return (self.seen - 1).is_multiple_of(self.stride);
        }
        wanted
    }

    /// Drops every second step.
    fn thin(&mut self) {
        fn halve<T: Copy>(column: &mut Vec<T>) {
            for at in 0..column.len().div_ceil(2) {
                column[at] = column[2 * at];
            }
            column.truncate(column.len().div_ceil(2));
        }
        self.stride *= 2;
        for column in [&mut self.start_s, &mut self.duration_s] {
            halve(column);
        }
        for column in [
            &mut self.slots_used,
            &mut self.slots_reserved,
            &mut self.slots_internal,
            &mut self.slots_external,
            &mut self.slots_wanted,
            &mut self.slots_largest_hole,
        ] {
            halve(column);
        }
        for column in [
            &mut self.step,
            &mut self.prefill_tokens,
            &mut self.decode_tokens,
            &mut self.running,
            &mut self.waiting,
            &mut self.blocks_used,
            &mut self.blocks_cached,
            &mut self.blocks_free,
            &mut self.preemptions,
        ] {
            halve(column);
        }
    }

    fn push(&mut self, scheduler: &Scheduler, timed: &Timed, step: &Planned) {
        self.step.push(step.number as u32);
        self.start_s.push(timed.start_s);
        self.duration_s.push(timed.duration_s);
        self.prefill_tokens.push(step.prefill_tokens);
        self.decode_tokens.push(step.decode_tokens);
        self.running.push(scheduler.num_running() as u32);
        self.preemptions.push(step.preemptions);
        let slots = scheduler.slots();
        self.slots_used.push(slots.used);
        let waiting = scheduler.num_waiting() as u32;
        let Some(regions) = timed.regions else {
            let blocks = scheduler.blocks();
            self.waiting.push(waiting);
            self.push_blocks(blocks.num_used(), blocks.num_cached(), blocks.num_free());
            self.push_slots(slots.reserved, slots.internal, [0; 3]);
            return;
        };
        self.waiting.push(waiting + regions.held);
        // A contiguous memory is told in blocks of one slot.
        self.push_blocks(regions.taken as u32, 0, (regions.size - regions.taken) as u32);
        let external = [regions.external, regions.wanted, regions.largest_hole];
        self.push_slots(regions.ends - slots.used, regions.taken - regions.ends, external);
    }

    fn push_blocks(&mut self, used: u32, cached: u32, free: u32) {
        self.blocks_used.push(used);
        self.blocks_cached.push(cached);
        self.blocks_free.push(free);
    }

    fn push_slots(&mut self, reserved: u64, internal: u64, [external, wanted, gap]: [u64; 3]) {
        self.slots_reserved.push(reserved);
        self.slots_internal.push(internal);
        self.slots_external.push(external);
        self.slots_wanted.push(wanted);
        self.slots_largest_hole.push(gap);
    }
}

/// Where and when a step runs.
pub(super) struct Timed {
    pub replica: u32,
    pub regions: Option<Regions>,
    pub start_s: f64,
    pub duration_s: f64,
}

/// What a step's table takes of the step itself.
struct Planned {
    number: u64,
    prefill_tokens: u32,
    decode_tokens: u32,
    preemptions: u32,
}

/// What a replica's run comes to, whatever else of it is kept.
#[derive(Debug, Default, Clone)]
pub struct Totals {
    /// Planned steps.
    pub iterations: u64,
    pub scheduled_sequences: u64,
    /// Given to the replica.
    pub requests: u64,
    pub finished: u64,
    pub output_tokens: u64,
    pub cached_tokens: u64,
    pub preemptions: u64,
    /// When the last step ends.
    pub end_s: f64,
}

/// Collects a run's records while it runs.
pub(super) struct Recorder {
    requests: Noted,
    steps: Vec<StepColumns>,
    most_steps: u64,
    streamed: Option<Streamed>,
    totals: Vec<Totals>,
    pub finished: usize,
    /// Events that happened: arrivals, plans and ends of steps.
    pub happened: u64,
}

impl Recorder {
    pub fn new(workload: &Workload, options: &Options) -> Self {
        let table = StepColumns { stride: 1, ..StepColumns::default() };
        Recorder {
            requests: Noted::new(workload.len(), options),
            steps: vec![table; options.replicas as usize],
            most_steps: options.keep_steps.unwrap_or(u64::MAX),
            streamed: options.quantiles.then(Streamed::default),
            totals: vec![Totals::default(); options.replicas as usize],
            finished: 0,
            happened: 0,
        }
    }

    pub fn streams(&self) -> bool {
        self.streamed.is_some()
    }

    pub fn gap(&mut self, seconds: f64) {
        if let Some(streamed) = &mut self.streamed {
            streamed.inter_token.add(seconds);
        }
    }

    pub fn arrived(&mut self, row: u32, replica: u32, at: f64) {
        self.requests.arrived(row, replica, at);
    }

    pub fn arrival_s(&self, row: u32) -> f64 {
        self.requests.columns.arrival_s[self.requests.place(row)]
    }

    /// A step was planned, with `rows` the workload's rows by sequence number.
    pub fn planned(&mut self, scheduler: &Scheduler, timed: &Timed, step: &Step, rows: &Rows) {
        let totals = &mut self.totals[timed.replica as usize];
        for row in &step.rows[step.num_decodes..] {
            let at = self.requests.place(rows.of(row.uid));
            let columns = &mut self.requests.columns;
            if columns.first_scheduled_s[at].is_nan() {
                columns.first_scheduled_s[at] = timed.start_s;
                // What it starts behind was cached; a static batch admits it steps before it runs.
                columns.cached_tokens[at] = row.start;
                totals.cached_tokens += u64::from(row.start);
            }
        }
        for preempted in &step.preempted {
            let at = self.requests.place(rows.of(preempted.uid));
            self.requests.columns.preemptions[at] += 1;
        }
        totals.preemptions += step.preempted.len() as u64;
        let decodes = step.num_decodes as u32;
        let planned = Planned {
            number: step.number,
            prefill_tokens: step.num_tokens - decodes,
            decode_tokens: decodes,
            preemptions: step.preempted.len() as u32,
        };
        self.note(scheduler, timed, &planned, step.rows.len() as u64);
    }

    /// A step of decodes alone was planned.
    pub fn planned_decodes(&mut self, scheduler: &Scheduler, timed: &Timed, step: &DecodeStep) {
        let planned = Planned {
            number: step.number,
            prefill_tokens: 0,
            decode_tokens: step.sequences as u32,
            preemptions: 0,
        };
        self.note(scheduler, timed, &planned, step.sequences);
    }

    fn note(&mut self, scheduler: &Scheduler, timed: &Timed, step: &Planned, sequences: u64) {
        let totals = &mut self.totals[timed.replica as usize];
        totals.iterations += 1;
        totals.scheduled_sequences += sequences;
        totals.end_s = totals.end_s.max(timed.start_s + timed.duration_s);
        if let Some(streamed) = &mut self.streamed {
            streamed.durations.add(timed.duration_s);
        }
        let table = &mut self.steps[timed.replica as usize];
        if table.wants(self.most_steps) {
            table.push(scheduler, timed, step);
        }
    }

    /// A request got a token; whether it was its first.
    pub fn first_token(&mut self, row: u32, at: f64) -> bool {
        let place = self.requests.place(row);
        let columns = &mut self.requests.columns;
        let first = columns.first_token_s[place].is_nan();
        if first {
            columns.first_token_s[place] = at;
            if let Some(streamed) = &mut self.streamed {
                streamed.ttft.add(at - columns.arrival_s[place]);
            }
        }
        first
    }

    pub fn ended(&mut self, row: u32, replica: u32, outputs: u32, reason: FinishReason, at: f64) {
        let place = self.requests.place(row);
        let columns = &mut self.requests.columns;
        columns.finish_s[place] = at;
        columns.output_tokens[place] = outputs;
        columns.reason[place] = if reason == FinishReason::Stop { 1 } else { 2 };
        if let Some(streamed) = &mut self.streamed {
            streamed.ended(columns.arrival_s[place], columns.first_token_s[place], at, outputs);
        }
        self.finished += 1;
        let totals = &mut self.totals[replica as usize];
        totals.finished += 1;
        totals.output_tokens += u64::from(outputs);
        self.requests.ended(row);
    }

    /// The records, requests in the order in which they arrived.
    pub fn finish(mut self, replicas: &[Replica]) -> Outcome {
        for (replica, totals) in replicas.iter().zip(&mut self.totals) {
            totals.requests = replica.rows().count();
            let scheduler = replica.scheduler();
            for slot in scheduler.running().iter().copied().chain(scheduler.waiting()) {
                let sequence = scheduler.sequence(slot);
                let place = self.requests.place(replica.rows().of(sequence.uid));
                self.requests.columns.output_tokens[place] = sequence.outputs;
                totals.output_tokens += u64::from(sequence.outputs);
            }
        }
        Outcome {
            requests: self.requests.finish(replicas.iter().map(Replica::rows)),
            steps: self.steps,
            schedulers: Vec::new(),
            totals: self.totals,
            streamed: self.streamed,
        }
    }
}
