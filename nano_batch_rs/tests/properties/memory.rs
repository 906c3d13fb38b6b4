//! A simulated KV memory: a slot holds the position and the hash of all tokens up to it.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub position: u32,
    pub hash: u64,
}

/// What a slot holds that nobody may read.
pub const POISON: Stored = Stored { position: u32::MAX, hash: 0 };

pub struct Memory {
    block_size: usize,
    device: Vec<Stored>,
    host: Vec<Stored>,
}

impl Memory {
    pub fn new(num_blocks: u32, host_blocks: u32, block_size: u32) -> Self {
        let slots = |blocks: u32| vec![POISON; (blocks * block_size) as usize];
        Memory { block_size: block_size as usize, device: slots(num_blocks), host: slots(host_blocks) }
    }

    fn range(&self, block: i32) -> std::ops::Range<usize> {
        let start = block as usize * self.block_size;
        start..start + self.block_size
    }

    /// The step's movement in the driver's order: `swap_out`, `swap_in`, `copies`.
    pub fn movement(&mut self, swap_out: &[(i32, i32)], swap_in: &[(i32, i32)], copies: &[(i32, i32)]) {
        for &(device, host) in swap_out {
            assert!(swap_in.iter().all(|&(read, _)| read != host), "host block {host} reused in its step");
            let content = self.device[self.range(device)].to_vec();
            let range = self.range(host);
            self.host[range].copy_from_slice(&content);
        }
        for &(host, device) in swap_in {
            let content = self.host[self.range(host)].to_vec();
            let range = self.range(device);
            self.device[range].copy_from_slice(&content);
        }
        for (at, &(source, target)) in copies.iter().enumerate() {
            // A driver may gather all sources before it writes: no source may be a target before.
            assert!(copies[..at].iter().all(|&(_, before)| before != source), "copies depend on their order");
            let range = self.range(source);
            let to = self.range(target).start;
            self.device.copy_within(range, to);
        }
    }

    pub fn poison(&mut self, block: i32) {
        let range = self.range(block);
        self.device[range].fill(POISON);
    }

    pub fn write(&mut self, slot: i64, stored: Stored) {
        self.device[slot as usize] = stored;
    }

    /// What key `position` reads through a block table.
    pub fn read(&self, table: &[i32], position: u32) -> Stored {
        let block = table[position as usize / self.block_size];
        if block < 0 {
            return POISON;
        }
        self.device[block as usize * self.block_size + position as usize % self.block_size]
    }
}
