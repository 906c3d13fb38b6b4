//! The simulator: the scheduler in virtual time.
//!
//! A discrete-event loop over arrivals, planned steps and their ends. Events are ordered by (time,
//! kind, order of being made), so a run is a pure function of its inputs. The schedule is
//! `Scheduler`'s own; the simulator only says when a step is planned and when its tokens are there.

mod contiguous;
pub mod cost;
mod quantiles;
mod records;
mod replica;
mod requests;
mod router;
mod rows;
mod workload;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub use contiguous::{AddressSpace, Reservation};
pub use cost::{CostModel, Features, StepTime};
pub use quantiles::{Quantiles, Streamed};
pub use records::{StepColumns, Totals};
pub use requests::RequestColumns;
pub use router::Routing;
pub use workload::{Content, Workload};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::scheduler::Scheduler;
use records::Recorder;
use replica::{Replica, Wake};
use router::Router;
use workload::Arrivals;

/// Iterations between two looks at the clock of whoever watches.
const WATCH_EVERY: u64 = 1024;

/// How a run is simulated, beside the engine's own options.
#[derive(Debug, Clone)]
pub struct Options {
    /// Steps planned ahead of the one that runs: 0, or 1 as in an engine whose host work overlaps
    /// the device's.
    pub steps_in_flight: u32,
    pub replicas: u32,
    pub routing: Routing,
    /// Steps planned, in all replicas together, before the run is cut off.
    pub max_steps: Option<u64>,
    /// Most steps kept; beyond it every second, fourth, … step is.
    pub keep_steps: Option<u64>,
    /// Every request asks for this many tokens and stops at its output length by a token, of which
    /// the scheduler cannot know; none: it asks for its output length.
    pub max_tokens: Option<u32>,
    /// Requests get contiguous regions of this size instead of blocks.
    pub reservation: Option<Reservation>,
    /// Whether latencies and step durations are counted into quantiles as they occur.
    pub quantiles: bool,
    /// Whether every request has its entry in the records, or only counts in totals and quantiles.
    pub keep_requests: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            steps_in_flight: 0,
            replicas: 1,
            routing: Routing::RoundRobin,
            max_steps: None,
            keep_steps: None,
            max_tokens: None,
            reservation: None,
            quantiles: false,
            keep_requests: true,
        }
    }
}

impl Options {
    fn check(&self, config: &Config) -> Result<()> {
        if !self.keep_requests && config.event_log.is_some() {
            let limit = "off with keep_requests=False: it names every request";
            return Err(Error::invalid("event_log", "on", limit));
        }
        if self.reservation.is_some() && config.event_log.is_some() {
            let limit = "off with a reservation: regions are not blocks";
            return Err(Error::invalid("event_log", "on", limit));
        }
        if let (Some(_), Some(window)) = (self.reservation, config.sliding_window) {
            return Err(Error::invalid("sliding_window", window, "None with a reservation, which keeps all"));
        }
        if self.steps_in_flight > 1 {
            return Err(Error::invalid("steps_in_flight", self.steps_in_flight, "0 or 1"));
        }
        if self.replicas == 0 || self.replicas > 4096 {
            return Err(Error::invalid("replicas", self.replicas, "between 1 and 4096"));
        }
        if self.keep_steps.is_some_and(|most| most < 2) {
            return Err(Error::invalid("keep_steps", self.keep_steps.unwrap_or(0), "at least 2"));
        }
        Ok(())
    }
}

/// What a run leaves.
pub struct Outcome {
    pub requests: RequestColumns,
    /// One table a replica.
    pub steps: Vec<StepColumns>,
    pub schedulers: Vec<Scheduler>,
    /// One a replica.
    pub totals: Vec<Totals>,
    /// Where they were asked for.
    pub streamed: Option<Streamed>,
}

/// Where a run stands: what a watcher sees.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub finished: usize,
    pub iterations: u64,
    pub now_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A step ends and its tokens are there.
    Retire,
    /// The next step is planned; arrivals of the same moment come before.
    Plan,
}

/// A time that is never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// (time, kind, order of being made, replica)
type Queued = Reverse<(Time, Kind, u64, u32)>;

enum Next {
    Arrival(f64),
    Event((Time, Kind, u32)),
}

/// Makes a replica's policy.
pub type MakePolicy<'a> = &'a mut dyn FnMut(&Config) -> Box<dyn Policy>;

