//! New keys and values on their way into their slots, keys and queries turned to their positions.

use super::{Vectors, VectorsMut, need};
use crate::error::Result;

/// The turn of every position: cosines and sines [longest, size / 2].
#[derive(Clone, Copy)]
pub struct Rope<'a> {
    /// [tokens].
    pub positions: &'a [i64],
    pub cosines: &'a [f32],
    pub sines: &'a [f32],
    /// Elements that turn together with as many others: size / 2.
    pub half: usize,
}

impl<'a> Rope<'a> {
    fn turn(&self, token: usize) -> (&'a [f32], &'a [f32]) {
        let at = self.positions[token] as usize * self.half;
        (&self.cosines[at..at + self.half], &self.sines[at..at + self.half])
    }

    /// # Errors
    /// The turns are not those of heads of `size`, there are not `tokens` positions, or one has no turn.
    pub fn check(&self, tokens: usize, size: usize) -> Result<()> {
        need(self.half > 0 && 2 * self.half == size, "cosines", self.half, format_args!("half of {size}"))?;
        need(self.sines.len() == self.cosines.len(), "sines", self.sines.len(), self.cosines.len())?;
        need(self.positions.len() == tokens, "positions", self.positions.len(), tokens)?;
        let longest = (self.cosines.len() / self.half) as i64;
        for position in self.positions {
            need((0..longest).contains(position), "positions", position, format_args!("below {longest}"))?;
        }
        Ok(())
    }
}

/// Turns the two halves of a head together.
#[inline(always)]
fn turned(head: &[f32], (cosines, sines): (&[f32], &[f32]), first: &mut [f32], second: &mut [f32]) {
    let (a, b) = head.split_at(cosines.len());
    for i in 0..cosines.len() {
        first[i] = a[i] * cosines[i] - b[i] * sines[i];
        second[i] = b[i] * cosines[i] + a[i] * sines[i];
    }
}

/// Turns every head of the queries, those of the first tokens, in place.
///
/// # Errors
/// A position has no turn, or the sizes do not fit together; nothing is changed then.
pub fn rotate(mut query: VectorsMut<'_, 2>, rope: Rope<'_>) -> Result<()> {
    let ([tokens, heads], positions) = (query.place.shape, rope.positions.len());
    need(tokens <= positions, "query", tokens, format_args!("at most {positions}"))?;
    rope.check(positions, query.place.size)?;
    let mut copy = vec![0.0; query.place.size];
    for token in 0..tokens {
        for head in 0..heads {
            let there = query.at([token, head]);
            copy.copy_from_slice(there);
            let (first, second) = there.split_at_mut(rope.half);
            turned(&copy, rope.turn(token), first, second);
        }
    }
    Ok(())
}

/// Stores vectors [tokens, kv_heads] in their slots of a cache [blocks, block_size, kv_heads].
///
/// A slot is block * block_size + offset; one outside the cache, such as -1, stores nothing.
///
/// # Errors
/// A position has no turn, or the sizes do not fit together; nothing is changed then.
pub fn store(
    new: Vectors<'_, 2>,
    mut cache: VectorsMut<'_, 3>,
    slots: &[i64],
    rope: Option<Rope<'_>>,
) -> Result<()> {
    let ([tokens, heads], [blocks, block_size, kv_heads]) = (new.place.shape, cache.place.shape);
    need(slots.len() == tokens, "slots", slots.len(), tokens)?;
    need(heads == kv_heads, "num_kv_heads", heads, kv_heads)?;
    need(new.place.size == cache.place.size, "head_dim", new.place.size, cache.place.size)?;
    if let Some(rope) = &rope {
        rope.check(tokens, new.place.size)?;
    }
    for (token, slot) in slots.iter().enumerate() {
        let Some(slot) = usize::try_from(*slot).ok().filter(|slot| *slot < blocks * block_size) else {
            continue;
        };
        for head in 0..heads {
            let (vector, there) =
                (new.at([token, head]), cache.at([slot / block_size, slot % block_size, head]));
            match &rope {
                Some(rope) => {
                    let (first, second) = there.split_at_mut(rope.half);
                    turned(vector, rope.turn(token), first, second);
                }
                None => there.copy_from_slice(vector),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    #[test]
    fn keys_are_turned_and_land_in_their_slots() {
        let (size, heads) = (4, 2);
        let new: Vec<f32> = (0..3 * heads * size).map(|i| i as f32).collect();
        let mut cache = vec![-1.0; 2 * 2 * heads * size];
        // Position 0 turns nothing, position 1 by a quarter.
        let rope = Rope {
            positions: &[1, 0, 1],
            cosines: &[1.0, 1.0, 0.0, 0.0],
            sines: &[0.0, 0.0, 1.0, 1.0],
            half: 2,
        };
        let vectors = unsafe {
            Vectors::new(new.as_ptr(), Place { shape: [3, heads], strides: [heads * size, size], size })
        };
        let target = unsafe {
            VectorsMut::new(cache.as_mut_ptr(), Place { shape: [2, 2, heads], strides: [16, 8, 4], size })
        };
        store(vectors, target, &[3, -1, 0], Some(rope)).unwrap();
        assert_eq!(cache[24..], [-2.0, -3.0, 0.0, 1.0, -6.0, -7.0, 4.0, 5.0]);
        assert_eq!(cache[..8], [-18.0, -19.0, 16.0, 17.0, -22.0, -23.0, 20.0, 21.0]);
        assert!(cache[8..24].iter().all(|x| *x == -1.0));
    }

    #[test]
    fn queries_are_those_of_the_first_tokens() {
        let rope = Rope { positions: &[1, 0], cosines: &[1.0, 0.0], sines: &[0.0, 1.0], half: 1 };
        let mut query = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut first = |tokens| unsafe {
            VectorsMut::new(query.as_mut_ptr(), Place { shape: [tokens, 1], strides: [2, 2], size: 2 })
        };
        assert!(rotate(first(3), rope).is_err());
        rotate(first(1), rope).unwrap();
        assert_eq!(query, [-2.0, 1.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn a_position_without_a_turn_changes_nothing() {
        let mut query = vec![1.0; 8];
        let rope = Rope { positions: &[0, 1], cosines: &[0.0, 0.0], sines: &[1.0, 1.0], half: 2 };
        let target =
            unsafe { VectorsMut::new(query.as_mut_ptr(), Place { shape: [2, 1], strides: [4, 4], size: 4 }) };
        assert!(rotate(target, rope).is_err());
        assert!(query.iter().all(|x| *x == 1.0));
    }
}
