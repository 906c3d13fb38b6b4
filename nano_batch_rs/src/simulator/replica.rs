//! One engine in virtual time: its scheduler, and the steps it has under way.

use std::collections::VecDeque;

use super::contiguous::Gate;
use super::cost::{CostModel, Features, StepTime};
use super::records::{Recorder, Timed};
use super::rows::Rows;
use super::workload::{OTHER_TOKEN, STOP_TOKEN, Workload};
use super::{MakePolicy, Options};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::request::Sequence;
use crate::scheduler::{DecodeStep, Scheduler};

/// Steps without rows in a row after which a replica with unfinished requests counts as stalled:
/// a step may only move blocks, and the step after it then schedules something.
const MAX_EMPTY_STEPS: u32 = 16;

/// What happens next on a replica that has just planned.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Wake {
    /// When the step planned ends.
    pub retire: Option<f64>,
    /// When to plan the next.
    pub plan: Option<f64>,
    /// Whether a step was planned that counts.
    pub planned: bool,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    number: u64,
    end: f64,
    /// Planned without a record of its rows.
    decodes: bool,
}

pub(super) struct Replica {
    number: u32,
    scheduler: Scheduler,
    /// Under a contiguous allocator: who waits for a region.
    gate: Option<Gate>,
    config: Config,
    options: Options,
    /// Routed here since the last plan.
    pub inbox: Vec<u32>,
    rows: Rows,
    /// By slot: when the sequence there got its newest token.
    token_s: Vec<f64>,
    in_flight: VecDeque<InFlight>,
    plans_ahead: bool,
    /// A plan is due; no arrival needs to ask for one.
    plan_due: bool,
    empty_steps: u32,
    /// Requests that the last retired step ended.
    pub ended: Vec<u32>,
    tokens: Vec<i32>,
}

impl Replica {
    pub fn new(number: u32, config: &Config, make_policy: MakePolicy<'_>, options: &Options) -> Self {
        let own = match options.reservation {
            None => config.clone(),
            Some(_) => Gate::ample(config),
        };
        let policy = make_policy(&own);
        Replica {
            number,
            scheduler: Scheduler::with_policy(own, policy),
            gate: options.reservation.map(|reservation| Gate::new(reservation, config)),
            config: config.clone(),
            options: options.clone(),
            inbox: Vec::new(),
            rows: Rows::new(!options.keep_requests),
            token_s: Vec::new(),
            in_flight: VecDeque::new(),
            plans_ahead: options.steps_in_flight > 0,
            plan_due: false,
            empty_steps: 0,
            ended: Vec::new(),
            tokens: Vec::new(),
        }
    }

    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub fn into_scheduler(self) -> Scheduler {
        self.scheduler
    }

    /// The workload's rows by sequence number.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Whether an arrival must have a plan made: nothing is under way that will lead to one.
    pub fn wake_for_arrival(&mut self) -> bool {
        let wakes = !self.plan_due && self.in_flight.is_empty();
        self.plan_due |= wakes;
        wakes
    }

    /// No plan is made although one was due.
    pub fn sleep(&mut self) {
        self.plan_due = false;
    }

    fn add_arrived(&mut self, recorder: &Recorder, workload: &Workload) -> Result<()> {
        for row in std::mem::take(&mut self.inbox) {
            match &mut self.gate {
                None => self.add(row, recorder, workload)?,
                Some(gate) => {
                    let request = workload.request(row, recorder.arrival_s(row), &self.options);
                    gate.arrive(row, request.prompt.len() as u32, request.max_tokens, &self.config);
                }
            }
        }
        while let Some(gate) = &mut self.gate
            && let Some(row) = gate.admit(self.config.max_num_seqs)
        {
            self.add(row, recorder, workload)?;
        }
        Ok(())
    }

    fn add(&mut self, row: u32, recorder: &Recorder, workload: &Workload) -> Result<()> {
        let request = workload.request(row, recorder.arrival_s(row), &self.options);
        self.scheduler.add(request, "").map_err(|error| error.renamed(&format!("r{row}")))?;
        self.rows.push(row);
        Ok(())
    }

    /// Plans a step at `now`. `next_arrival`: when any request comes next, if one does.
    pub fn plan(
        &mut self,
        now: f64,
        next_arrival: Option<f64>,
        cost: &mut dyn CostModel,
        recorder: &mut Recorder,
        workload: &Workload,
    ) -> Result<Wake> {
        self.plan_due = false;
        self.add_arrived(recorder, workload)?;
        if !self.scheduler.has_unfinished() {
            return Ok(Wake::default());
        }
        self.scheduler.set_now(now);
        if !self.plans_ahead
            && let Some(decodes) = self.scheduler.plan_decodes()
        {
            return self.start_decodes(now, &decodes, cost, recorder);
        }
        let step = self.scheduler.plan()?;
        if step.rows.is_empty() {
            // With a step under way its end brings the next plan.
            if !self.in_flight.is_empty() {
                return Ok(Wake::default());
            }
            self.empty_steps += 1;
            if let Some(at) = next_arrival {
                self.plan_due = true;
                return Ok(Wake { plan: Some(at), ..Wake::default() });
            }
            if self.empty_steps > MAX_EMPTY_STEPS {
                return Err(Error::Stalled {
                    waiting: self.scheduler.num_waiting(),
                    running: self.scheduler.num_running(),
                    empty: self.empty_steps,
                    limit: MAX_EMPTY_STEPS,
                });
            }
        } else {
            self.empty_steps = 0;
        }
        self.start(now, cost, recorder)
    }