/// Simulates `workload` on fresh engines of `config`, each with a policy that `make_policy` makes
/// (`config.policy.build`, unless it is the caller's own). `watch` is called now and then and ends the
/// run early, with `Error::Stopped`, by returning false.
pub fn simulate(
    workload: &Workload,
    config: &Config,
    make_policy: MakePolicy<'_>,
    cost: &mut dyn CostModel,
    options: &Options,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> Result<Outcome> {
    config.check()?;
    options.check(config)?;
    workload.check(config, options)?;
    let replicas = (0..options.replicas).map(|number| Replica::new(number, config, make_policy, options));
    let run = Simulation {
        workload,
        replicas: replicas.collect(),
        router: Router::new(options.routing, options.replicas),
        arrivals: Arrivals::new(workload),
        recorder: Recorder::new(workload, options),
        heap: BinaryHeap::new(),
        at_hand: None,
        made: 0,
        planned: 0,
        max_steps: options.max_steps.unwrap_or(u64::MAX),
    };
    run.serve(cost, watch)
}

struct Simulation<'a> {
    workload: &'a Workload,
    replicas: Vec<Replica>,
    router: Router,
    arrivals: Arrivals<'a>,
    recorder: Recorder,
    heap: BinaryHeap<Queued>,
    /// The event made last, not yet in the heap.
    at_hand: Option<(Time, Kind, u32)>,
    made: u64,
    planned: u64,
    max_steps: u64,
}

impl Simulation<'_> {
    fn serve(mut self, cost: &mut dyn CostModel, watch: &mut dyn FnMut(Progress) -> bool) -> Result<Outcome> {
        let mut now = 0.0;
        while let Some(next) = self.next() {
            match next {
                Next::Arrival(at) => {
                    now = at;
                    self.arrive();
                }
                Next::Event((time, kind, replica)) => {
                    now = time.0;
                    self.happen(now, kind, replica, cost)?;
                }
            }
            self.recorder.happened += 1;
            if self.recorder.happened.is_multiple_of(WATCH_EVERY) && !watch(self.progress(now)) {
                return Err(Error::Stopped { now_s: now });
            }
        }
        watch(self.progress(now));
        let Simulation { replicas, recorder, .. } = self;
        let mut outcome = recorder.finish(&replicas);
        outcome.schedulers = replicas.into_iter().map(Replica::into_scheduler).collect();
        Ok(outcome)
    }

    /// What happens next; nothing once all is served, or the steps asked for are.
    fn next(&mut self) -> Option<Next> {
        let queued = self.heap.peek().map(|&Reverse((time, kind, _, replica))| (time, kind, replica));
        // An event just made has the last place among equals.
        let (event, is_made) = match (queued, self.at_hand) {
            (Some(queued), Some(made)) if (made.0, made.1) < (queued.0, queued.1) => (Some(made), true),
            (None, made) => (made, true),
            (queued, _) => (queued, false),
        };
        if event.is_none() && self.planned >= self.max_steps {
            return None;
        }
        match (self.arrivals.next_s(), event) {
            (None, None) => None,
            // Arrivals come after the ends of steps of the same moment, before its plans.
            (Some(at), Some((time, kind, _))) if at < time.0 || (at == time.0 && kind == Kind::Plan) => {
                Some(Next::Arrival(at))
            }
            (Some(at), None) => Some(Next::Arrival(at)),
            (_, Some(event)) => {
                if is_made {
                    self.at_hand = None;
                } else {
                    self.heap.pop();
                }
                Some(Next::Event(event))
            }
        }
    }

    fn progress(&self, now_s: f64) -> Progress {
        Progress { finished: self.recorder.finished, iterations: self.planned, now_s }
    }

    /// Mostly the event just made is the next to happen: it stays at hand, the one before it joins
    /// the heap.
    fn push(&mut self, time: f64, kind: Kind, replica: u32) {
        if let Some((time, kind, replica)) = self.at_hand.replace((Time(time), kind, replica)) {
            self.heap.push(Reverse((time, kind, self.made, replica)));
            self.made += 1;
        }
    }

    /// The next request comes, and wakes the replica that it is sent to.
    fn arrive(&mut self) {
        let Some((row, at)) = self.arrivals.pop() else { return };
        let to = self.router.route(row, self.workload);
        self.recorder.arrived(row, to, at);
        let replica = &mut self.replicas[to as usize];
        replica.inbox.push(row);
        if replica.wake_for_arrival() {
            self.push(at, Kind::Plan, to);
        }
    }

    fn happen(&mut self, now: f64, kind: Kind, at: u32, cost: &mut dyn CostModel) -> Result<()> {
        let replica = &mut self.replicas[at as usize];
        match kind {
            Kind::Retire => {
                let wakes = replica.retire(now, &mut self.recorder, self.workload)?;
                for index in 0..replica.ended.len() {
                    self.router.ended(at, replica.ended[index], self.workload);
                    self.arrivals.release(now);
                }
                replica.ended.clear();
                if wakes {
                    self.push(now, Kind::Plan, at);
                }
            }
            Kind::Plan => {
                if self.planned >= self.max_steps {
                    replica.sleep();
                    return Ok(());
                }
                let next_arrival = self.arrivals.next_s();
                let wake = replica.plan(now, next_arrival, cost, &mut self.recorder, self.workload)?;
                self.planned += u64::from(wake.planned);
                let Wake { retire, plan, .. } = wake;
                if let Some(time) = retire {
                    self.push(time, Kind::Retire, at);
                }
                if let Some(time) = plan {
                    self.push(time, Kind::Plan, at);
                }
            }
        }
        Ok(())
    }
}
