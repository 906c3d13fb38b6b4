//! Shared-prefix families: what the prompts are, as a trace's block ids.

use super::{Generator, MAX_TOKENS, Stream, check_count};
use crate::error::{Error, Result};

/// `count` families, each with a prefix of `prefix_blocks` blocks of `block_size` tokens that all
/// its members begin with.
#[derive(Debug, Clone, PartialEq)]
pub struct Families {
    pub count: u32,
    pub prefix_blocks: u32,
    pub block_size: u32,
    /// The probability that a request belongs to a family at all.
    pub share: f64,
    /// Zipf's exponent: the k-th family has weight k^−skew (0: all alike).
    pub skew: f64,
}

/// Prompts as block ids: request i has `ids[offsets[i]..offsets[i + 1]]`, of which the last block
/// may be partial. Block `id` stands for the tokens `id × block_size + offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompts {
    /// The request's family, or −1.
    pub family: Vec<i32>,
    /// Prefix included.
    pub tokens: Vec<i64>,
    pub offsets: Vec<i64>,
    pub ids: Vec<i32>,
}

impl Families {
    /// Prepends a family's prefix to each member's own tokens; all other blocks are unique.
    pub fn sample(&self, own_tokens: &[i64], seed: u64) -> Result<Prompts> {
        self.check()?;
        check_count(own_tokens.len())?;
        if let Some(tokens) = own_tokens.iter().find(|&&t| !(1..=MAX_TOKENS).contains(&t)) {
            return Err(Error::invalid("prompt tokens", tokens, format!("from 1 to {MAX_TOKENS}")));
        }
        self.check_ids(own_tokens)?;
        let family = self.choose(own_tokens.len(), seed);
        Ok(self.assemble(own_tokens, family))
    }

    /// Every virtual token `id × block_size + offset` must be an int32.
    fn check_ids(&self, own_tokens: &[i64]) -> Result<()> {
        let shared = i64::from(self.count).saturating_mul(i64::from(self.prefix_blocks));
        let own = own_tokens.iter().map(|&t| self.blocks_of(t)).sum::<i64>();
        if shared.saturating_add(own) > (MAX_TOKENS + 1) / i64::from(self.block_size) {
            return Err(Error::Overflow { what: "block id × block_size of the prompts" });
        }
        Ok(())
    }

    fn blocks_of(&self, tokens: i64) -> i64 {
        let size = i64::from(self.block_size);
        (tokens + size - 1) / size
    }

    fn check(&self) -> Result<()> {
        for (name, value) in
            [("families", self.count), ("prefix_blocks", self.prefix_blocks), ("block_size", self.block_size)]
        {
            if value == 0 {
                return Err(Error::invalid(name, value, "at least 1"));
            }
        }
        if !(0.0..=1.0).contains(&self.share) {
            return Err(Error::invalid("share", self.share, "from 0 to 1"));
        }
        if !self.skew.is_finite() || self.skew < 0.0 {
            return Err(Error::invalid("skew", self.skew, "a finite number of at least 0"));
        }
        Ok(())
    }

    fn choose(&self, requests: usize, seed: u64) -> Vec<i32> {
        let mut generator = Generator::new(seed, Stream::Families);
        let mut total = 0.0;
        let cumulative: Vec<f64> = (1..=self.count)
            .map(|k| {
                total += libm::pow(f64::from(k), -self.skew);
                total
            })
            .collect();
        let last = cumulative.len() - 1;
        (0..requests)
            .map(|_| {
                // Both numbers are drawn always: another share leaves the members' families.
                let (joins, point) = (generator.unit() < self.share, generator.unit() * total);
                let index = cumulative.partition_point(|&c| c <= point).min(last);
                if joins { index as i32 } else { -1 }
            })
            .collect()
    }

