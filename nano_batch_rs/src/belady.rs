//! The optimal eviction of a prefix cache, as a bound: it knows which requests are to come.
//!
//! After a request's blocks are all in, the block goes whose next using request is farthest, of
//! equals the deepest (Belady, 1966, for requests over chains of blocks). A bound for one given
//! order of requests, without running requests that pin their blocks.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Result};

/// Never used again.
const NEVER: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Cached {
    next: u32,
    depth: u32,
}

/// For each request, the blocks of its unbroken cached prefix. Request i asks for the chain of ids
/// from `offsets[i]` to `offsets[i + 1]`; an id stands for a block and all before it.
pub fn hits(offsets: &[i64], ids: &[i32], num_blocks: u32) -> Result<Vec<u32>> {
    check(offsets, ids, num_blocks)?;
    let next = next_uses(offsets, ids);
    let mut cached: HashMap<i32, Cached> = HashMap::new();
    // What goes first is last: the farthest next use, of those the deepest.
    let mut order: BTreeSet<(u32, u32, i32)> = BTreeSet::new();
    let mut hits = Vec::with_capacity(offsets.len() - 1);
    for pair in offsets.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        let chain = &ids[start..end];
        hits.push(chain.iter().take_while(|id| cached.contains_key(id)).count() as u32);
        for (depth, &id) in chain.iter().enumerate() {
            let now = Cached { next: next[start + depth], depth: depth as u32 };
            if let Some(before) = cached.insert(id, now) {
                order.remove(&(before.next, before.depth, id));
            }
            order.insert((now.next, now.depth, id));
        }
        while cached.len() > num_blocks as usize {
            let Some((_, _, id)) = order.pop_last() else { break };
            cached.remove(&id);
        }
    }
    Ok(hits)
}

fn check(offsets: &[i64], ids: &[i32], num_blocks: u32) -> Result<()> {
    if num_blocks == 0 || num_blocks > i32::MAX as u32 {
        return Err(Error::invalid("num_blocks", num_blocks, format!("between 1 and {}", i32::MAX)));
    }
    let whole = offsets.first() == Some(&0) && offsets.last() == Some(&(ids.len() as i64));
    if !whole || !offsets.is_sorted() {
        let limit = format!("ascending from 0 to the number of ids, {}", ids.len());
        return Err(Error::invalid("offsets", format!("{} entries", offsets.len()), limit));
    }
    Ok(())
}

/// For each entry of `ids` the next request that asks for the same id.
fn next_uses(offsets: &[i64], ids: &[i32]) -> Vec<u32> {
    let mut next = vec![NEVER; ids.len()];
    let mut seen: HashMap<i32, u32> = HashMap::new();
    for request in (0..offsets.len().saturating_sub(1)).rev() {
        let range = offsets[request] as usize..offsets[request + 1] as usize;
        for at in range.clone() {
            next[at] = seen.get(&ids[at]).copied().unwrap_or(NEVER);
        }
        for at in range {
            seen.insert(ids[at], request as u32);
        }
    }
    next
}