    /// The same as `start` for a step of decodes alone.
    fn start_decodes(
        &mut self,
        now: f64,
        decodes: &DecodeStep,
        cost: &mut dyn CostModel,
        recorder: &mut Recorder,
    ) -> Result<Wake> {
        let StepTime { host_s, device_s } = cost.step_time(&Features::of_decodes(decodes))?.checked()?;
        let duration = host_s + device_s;
        recorder.planned_decodes(&self.scheduler, &self.timed(now, duration), decodes);
        let end = now + duration;
        self.empty_steps = 0;
        self.in_flight.push_back(InFlight { number: decodes.number, end, decodes: true });
        Ok(Wake { retire: Some(end), planned: true, ..Wake::default() })
    }

    /// Times the step just planned and notes what it is.
    fn start(&mut self, now: f64, cost: &mut dyn CostModel, recorder: &mut Recorder) -> Result<Wake> {
        let empty = Default::default();
        let step = self.scheduler.newest_step().unwrap_or(&empty);
        let features = Features::of(&self.scheduler, step);
        let StepTime { host_s, device_s } = cost.step_time(&features)?.checked()?;
        let (start, duration) = if self.plans_ahead {
            let free = self.in_flight.back().map_or(now, |step| step.end);
            (free.max(now + host_s), device_s)
        } else {
            (now, host_s + device_s)
        };
        let end = start + duration;
        recorder.planned(&self.scheduler, &self.timed(start, duration), step, &self.rows);
        if step.rows.is_empty() {
            self.plan_due = true;
            return Ok(Wake { plan: Some(end), planned: true, ..Wake::default() });
        }
        self.in_flight.push_back(InFlight { number: step.number, end, decodes: false });
        let mut wake = Wake { retire: Some(end), planned: true, ..Wake::default() };
        if self.plans_ahead {
            self.plan_due = true;
            wake.plan = Some(start);
        }
        Ok(wake)
    }

    fn timed(&self, start_s: f64, duration_s: f64) -> Timed {
        let regions = self.gate.as_ref().map(Gate::regions);
        Timed { replica: self.number, regions, start_s, duration_s }
    }

    /// Gives the oldest step under way its tokens. Whether a plan is to follow.
    pub fn retire(&mut self, now: f64, recorder: &mut Recorder, workload: &Workload) -> Result<bool> {
        let Some(InFlight { number, decodes, .. }) = self.in_flight.pop_front() else { return Ok(false) };
        if decodes {
            self.note_gaps(now, recorder);
            let (rows, stops) = (&self.rows, self.options.max_tokens.is_some());
            self.scheduler.retire_decodes(|sequence| match stops {
                true => token_of(sequence, workload.output_tokens[rows.of(sequence.uid) as usize]),
                false => OTHER_TOKEN,
            });
        } else {
            self.make_tokens(workload);
            self.note_tokens(now, recorder);
            let step = self.scheduler.retire(number, &self.tokens)?;
            self.scheduler.recycle(step);
        }
        if self.scheduler.any_ended() {
            for ended in self.scheduler.take_ended() {
                let row = self.rows.of(ended.uid);
                recorder.ended(row, self.number, ended.outputs, ended.reason, now);
                self.rows.ended(ended.uid);
                self.ended.push(row);
                if let Some(gate) = &mut self.gate {
                    gate.leave(row);
                }
            }
        }
        let wakes = !self.plan_due;
        self.plan_due = true;
        Ok(wakes)
    }

    /// A token for each sample of the oldest step: it matters only where a token ends a request.
    fn make_tokens(&mut self, workload: &Workload) {
        let Some(step) = self.scheduler.outstanding().front() else { return };
        self.tokens.clear();
        self.tokens.resize(step.samples.len(), OTHER_TOKEN);
        if self.options.max_tokens.is_none() {
            return;
        }
        for (token, sample) in self.tokens.iter_mut().zip(&step.samples) {
            // An ended one keeps its slot until the last step under way with it.
            if self.scheduler.awaits(sample) {
                let sequence = self.scheduler.sequence(sample.slot);
                *token = token_of(sequence, workload.output_tokens[self.rows.of(sample.uid) as usize]);
            }
        }
    }

    /// Every running sequence gets a token at `now`.
    fn note_gaps(&mut self, now: f64, recorder: &mut Recorder) {
        if recorder.streams() {
            for &slot in self.scheduler.running() {
                recorder.gap(now - self.token_s[slot as usize]);
                self.token_s[slot as usize] = now;
            }
        }
    }

    /// First tokens, and where they are counted the gaps between tokens.
    fn note_tokens(&mut self, now: f64, recorder: &mut Recorder) {
        let Some(step) = self.scheduler.outstanding().front() else { return };
        let awaited = step.samples.iter().filter(|sample| self.scheduler.awaits(sample));
        if recorder.streams() {
            for sample in awaited {
                let slot = sample.slot as usize;
                if self.token_s.len() <= slot {
                    self.token_s.resize(slot + 1, 0.0);
                }
                let row = self.rows.of(sample.uid);
                if !recorder.first_token(row, now) {
                    recorder.gap(now - self.token_s[slot]);
                }
                self.token_s[slot] = now;
            }
            return;
        }
        // Decodes come first and have had their first token.
        for sample in awaited.rev().take_while(|sample| sample.row as usize >= step.num_decodes) {
            recorder.first_token(self.rows.of(sample.uid), now);
        }
    }
}

/// The token that ends a request at its output length.
fn token_of(sequence: &Sequence, output: u32) -> i32 {
    if sequence.outputs + 1 == output { STOP_TOKEN } else { OTHER_TOKEN }
}
