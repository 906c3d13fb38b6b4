//! What a simulated run leaves behind, as columns (docs/records.md).

use super::contiguous::Regions;
use super::quantiles::Quantiles;
use super::replica::Replica;
use super::{Options, Outcome, Workload};
use crate::request::FinishReason;
use crate::scheduler::{DecodeStep, Scheduler};
use crate::step::Step;

/// One entry a request that arrived, in the order of arrival.
#[derive(Debug, Default, Clone)]
pub struct RequestColumns {
    /// The workload's row.
    pub row: Vec<u32>,
    pub replica: Vec<u32>,
    /// The number of its sequence in its replica's events.
    pub sequence: Vec<u32>,
    pub arrival_s: Vec<f64>,
    pub first_scheduled_s: Vec<f64>,
    pub first_token_s: Vec<f64>,
    pub finish_s: Vec<f64>,
    pub cached_tokens: Vec<u32>,
    pub output_tokens: Vec<u32>,
    pub preemptions: Vec<u32>,
    /// 0 unfinished, 1 stop, 2 length
    pub reason: Vec<u8>,
}

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
        let wanted = self.seen % self.stride == 0;
        self.seen += 1;
        if wanted && self.step.len() as u64 >= most {
            self.thin();
            return (self.seen - 1) % self.stride == 0;
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

/// Collects a run's records while it runs; requests by their row.
pub(super) struct Recorder {
    requests: RequestColumns,
    /// Rows in the order of arrival.
    order: Vec<u32>,
    steps: Vec<StepColumns>,
    most_steps: u64,
    inter_token: Option<Quantiles>,
    durations: Quantiles,
    pub finished: usize,
    pub iterations: u64,
    scheduled_sequences: u64,
}

impl Recorder {
    pub fn new(workload: &Workload, options: &Options) -> Self {
        let rows = workload.len();
        let table = StepColumns { stride: 1, ..StepColumns::default() };
        Recorder {
            requests: RequestColumns {
                row: Vec::new(),
                replica: if options.replicas > 1 { vec![0; rows] } else { Vec::new() },
                sequence: Vec::new(),
                arrival_s: vec![f64::NAN; rows],
                first_scheduled_s: vec![f64::NAN; rows],
                first_token_s: vec![f64::NAN; rows],
                finish_s: vec![f64::NAN; rows],
                cached_tokens: vec![0; rows],
                output_tokens: vec![0; rows],
                preemptions: vec![0; rows],
                reason: vec![0; rows],
            },
            order: Vec::new(),
            steps: vec![table; options.replicas as usize],
            most_steps: options.keep_steps.unwrap_or(u64::MAX),
            inter_token: options.quantiles.then(Quantiles::default),
            durations: Quantiles::default(),
            finished: 0,
            iterations: 0,
            scheduled_sequences: 0,
        }
    }

    pub fn counts_gaps(&self) -> bool {
        self.inter_token.is_some()
    }

    pub fn gap(&mut self, seconds: f64) {
        if let Some(quantiles) = &mut self.inter_token {
            quantiles.add(seconds);
        }
    }

    pub fn arrived(&mut self, row: u32, replica: u32, at: f64) {
        self.requests.arrival_s[row as usize] = at;
        if let Some(entry) = self.requests.replica.get_mut(row as usize) {
            *entry = replica;
        }
        self.order.push(row);
    }

    pub fn arrival_s(&self, row: u32) -> f64 {
        self.requests.arrival_s[row as usize]
    }

    /// A step was planned, with `rows` the workload's rows by sequence number.
    pub fn planned(&mut self, scheduler: &Scheduler, timed: &Timed, step: &Step, rows: &[u32]) {
        for row in &step.rows[step.num_decodes..] {
            let request = rows[row.uid as usize] as usize;
            if self.requests.first_scheduled_s[request].is_nan() {
                self.requests.first_scheduled_s[request] = timed.start_s;
                // What it starts behind was cached; a static batch admits it steps before it runs.
                self.requests.cached_tokens[request] = row.start;
            }
        }
        for preempted in &step.preempted {
            self.requests.preemptions[rows[preempted.uid as usize] as usize] += 1;
        }
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
        self.scheduled_sequences += sequences;
        if self.inter_token.is_some() {
            self.durations.add(timed.duration_s);
        }
        let table = &mut self.steps[timed.replica as usize];
        if table.wants(self.most_steps) {
            table.push(scheduler, timed, step);
        }
    }

    /// A request got a token; whether it was its first.
    pub fn first_token(&mut self, row: u32, at: f64) -> bool {
        let entry = &mut self.requests.first_token_s[row as usize];
        let first = entry.is_nan();
        if first {
            *entry = at;
        }
        first
    }

    pub fn ended(&mut self, row: u32, outputs: u32, reason: FinishReason, at: f64) {
        let row = row as usize;
        self.finished += 1;
        self.requests.finish_s[row] = at;
        self.requests.output_tokens[row] = outputs;
        self.requests.reason[row] = if reason == FinishReason::Stop { 1 } else { 2 };
    }

    /// The records, requests in the order in which they arrived.
    pub fn finish(mut self, replicas: &[Replica]) -> Outcome {
        let mut numbers = vec![u32::MAX; self.requests.arrival_s.len()];
        for replica in replicas {
            for (number, &row) in replica.rows().iter().enumerate() {
                numbers[row as usize] = number as u32;
            }
            let scheduler = replica.scheduler();
            for slot in scheduler.running().iter().copied().chain(scheduler.waiting()) {
                let sequence = scheduler.sequence(slot);
                let row = replica.rows()[sequence.uid as usize];
                self.requests.output_tokens[row as usize] = sequence.outputs;
            }
        }
        // What came after the last step was planned was never given to an engine.
        self.order.retain(|&row| numbers[row as usize] != u32::MAX);
        let in_order = self.order.iter().enumerate().all(|(at, &row)| at == row as usize);
        let mut requests = self.requests;
        requests.sequence = self.order.iter().map(|&row| numbers[row as usize]).collect();
        if !in_order || self.order.len() != requests.arrival_s.len() {
            requests.arrange(&self.order);
        }
        requests.row = self.order;
        Outcome {
            requests,
            steps: self.steps,
            schedulers: Vec::new(),
            iterations: 0,
            scheduled_sequences: self.scheduled_sequences,
            inter_token: self.inter_token.unwrap_or_default(),
            durations: self.durations,
        }
    }
}

impl RequestColumns {
    fn arrange(&mut self, order: &[u32]) {
        fn take<T: Copy>(column: &mut Vec<T>, order: &[u32]) {
            if !column.is_empty() {
                *column = order.iter().map(|&row| column[row as usize]).collect();
            }
        }
        let times =
            [&mut self.arrival_s, &mut self.first_scheduled_s, &mut self.first_token_s, &mut self.finish_s];
        times.into_iter().for_each(|column| take(column, order));
        let counts =
            [&mut self.replica, &mut self.cached_tokens, &mut self.output_tokens, &mut self.preemptions];
        counts.into_iter().for_each(|column| take(column, order));
        take(&mut self.reason, order);
    }
}
