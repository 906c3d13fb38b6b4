//! The optimal eviction of a prefix cache, as a bound: it knows which requests are to come.
//!
//! After a request's blocks are all in, the block goes whose next using request is farthest, of
//! equals the deepest (Belady, 1966, for requests over chains of blocks). A bound for one given
//! order of requests, without running requests that pin their blocks.

use std::collections::{BinaryHeap, HashMap};

use crate::block_cache::check_offsets;
use crate::error::{Error, Result};

/// Never used again.
const NEVER: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cached {
    next: u32,
    depth: u32,
}

/// For each request, the blocks of its unbroken cached prefix. Request i asks for the chain of ids
/// from `offsets[i]` to `offsets[i + 1]`; an id stands for a block and all before it.
pub fn hits(offsets: &[i64], ids: &[i32], num_blocks: u32) -> Result<Vec<u32>> {
    check(offsets, ids, num_blocks)?;
    let (ids, distinct) = numbered(ids);
    let next = next_uses(offsets, &ids, distinct);
    let mut cached: Vec<Option<Cached>> = vec![None; distinct];
    let mut held = 0;
    // What goes first: the farthest next use, of those the deepest. An entry whose block has gone or has
    // been used since stays until it comes up.
    let mut order: BinaryHeap<(u32, u32, u32)> = BinaryHeap::new();
    let mut hits = Vec::with_capacity(offsets.len() - 1);
    for pair in offsets.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        let chain = &ids[start..end];
        hits.push(chain.iter().take_while(|&&id| cached[id as usize].is_some()).count() as u32);
        for (depth, &id) in chain.iter().enumerate() {
            let now = Cached { next: next[start + depth], depth: depth as u32 };
            held += u32::from(cached[id as usize].replace(now).is_none());
            order.push((now.next, now.depth, id));
        }
        while held > num_blocks {
            let Some((next, depth, id)) = order.pop() else { break };
            if cached[id as usize] == Some(Cached { next, depth }) {
                cached[id as usize] = None;
                held -= 1;
            }
        }
    }
    Ok(hits)
}

/// The ids renumbered from 0 in the order in which they come, and how many there are.
fn numbered(ids: &[i32]) -> (Vec<u32>, usize) {
    let mut numbers: HashMap<i32, u32> = HashMap::new();
    let numbered = ids
        .iter()
        .map(|&id| {
            let fresh = numbers.len() as u32;
            *numbers.entry(id).or_insert(fresh)
        })
        .collect();
    (numbered, numbers.len())
}

fn check(offsets: &[i64], ids: &[i32], num_blocks: u32) -> Result<()> {
    if num_blocks == 0 || num_blocks > i32::MAX as u32 {
        return Err(Error::invalid("num_blocks", num_blocks, format!("between 1 and {}", i32::MAX)));
    }
    check_offsets(offsets, ids)
}

/// For each entry of `ids` the next request that asks for the same id.
fn next_uses(offsets: &[i64], ids: &[u32], distinct: usize) -> Vec<u32> {
    let mut next = vec![NEVER; ids.len()];
    let mut seen = vec![NEVER; distinct];
    for request in (0..offsets.len().saturating_sub(1)).rev() {
        let range = offsets[request] as usize..offsets[request + 1] as usize;
        for at in range.clone() {
            next[at] = seen[ids[at] as usize];
        }
        for at in range {
            seen[ids[at] as usize] = request as u32;
        }
    }
    next
}
