//! What is asked of a simulated engine: lengths, and where a trace knows them, block ids.

use std::collections::VecDeque;

use super::Options;
use super::contiguous::Gate;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::request::{Prompt, Request};

/// A trace's block ids of `size` tokens each: those of request i from `offsets[i]` to
/// `offsets[i + 1]`.
#[derive(Debug, Clone)]
pub struct Content {
    pub offsets: Vec<u64>,
    pub ids: Vec<u32>,
    pub size: u32,
}

/// Requests as columns. `arrival_s` ascends; NaN from some row on means a closed loop: the end of
/// any request releases the next such row.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    pub arrival_s: Vec<f64>,
    pub prompt_tokens: Vec<u32>,
    pub output_tokens: Vec<u32>,
    pub content: Option<Content>,
}

/// Ends a request whose length the scheduler does not know.
pub const STOP_TOKEN: i32 = 1;
pub const OTHER_TOKEN: i32 = 0;

impl Workload {
    pub fn len(&self) -> usize {
        self.arrival_s.len()
    }

    pub fn is_empty(&self) -> bool {
        self.arrival_s.is_empty()
    }

    /// Refuses what could never be served, before anything runs.
    pub fn check(&self, config: &Config, options: &Options) -> Result<()> {
        let (prompts, outputs) = (self.prompt_tokens.len(), self.output_tokens.len());
        if prompts != self.len() || outputs != self.len() || self.len() > u32::MAX as usize {
            let limit = format!("as many as arrival_s ({}) and at most {}", self.len(), u32::MAX);
            return Err(Error::invalid("rows of the workload", format!("{prompts} and {outputs}"), limit));
        }
        let timed = self.arrival_s.iter().take_while(|time| !time.is_nan());
        if let Some(time) = timed.clone().find(|time| !time.is_finite() || **time < 0.0) {
            return Err(Error::invalid("arrival_s", time, "finite and at least 0, or NaN in a closed loop"));
        }
        if !timed.is_sorted() {
            return Err(Error::invalid("arrival_s", "not ascending", "in order of time"));
        }
        for row in 0..self.len() {
            let name = || format!("r{row}");
            if let Some(most) = options.max_tokens
                && self.output_tokens[row] > most
            {
                return Err(Error::invalid("max_tokens", most, "at least every request's output length")
                    .in_request(&name()));
            }
            let request = self.lengths(row as u32, options);
            let fits = match options.reservation {
                None => request.check("", config),
                Some(reservation) => {
                    let (prompt, output) = (self.prompt_tokens[row], request.max_tokens);
                    let space = || Gate::check(reservation, prompt, output, config);
                    request.check("", &Gate::ample(config)).and_then(|()| space())
                }
            };
            fits.map_err(|error| error.renamed(&name()))?;
        }
        Ok(())
    }

    /// A request without its content, which checks the same but for the content itself.
    fn lengths(&self, row: u32, options: &Options) -> Request {
        let row = row as usize;
        let max_tokens = options.max_tokens.unwrap_or(self.output_tokens[row]);
        Request::new(Prompt::Length(self.prompt_tokens[row]), max_tokens)
    }

    /// The block ids of a request's prompt.
    pub fn ids(&self, row: u32) -> Option<&[u32]> {
        let content = self.content.as_ref()?;
        let range = content.offsets[row as usize] as usize..content.offsets[row as usize + 1] as usize;
        Some(&content.ids[range])
    }

    /// A request as the scheduler takes it.
    pub fn request(&self, row: u32, arrival: f64, options: &Options) -> Request {
        let mut request = self.lengths(row, options);
        request.arrival = arrival;
        if options.max_tokens.is_some() {
            request.stop_token_ids = vec![STOP_TOKEN];
        }
        if let (Some(ids), Some(content)) = (self.ids(row), &self.content) {
            let len = self.prompt_tokens[row as usize];
            request.prompt = Prompt::Blocks { ids: ids.to_vec(), size: content.size, len };
        }
        request
    }
}

/// The requests to come, in order.
pub(super) struct Arrivals<'a> {
    times: &'a [f64],
    /// The next row with a time of its own, and the end of those.
    next: usize,
    timed: usize,
    /// The next row that waits for a user.
    waiting: usize,
    released: VecDeque<(u32, f64)>,
}

impl<'a> Arrivals<'a> {
    pub fn new(workload: &'a Workload) -> Self {
        let times = &workload.arrival_s[..];
        let timed = times.iter().position(|time| time.is_nan()).unwrap_or(times.len());
        Arrivals { times, next: 0, timed, waiting: timed, released: VecDeque::new() }
    }

    pub fn next_s(&self) -> Option<f64> {
        match (self.timed(), self.released.front()) {
            (Some(timed), Some(&(_, released))) => Some(timed.min(released)),
            (timed, released) => timed.or(released.map(|&(_, time)| time)),
        }
    }

    fn timed(&self) -> Option<f64> {
        (self.next < self.timed).then(|| self.times[self.next])
    }

    pub fn pop(&mut self) -> Option<(u32, f64)> {
        let released = self.released.front().map(|&(_, time)| time);
        match self.timed() {
            Some(timed) if released.is_none_or(|released| timed <= released) => {
                self.next += 1;
                Some((self.next as u32 - 1, timed))
            }
            _ => self.released.pop_front(),
        }
    }

    /// A request ended at `now`: its user asks for the next.
    pub fn release(&mut self, now: f64) {
        if self.waiting < self.times.len() {
            self.released.push_back((self.waiting as u32, now));
            self.waiting += 1;
        }
    }
}