    fn assemble(&self, own_tokens: &[i64], family: Vec<i32>) -> Prompts {
        let prefix = i64::from(self.prefix_blocks);
        let mut next = i64::from(self.count) * prefix;
        let mut prompts = Prompts { family, tokens: Vec::new(), offsets: vec![0], ids: Vec::new() };
        for (&tokens, &family) in own_tokens.iter().zip(&prompts.family) {
            let mut total = tokens;
            if family >= 0 {
                let first = i64::from(family) * prefix;
                prompts.ids.extend((first..first + prefix).map(|id| id as i32));
                total += prefix * i64::from(self.block_size);
            }
            let end = next + self.blocks_of(tokens);
            prompts.ids.extend((next..end).map(|id| id as i32));
            next = end;
            prompts.tokens.push(total);
            prompts.offsets.push(prompts.ids.len() as i64);
        }
        prompts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Families {
        Families { count: 3, prefix_blocks: 2, block_size: 16, share: 0.7, skew: 1.0 }
    }

    #[test]
    fn members_share_their_prefix_and_nothing_else() {
        let own: Vec<i64> = (1..=300).collect();
        let prompts = families().sample(&own, 3).unwrap();
        let mut seen = std::collections::HashSet::new();
        for (i, own) in own.iter().enumerate() {
            let ids = &prompts.ids[prompts.offsets[i] as usize..prompts.offsets[i + 1] as usize];
            let family = prompts.family[i];
            let prefix = if family >= 0 { 2 } else { 0 };
            let expected = [2 * family, 2 * family + 1];
            assert_eq!(ids[..prefix], expected[..prefix]);
            assert!(ids[prefix..].iter().all(|&id| id >= 6 && seen.insert(id)));
            assert_eq!(prompts.tokens[i], own + 16 * prefix as i64);
            assert_eq!(ids.len() as i64, (prompts.tokens[i] + 15) / 16);
        }
        assert_eq!(prompts.offsets.len(), 301);
    }

    #[test]
    fn shares_follow_zipf_and_the_joining_share() {
        let prompts = families().sample(&vec![1; 60_000], 9).unwrap();
        let mut counts = [0.0f64; 4];
        prompts.family.iter().for_each(|&f| counts[(f + 1) as usize] += 1.0 / 60_000.0);
        let weight = 1.0 + 0.5 + 1.0 / 3.0;
        let expected = [0.3, 0.7 / weight, 0.35 / weight, 0.7 / 3.0 / weight];
        for (got, want) in counts.iter().zip(expected) {
            assert!((got - want).abs() < 0.008, "{counts:?}");
        }
    }

    #[test]
    fn another_share_keeps_the_members_families() {
        let all = Families { share: 1.0, ..families() }.sample(&[1; 500], 4).unwrap();
        let some = families().sample(&[1; 500], 4).unwrap();
        let kept = some.family.iter().zip(&all.family).filter(|(s, _)| **s >= 0);
        assert!(kept.clone().all(|(s, a)| s == a));
        assert!(kept.count() > 300);
    }

    #[test]
    fn bad_numbers_are_refused_by_name() {
        for (broken, name) in [
            (Families { count: 0, ..families() }, "families"),
            (Families { prefix_blocks: 0, ..families() }, "prefix_blocks"),
            (Families { block_size: 0, ..families() }, "block_size"),
            (Families { share: 1.5, ..families() }, "share"),
            (Families { skew: f64::NAN, ..families() }, "skew"),
        ] {
            assert!(broken.sample(&[1], 0).unwrap_err().to_string().starts_with(name));
        }
        assert!(families().sample(&[0], 0).unwrap_err().to_string().starts_with("prompt tokens"));
        let huge = families().sample(&[MAX_TOKENS, 1], 0).unwrap_err();
        assert!(matches!(huge, Error::Overflow { .. }));
        let many = Families { count: u32::MAX, prefix_blocks: u32::MAX, ..families() };
        assert!(matches!(many.sample(&[1], 0).unwrap_err(), Error::Overflow { .. }));
    }
}
