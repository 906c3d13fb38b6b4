//! The allocators that paging replaced: one region of neighbouring token slots for each request,
//! reserved whole when it is admitted, found by first fit.
//!
//! The three ways to size a region are those that the vLLM paper (Kwon et al., SOSP 2023, §6.1)
//! compares with. Batching is the scheduler's own; only admission waits for a region.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::config::{Choice, Config};
use crate::error::{Error, Result};

/// How many slots a request reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// The longest any request may become: `max_model_len`.
    Max,
    /// Its prompt and the next power of two above its output: a guess at most twice too long.
    Pow2,
    /// Exactly what it will store: nobody can know that.
    Oracle,
}

impl Choice for Reservation {
    const NAME: &'static str = "reservation";
    const CHOICES: &'static [(&'static str, Self)] =
        &[("max", Reservation::Max), ("pow2", Reservation::Pow2), ("oracle", Reservation::Oracle)];
}

impl Reservation {
    /// Slots reserved for a request of `prompt` and `output` tokens.
    pub fn slots(self, prompt: u32, output: u32, config: &Config) -> u64 {
        let (prompt, output) = (u64::from(prompt), u64::from(output));
        match self {
            Reservation::Max => config.max_model_len.map_or(u64::MAX, u64::from),
            Reservation::Pow2 => prompt + output.next_power_of_two(),
            Reservation::Oracle => prompt + output - 1,
        }
    }
}

/// Free and taken stretches of one address space.
#[derive(Debug)]
pub struct AddressSpace {
    /// Start to length; no two touch.
    gaps: BTreeMap<u64, u64>,
    size: u64,
    taken: u64,
}

impl AddressSpace {
    pub fn new(size: u64) -> Self {
        AddressSpace { gaps: BTreeMap::from([(0, size)]), size, taken: 0 }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The first gap that `slots` fit into, from its beginning; where it starts.
    pub fn take(&mut self, slots: u64) -> Option<u64> {
        let (start, len) = self.gaps.iter().find(|&(_, &len)| len >= slots).map(|(&at, &len)| (at, len))?;
        self.gaps.remove(&start);
        if len > slots {
            self.gaps.insert(start + slots, len - slots);
        }
        self.taken += slots;
        Some(start)
    }

    /// Gives back what `take` gave, and joins it with the gaps beside it.
    pub fn give(&mut self, start: u64, slots: u64) {
        let (mut from, mut to) = (start, start + slots);
        if let Some((&before, &len)) = self.gaps.range(..start).next_back()
            && before + len == start
        {
            self.gaps.remove(&before);
            from = before;
        }
        if let Some(len) = self.gaps.remove(&to) {
            to += len;
        }
        self.gaps.insert(from, to - from);
        self.taken -= slots;
    }

    pub fn largest_hole(&self) -> u64 {
        self.gaps.values().copied().max().unwrap_or(0)
    }

    /// Free slots in gaps too small for `wanted`: external fragmentation. 0 where nothing is wanted.
    pub fn external(&self, wanted: u64) -> u64 {
        self.gaps.values().filter(|&&len| len < wanted).sum()
    }
}

/// What a step finds of a contiguous memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Regions {
    pub size: u64,
    pub taken: u64,
    /// What the requests in memory will have stored at their ends.
    pub ends: u64,
    pub external: u64,
    pub largest_hole: u64,
    /// What the first waiting request wants; 0 while none waits.
    pub wanted: u64,
    /// Requests that wait for a region.
    pub held: u32,
}

#[derive(Debug, Clone, Copy)]
struct Asking {
    row: u32,
    slots: u64,
    end: u64,
}

/// Holds requests back until there is a region for them, first come, first served.
pub(super) struct Gate {
    reservation: Reservation,
    space: AddressSpace,
    held: VecDeque<Asking>,
    /// By row: start and size of its region, and its length at the end.
    regions: HashMap<u32, (u64, Asking)>,
    ends: u64,
}

impl Gate {
    pub fn new(reservation: Reservation, config: &Config) -> Self {
        let size = u64::from(config.num_blocks) * u64::from(config.block_size);
        Gate {
            reservation,
            space: AddressSpace::new(size),
            held: VecDeque::new(),
            regions: HashMap::new(),
            ends: 0,
        }
    }

    /// Refuses a request that no empty memory could hold.
    pub fn check(reservation: Reservation, prompt: u32, output: u32, config: &Config) -> Result<()> {
        if reservation == Reservation::Max && config.max_model_len.is_none() {
            let limit = "given with reservation=\"max\", which reserves as much";
            return Err(Error::invalid("max_model_len", "None", limit));
        }
        let slots = reservation.slots(prompt, output, config);
        let size = u64::from(config.num_blocks) * u64::from(config.block_size);
        if slots > size {
            let what = "slots of one region (reservation; num_blocks x block_size)";
            return Err(Error::RequestTooLarge { id: String::new(), what, value: slots, limit: size });
        }
        Ok(())
    }

    /// Engine options under which the scheduler itself never lacks a block.
    pub fn ample(config: &Config) -> Config {
        const BLOCK: u32 = 256;
        let size = u64::from(config.num_blocks) * u64::from(config.block_size);
        let blocks = size / u64::from(BLOCK) + 2 * u64::from(config.max_num_seqs) + 1;
        Config {
            num_blocks: u32::try_from(blocks).unwrap_or(i32::MAX as u32),
            block_size: BLOCK,
            enable_prefix_caching: false,
            watermark: 0.0,
            ..config.clone()
        }
    }

    pub fn arrive(&mut self, row: u32, prompt: u32, output: u32, config: &Config) {
        let slots = self.reservation.slots(prompt, output, config);
        let end = u64::from(prompt) + u64::from(output) - 1;
        self.held.push_back(Asking { row, slots, end });
    }

    /// The next request that gets a region, while fewer than `most` have one.
    pub fn admit(&mut self, most: u32) -> Option<u32> {
        if self.regions.len() >= most as usize {
            return None;
        }
        let asking = *self.held.front()?;
        let start = self.space.take(asking.slots)?;
        self.held.pop_front();
        self.regions.insert(asking.row, (start, asking));
        self.ends += asking.end;
        Some(asking.row)
    }

    pub fn leave(&mut self, row: u32) {
        if let Some((start, asking)) = self.regions.remove(&row) {
            self.space.give(start, asking.slots);
            self.ends -= asking.end;
        }
    }

    pub fn regions(&self) -> Regions {
        let wanted = self.held.front().map_or(0, |asking| asking.slots);
        Regions {
            size: self.space.size(),
            taken: self.space.taken(),
            ends: self.ends,
            external: self.space.external(wanted),
            largest_hole: self.space.largest_hole(),
            wanted,
            held: self.held.len() as u32,
        }
    }
}
