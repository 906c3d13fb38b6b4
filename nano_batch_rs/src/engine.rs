//! The scheduler behind request ids.

use std::collections::{HashMap, HashSet};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::request::{FinishReason, Request, check_token};
use crate::scheduler::Scheduler;
use crate::step::{Sample, Step};

/// A sequence that ended, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub id: String,
    pub reason: String,
}

/// The sequences that answer one request, by slot, while they live.
struct Group {
    members: Vec<u32>,
}

pub struct Engine {
    scheduler: Scheduler,
    /// Live sequences by name.
    sequences: HashMap<String, u32>,
    /// Live requests by id: of more than one member where n > 1.
    groups: HashMap<String, Group>,
    /// By slot: a sequence's name, and the request it answers.
    names: Vec<(String, String)>,
    /// By sequence number, while the event log is on.
    all_names: HashMap<u32, String>,
    /// Ids that ended since the newest step was planned: tokens may still come for them.
    gone: HashSet<String>,
    /// What ended since the newest step was planned, and in the step before.
    recent: Vec<Finished>,
    reported: Vec<Finished>,
    /// The driver's word for what `finish` ends.
    last_reason: String,
}

impl Engine {
    pub fn new(config: Config) -> Result<Self> {
        Ok(Engine {
            scheduler: Scheduler::new(config)?,
            sequences: HashMap::new(),
            groups: HashMap::new(),
            names: Vec::new(),
            all_names: HashMap::new(),
            gone: HashSet::new(),
            recent: Vec::new(),
            reported: Vec::new(),
            last_reason: String::new(),
        })
    }

    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub fn name(&self, slot: u32) -> &str {
        &self.names[slot as usize].0
    }

    /// Names of all sequences so far, by number; empty unless the event log is on.
    pub fn all_names(&self) -> &HashMap<u32, String> {
        &self.all_names
    }

    pub fn add_request(&mut self, id: &str, request: Request) -> Result<()> {
        self.check_new_id(id)?;
        let slot = self.scheduler.add(request, id)?;
        self.register(slot, id.to_owned(), id);
        Ok(())
    }

    fn check_new_id(&self, id: &str) -> Result<()> {
        if is_reserved(id) {
            return Err(Error::ReservedRequestId { id: id.to_owned() });
        }
        if self.groups.contains_key(id) {
            return Err(Error::DuplicateRequest { id: id.to_owned() });
        }
        Ok(())
    }

    fn register(&mut self, slot: u32, name: String, request: &str) {
        let at = slot as usize;
        if self.names.len() <= at {
            self.names.resize(at + 1, Default::default());
        }
        if self.scheduler.events().is_some() {
            self.all_names.insert(self.scheduler.sequence(slot).uid, name.clone());
            self.prune_names();
        }
        self.sequences.insert(name.clone(), slot);
        let group = self.groups.entry(request.to_owned()).or_insert(Group { members: Vec::new() });
        group.members.push(slot);
        self.names[at] = (name, request.to_owned());
    }

    /// Forgets the names that no kept event speaks of, once they are many.
    fn prune_names(&mut self) {
        let Some(log) = self.scheduler.events() else { return };
        if (self.all_names.len() as u64) < 2 * log.capacity().max(1024) {
            return;
        }
        let mut kept: HashSet<u32> = HashSet::new();
        for stretch in log.stretches() {
            kept.extend(&stretch.keyframe.sequence);
            kept.extend(&stretch.events.sequence);
        }
        self.all_names.retain(|uid, _| kept.contains(uid));
    }

    /// Plans a step (see `Scheduler::plan`). The sequences of an n > 1 request whose prompt ends
    /// in it are named from now on; `request_of` still tells the request.
    pub fn plan(&mut self) -> Result<()> {
        let forks = self.scheduler.plan()?.forks.clone();
        self.gone.clear();
        std::mem::swap(&mut self.reported, &mut self.recent);
        self.recent.clear();
        for (parent, child) in forks {
            let request = self.names[parent as usize].1.clone();
            if self.names[parent as usize].0 == request {
                self.unname(parent);
                self.register(parent, format!("{request}/0"), &request);
            }
            let index = self.groups[&request].members.len();
            self.register(child, format!("{request}/{index}"), &request);
        }
        Ok(())
    }

    fn unname(&mut self, slot: u32) {
        let (name, request) = std::mem::take(&mut self.names[slot as usize]);
        self.sequences.remove(&name);
        if let Some(group) = self.groups.get_mut(&request) {
            group.members.retain(|&member| member != slot);
            if group.members.is_empty() {
                self.groups.remove(&request);
            }
        }
    }

    /// The id by which the driver knows a sequence of `step`: its request's own where an n > 1
    /// prompt ends in this step.
    pub fn name_in<'a>(&'a self, step: &Step, slot: u32) -> &'a str {
        let (name, request) = &self.names[slot as usize];
        let starts = step.forks.iter().any(|&(parent, child)| parent == slot || child == slot);
        if starts { request } else { name }
    }

    /// Whether an outstanding step still awaits tokens.
    pub fn awaits_tokens(&self) -> bool {
        self.scheduler
            .outstanding()
            .iter()
            .any(|step| step.samples.iter().any(|sample| self.scheduler.awaits(sample)))
    }

    /// Retires the oldest outstanding step with tokens by request id; what ended.
    pub fn update(&mut self, mut given: HashMap<String, Vec<i64>>) -> Result<Vec<Finished>> {
        let Some(step) = self.scheduler.outstanding().front() else {
            return match given.into_keys().min() {
                Some(id) => Err(Error::NotSampled { id }),
                None => Ok(Vec::new()),
            };
        };
        let mut tokens = vec![0; step.samples.len()];
        let mut missing = Vec::new();
        for (name, samples) in self.awaited(step) {
            let Some(values) = given.remove(&name) else {
                missing.push(name);
                continue;
            };
            // Values for sequences of an n > 1 request that ended in between may be left out or not.
            let live = samples.iter().filter(|(_, live)| *live).count();
            if values.len() != samples.len() && values.len() != live {
                return Err(Error::WrongTokenCount { id: name, given: values.len(), expected: live });
            }
            let whole = values.len() == samples.len();
            let taken = samples.iter().filter(|(_, live)| *live || whole);
            for (&(at, live), value) in taken.zip(values) {
                if live {
                    tokens[at] = check_token(|| name.clone(), value)?;
                }
            }
        }
        // What is left must be for requests that ended after they were planned.
        given.retain(|id, _| !self.gone.contains(id));
        if let Some(id) = given.into_keys().min() {
            return Err(Error::NotSampled { id });
        }
        if !missing.is_empty() {
            return Err(Error::MissingTokens { ids: missing });
        }
        let number = step.number;
        self.retire(number, &tokens)
    }

    /// What a step still awaits: by name, the positions of its samples, and which of them live.
    fn awaited(&self, step: &Step) -> Vec<(String, Vec<(usize, bool)>)> {
        let first = |slot| step.forks.iter().find(|fork| fork.1 == slot).map_or(slot, |fork| fork.0);
        let mut groups: Vec<(u32, Vec<(usize, bool)>)> = Vec::with_capacity(step.samples.len());
        for (at, sample) in step.samples.iter().enumerate() {
            let leader = first(sample.slot);
            let entry = (at, self.scheduler.awaits(sample));
            // The samples of one request stand together.
            match groups.last_mut() {
                Some((last, entries)) if *last == leader && !step.forks.is_empty() => entries.push(entry),
                _ => groups.push((leader, vec![entry])),
            }
        }
        let named = |(_, samples): (u32, Vec<(usize, bool)>)| {
            let alive = samples.iter().find(|(_, live)| *live)?.0;
            Some((self.name_in(step, step.samples[alive].slot).to_owned(), samples))
        };
        groups.into_iter().filter_map(named).collect()
    }

    /// Retires outstanding step `number` with one token for each of its samples; what ended.
    pub fn update_arrays(&mut self, number: u64, tokens: &[i32]) -> Result<Vec<Finished>> {
        let expected = self.scheduler.outstanding().front().map(|step| step.number);
        let step = match self.scheduler.outstanding().front() {
            Some(step) if step.number == number => step,
            _ => return Err(Error::WrongStep { given: number, expected }),
        };
        if tokens.len() != step.samples.len() {
            let (given, expected) = (tokens.len(), step.samples.len());
            return Err(Error::WrongTokenCount { id: format!("step {number}"), given, expected });
        }
        // One pass without branches first: it is all that valid tokens need.
        if tokens.iter().fold(0, |bits, token| bits | token) < 0 {
            let wanted = |&(sample, token): &(&Sample, &i32)| *token < 0 && self.scheduler.awaits(sample);
            if let Some((sample, &token)) = step.samples.iter().zip(tokens).find(wanted) {
                return Err(Error::token(self.name(sample.slot), token));
            }
        }
        self.retire(number, tokens)
    }

    fn retire(&mut self, number: u64, tokens: &[i32]) -> Result<Vec<Finished>> {
        let step = self.scheduler.retire(number, tokens)?;
        self.scheduler.recycle(step);
        Ok(self.name_ended())
    }

    fn name_ended(&mut self) -> Vec<Finished> {
        if !self.scheduler.any_ended() {
            return Vec::new();
        }
        let ended = self.scheduler.take_ended();
        let named: Vec<Finished> = ended
            .into_iter()
            .map(|ended| {
                let id = self.names[ended.slot as usize].0.clone();
                let request = self.names[ended.slot as usize].1.clone();
                self.unname(ended.slot);
                if !self.scheduler.outstanding().is_empty() {
                    self.gone.insert(id.clone());
                    self.gone.insert(request);
                }
                let reason = match ended.reason {
                    FinishReason::Stop => "stop".to_owned(),
                    FinishReason::Length => "length".to_owned(),
                    FinishReason::Abort => "abort".to_owned(),
                    FinishReason::Other => self.last_reason.clone(),
                };
                Finished { id, reason }
            })
            .collect();
        self.recent.extend_from_slice(&named);
        named
    }

    /// What ended between the last two steps planned.
    pub fn reported(&self) -> &[Finished] {
        &self.reported
    }

    /// Ends a request (all its sequences) or one sequence; what ended.
    pub fn finish(&mut self, id: &str, reason: &str, keep: Option<u32>) -> Result<Vec<Finished>> {
        let members = match self.groups.get(id) {
            Some(group) => group.members.clone(),
            None => vec![self.slot(id)?],
        };
        let known = match reason {
            "stop" => FinishReason::Stop,
            "length" => FinishReason::Length,
            "abort" => FinishReason::Abort,
            _ => FinishReason::Other,
        };
        if let Some(keep) = keep {
            for &slot in &members {
                let outputs = self.scheduler.sequence(slot).outputs;
                if keep > outputs {
                    let limit =
                        format!("at most the {outputs} output tokens of {:?} so far", self.name(slot));
                    return Err(Error::invalid("keep", keep, limit));
                }
            }
        }
        self.last_reason = reason.to_owned();
        for slot in members {
            self.scheduler.finish(slot, known, keep)?;
        }
        Ok(self.name_ended())
    }

    fn slot(&self, id: &str) -> Result<u32> {
        let slot = self.sequences.get(id).copied();
        slot.ok_or_else(|| Error::UnknownRequest { id: id.to_owned() })
    }

    /// A copy of sequence `id` under a new id (see `Scheduler::fork`); its lane, if it has one.
    pub fn fork(&mut self, id: &str, new_id: &str) -> Result<Option<i32>> {
        self.check_new_id(new_id)?;
        let parent = self.slot(id)?;
        let child = self.scheduler.fork(parent, id)?;
        self.register(child, new_id.to_owned(), new_id);
        let lane = self.scheduler.sequence(child).lane;
        Ok((lane >= 0).then_some(lane))
    }
}

/// Whether an id has the form `name/number`.
fn is_reserved(id: &str) -> bool {
    id.rsplit_once('/')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
