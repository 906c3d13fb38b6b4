//! Paged attention: each query meets the keys of its context where they lie in their blocks.
//!
//! The heads of a group share each key and value that is read. Scores are kept as a whole, then turned into
//! weights: a row of them is small beside the keys.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::team::for_each;
use super::vector::{Split, products, split, weights};
use super::{Out, Vectors, need};
use crate::error::Result;

/// What the size of a head is a multiple of.
pub const LANES: usize = 16;
/// Heads that are computed together, keys that they meet at a time, vectors of an output at a time.
const HEADS: usize = 4;
const KEYS: usize = 4;
const PARTS: usize = 4;
/// Queries of a row that are one task, and of these the ones that meet a key while it is at hand.
const QUERIES: usize = 16;
const TOGETHER: usize = 4;
/// Multiplications that are worth the threads' attention.
const WORTH_THREADS: usize = 1 << 15;

/// The rows of a step: whose queries they are, and where their keys lie.
#[derive(Clone, Copy)]
pub struct PagedRows<'a> {
    /// [rows, width], `stride` from row to row: position j lies in block `block_table[row][j / block_size]`.
    pub block_table: &'a [i32],
    pub width: usize,
    pub stride: usize,
    /// [rows], up to and including the row's last query; with 0, its queries give zeros.
    pub context_lens: &'a [i32],
    /// [rows + 1]: row r has the queries from `query_start_loc[r]` on, its last positions.
    pub query_start_loc: &'a [i32],
    /// A query at position i sees the keys from i - w + 1 on.
    pub window: Option<usize>,
}

/// One row, checked.
#[derive(Clone)]
struct Row {
    queries: Range<usize>,
    context: usize,
    blocks: Range<usize>,
}

impl PagedRows<'_> {
    fn row(&self, index: usize, tokens: usize, blocks: usize, block_size: usize) -> Result<Row> {
        let [start, end] = [index, index + 1].map(|i| i64::from(self.query_start_loc[i]));
        let context = i64::from(self.context_lens[index]);
        need(start >= 0 && end >= start, "query_start_loc", end, format_args!("at least {start}"))?;
        need(end <= tokens as i64, "query_start_loc", end, format_args!("at most {tokens}"))?;
        let capacity = self.width * block_size;
        let least = if context == 0 { 0 } else { end - start };
        need(context >= least, "context_lens", context, format_args!("at least {least}"))?;
        need(context <= capacity as i64, "context_lens", context, format_args!("at most {capacity}"))?;
        let [start, end, context] = [start, end, context].map(|number| number as usize);
        let row = Row {
            queries: start..end,
            context,
            blocks: index * self.stride..index * self.stride + context.div_ceil(block_size),
        };
        if context > 0 && end > start {
            let oldest = self.seen(context - (end - start)).start / block_size;
            for block in &self.block_table[row.blocks.start + oldest..row.blocks.end] {
                let inside = usize::try_from(*block).is_ok_and(|block| block < blocks);
                need(inside, "block_table", block, format_args!("0 to {}", blocks - 1))?;
            }
        }
        Ok(row)
    }

    /// The keys that a query at a position sees.
    fn seen(&self, position: usize) -> Range<usize> {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
    }
}

/// Attends from query [tokens, heads] to the keys and values [blocks, block_size, kv_heads] of its rows.
///
/// `out` is [tokens, heads, size], contiguous; tokens of no row get zeros.
///
/// # Errors
/// Sizes that do not fit together, or a row that names what is not there; nothing is computed then.
pub fn paged_attention(
    query: Vectors<'_, 2>,
    keys: Vectors<'_, 3>,
    values: Vectors<'_, 3>,
    rows: PagedRows<'_>,
    scale: f32,
    out: &mut [f32],
    threads: usize,
) -> Result<()> {
    let ([tokens, heads], [blocks, block_size, kv_heads]) = (query.place.shape, keys.place.shape);
    let size = query.place.size;
    need(size > 0 && size.is_multiple_of(LANES), "head_dim", size, format_args!("a multiple of {LANES}"))?;
    need(keys.place.size == size && values.place.size == size, "head_dim", keys.place.size, size)?;
    need(
        values.place.shape == keys.place.shape,
        "value_cache",
        format_args!("{:?}", values.place.shape),
        format_args!("{:?}", keys.place.shape),
    )?;
    need(block_size > 0, "block_size", block_size, "at least 1")?;
    need(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "num_heads",
        heads,
        format_args!("a multiple of {kv_heads}"),
    )?;
    need(out.len() == tokens * heads * size, "out", out.len(), tokens * heads * size)?;
    let count = rows.context_lens.len();
    need(rows.query_start_loc.len() == count + 1, "query_start_loc", rows.query_start_loc.len(), count + 1)?;
    let table = count.saturating_sub(1) * rows.stride + rows.width;
    need(count == 0 || rows.block_table.len() >= table, "block_table", rows.block_table.len(), table)?;
    need(rows.window != Some(0), "sliding_window", 0, "at least 1")?;
    need(rows.query_start_loc[0] == 0, "query_start_loc", rows.query_start_loc[0], "0 at the start")?;

    let mut tasks = Vec::new();
    let mut work = 0;
    for index in 0..count {
        let row = rows.row(index, tokens, blocks, block_size)?;
        if row.context == 0 {
            out[row.queries.start * heads * size..row.queries.end * heads * size].fill(0.0);
            continue;
        }
        work += row.queries.len() * row.context * heads * size;
        for start in row.queries.clone().step_by(QUERIES) {
            let part = start..row.queries.end.min(start + QUERIES);
            tasks.extend((0..kv_heads).map(|head| (row.clone(), part.clone(), head)));
        }
    }
    let taken = rows.query_start_loc[count] as usize;
    out[taken * heads * size..].fill(0.0);

    let (arch, out) = (Arch::new(), Out(out.as_mut_ptr()));
    let threads = if work < WORTH_THREADS { 1 } else { threads };
    for_each(threads, tasks.len(), &|task| {
        let (row, part, head) = &tasks[task];
        arch.dispatch(Task { query, keys, values, rows, row, part: part.clone(), head: *head, scale, out });
    });
    Ok(())
}

/// Some queries of a row, and the heads of one group.
struct Task<'a> {
    query: Vectors<'a, 2>,
    keys: Vectors<'a, 3>,
    values: Vectors<'a, 3>,
    rows: PagedRows<'a>,
    row: &'a Row,
    part: Range<usize>,
    head: usize,
    scale: f32,
    out: Out<f32>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let group = self.query.place.shape[1] / self.keys.place.shape[2];
        let mut scores = vec![0.0; TOGETHER.min(self.part.len()) * HEADS.min(group) * self.row.context];
        let heads = self.head * group..(self.head + 1) * group;
        for start in self.part.clone().step_by(TOGETHER) {
            let tokens = start..self.part.end.min(start + TOGETHER);
            for first in heads.clone().step_by(HEADS) {
                match heads.end - first {
                    1 => self.attend::<S, 1>(simd, &tokens, first, &mut scores),
                    2 => self.attend::<S, 2>(simd, &tokens, first, &mut scores),
                    3 => self.attend::<S, 3>(simd, &tokens, first, &mut scores),
                    _ => self.attend::<S, HEADS>(simd, &tokens, first, &mut scores),
                }
            }
        }
    }
}

impl Task<'_> {
    /// The keys that a query sees.
    #[inline(always)]
    fn seen(&self, token: usize) -> Range<usize> {
        self.rows.seen(self.row.context - (self.row.queries.end - token))
    }

    /// M heads from `first` on of up to `TOGETHER` queries, which share the keys that are at hand.
    #[inline(always)]
    fn attend<S: Simd, const M: usize>(
        &self,
        simd: S,
        tokens: &Range<usize>,
        first: usize,
        scores: &mut [f32],
    ) {
        let span = self.seen(tokens.start).start..self.seen(tokens.end - 1).end;
        let len = span.len();
        let queries: [[Split<'_, S>; M]; TOGETHER] = std::array::from_fn(|t| {
            let token = tokens.end.min(tokens.start + t + 1) - 1;
            std::array::from_fn(|m| split::<S>(self.query.at([token, first + m])))
        });
        let ahead = KEYS * self.keys.place.strides[1] * size_of::<f32>();
        for run in self.runs(&span) {
            let begin = run.position - span.start;
            let whole = run.len / KEYS * KEYS;
            for i in (0..whole).step_by(KEYS) {
                let at = |i| self.keys.at([run.block, run.offset + i, self.head]);
                let keys: [Split<'_, S>; KEYS] = std::array::from_fn(|n| split::<S>(at(i + n)));
                for (t, queries) in queries[..tokens.len()].iter().enumerate() {
                    let sums = products::<S, M, KEYS>(simd, *queries, keys, ahead);
                    for (m, sums) in sums.iter().enumerate() {
                        for (n, sum) in sums.iter().enumerate() {
                            scores[(t * M + m) * len + begin + i + n] = sum * self.scale;
                        }
                    }
                }
            }
            for i in whole..run.len {
                let key = split::<S>(self.keys.at([run.block, run.offset + i, self.head]));
                for (t, queries) in queries[..tokens.len()].iter().enumerate() {
                    let sums = products::<S, M, 1>(simd, *queries, [key], 0);
                    for (m, [sum]) in sums.iter().enumerate() {
                        scores[(t * M + m) * len + begin + i] = sum * self.scale;
                    }
                }
            }
        }
        let mut totals = [[0.0; M]; TOGETHER];
        for (t, token) in tokens.clone().enumerate() {
            let seen = self.seen(token);
            let (start, end) = (seen.start - span.start, seen.end - span.start);
            for (m, total) in totals[t].iter_mut().enumerate() {
                let row = (t * M + m) * len;
                *total = weights::<S>(simd, &mut scores[row + start..row + end]);
            }
        }
        let parts = split::<S>(self.query.at([tokens.start, first])).0.len();
        for part in (0..parts).step_by(PARTS) {
            match parts - part {
                1 => self.mix::<S, M, 1>(simd, tokens, first, part, scores, &totals),
                2 => self.mix::<S, M, 2>(simd, tokens, first, part, scores, &totals),
                3 => self.mix::<S, M, 3>(simd, tokens, first, part, scores, &totals),
                _ => self.mix::<S, M, PARTS>(simd, tokens, first, part, scores, &totals),
            }
        }
    }

    /// Sums values by their weights: P vectors of each output from `part` on.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn mix<S: Simd, const M: usize, const P: usize>(
        &self,
        simd: S,
        tokens: &Range<usize>,
        first: usize,
        part: usize,
        weights: &[f32],
        totals: &[[f32; M]; TOGETHER],
    ) {
        let span = self.seen(tokens.start).start..self.seen(tokens.end - 1).end;
        let len = span.len();
        let mut sums = [[[simd.splat_f32s(0.0); P]; M]; TOGETHER];
        for run in self.runs(&span) {
            for (t, token) in tokens.clone().enumerate() {
                let seen = self.seen(token);
                let mut ours = sums[t];
                let (start, end) = (run.position.max(seen.start), (run.position + run.len).min(seen.end));
                for position in start..end {
                    let offset = run.offset + position - run.position;
                    let value = split::<S>(self.values.at([run.block, offset, self.head])).0;
                    let value: [S::f32s; P] = std::array::from_fn(|p| value[part + p]);
                    for (m, sums) in ours.iter_mut().enumerate() {
                        let weight = simd.splat_f32s(weights[(t * M + m) * len + position - span.start]);
                        for (sum, value) in sums.iter_mut().zip(value) {
                            *sum = simd.mul_add_e_f32s(weight, value, *sum);
                        }
                    }
                }
                sums[t] = ours;
            }
        }
        let heads = self.query.place.shape[1];
        for (t, token) in tokens.clone().enumerate() {
            for m in 0..M {
                let at = (token * heads + first + m) * self.query.place.size;
                // SAFETY: a token's heads are one task's.
                let out = unsafe { self.out.slice(at, self.query.place.size) };
                let share = simd.splat_f32s(1.0 / totals[t][m]);
                for (out, sum) in S::as_mut_simd_f32s(out).0[part..].iter_mut().zip(sums[t][m]) {
                    *out = simd.mul_f32s(sum, share);
                }
            }
        }
    }

    /// The runs of keys that lie one after another.
    #[inline(always)]
    fn runs(&self, seen: &Range<usize>) -> Runs<'_> {
        let table = &self.rows.block_table[self.row.blocks.clone()];
        Runs { table, block_size: self.keys.place.shape[1], left: seen.clone() }
    }
}

/// Keys of neighbouring positions in one block.
struct Run {
    position: usize,
    block: usize,
    offset: usize,
    len: usize,
}

struct Runs<'a> {
    table: &'a [i32],
    block_size: usize,
    left: Range<usize>,
}

impl Iterator for Runs<'_> {
    type Item = Run;

    #[inline(always)]
    fn next(&mut self) -> Option<Run> {
        if self.left.is_empty() {
            return None;
        }
        let position = self.left.start;
        let offset = position % self.block_size;
        let len = (self.block_size - offset).min(self.left.len());
        self.left.start += len;
        Some(Run { position, block: self.table[position / self.block_size] as usize, offset, len })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::super::team::tests::with_threads;
    use super::*;

    /// Attention of one query and head over gathered keys, in float64.
    fn exact(query: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32) -> Vec<f64> {
        let dot =
            |key: &[f32]| -> f64 { query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let scores: Vec<f64> = keys.iter().map(|key| dot(key) * f64::from(scale)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..query.len())
            .map(|i| {
                weights.iter().zip(values).map(|(w, value)| w * f64::from(value[i])).sum::<f64>() / total
            })
            .collect()
    }

    struct Case {
        heads: usize,
        kv_heads: usize,
        size: usize,
        block_size: usize,
        rows: Vec<(usize, usize)>, // queries, context
        window: Option<usize>,
    }

    fn check(case: &Case) {
        let Case { heads, kv_heads, size, block_size, window, .. } = *case;
        let width = case.rows.iter().map(|row| row.1.div_ceil(block_size)).max().unwrap_or(0) + 1;
        let blocks = 1 + case.rows.len() * width;
        // Slots that nobody wrote hold NaN.
        let shape = [blocks, block_size, kv_heads];
        let strides = [block_size * kv_heads * size, kv_heads * size, size];
        let mut keys = vec![f32::NAN; blocks * strides[0]];
        let mut values = keys.clone();
        let mut table = vec![-1; case.rows.len() * width];
        let (mut starts, mut lens) = (vec![0], Vec::new());
        for (index, (queries, context)) in case.rows.iter().enumerate() {
            starts.push(starts[index] + *queries as i32);
            lens.push(*context as i32);
            for position in 0..*context {
                let block = 1 + (position / block_size) * case.rows.len() + index;
                table[index * width + position / block_size] = block as i32;
                let at = block * strides[0] + position % block_size * strides[1];
                for i in 0..kv_heads * size {
                    keys[at + i] = ((at + i) as f32 * 0.37).sin();
                    values[at + i] = ((at + i) as f32 * 0.73).cos();
                }
            }
        }
        let tokens = starts[case.rows.len()] as usize + 1; // the last is of no row
        let query: Vec<f32> = (0..tokens * heads * size).map(|i| (i as f32 * 1.1).sin() * 2.0).collect();
        let rows = PagedRows {
            block_table: &table,
            width,
            stride: width,
            context_lens: &lens,
            query_start_loc: &starts,
            window,
        };
        let place = Place { shape, strides, size };
        let all = |data: &[f32]| unsafe { Vectors::new(data.as_ptr(), place) };
        let mut out = vec![f32::NAN; query.len()];
        let scale = 0.3;
        let place = Place { shape: [tokens, heads], strides: [heads * size, size], size };
        let queries = unsafe { Vectors::new(query.as_ptr(), place) };
        paged_attention(queries, all(&keys), all(&values), rows, scale, &mut out, 2).unwrap();
        assert!(out[(tokens - 1) * heads * size..].iter().all(|x| *x == 0.0));
        for (index, (queries, context)) in case.rows.iter().enumerate() {
            for query_of_row in 0..*queries {
                let token = starts[index] as usize + query_of_row;
                for head in 0..heads {
                    let at = (token * heads + head) * size;
                    let ours = &out[at..at + size];
                    if *context == 0 {
                        assert!(ours.iter().all(|x| *x == 0.0));
                        continue;
                    }
                    let end = context - queries + query_of_row + 1;
                    let at_of = |position: usize| {
                        let block = table[index * width + position / block_size] as usize;
                        let at = block * strides[0] + position % block_size * strides[1];
                        at + head / (heads / kv_heads) * size
                    };
                    let seen = window.map_or(0, |w| end.saturating_sub(w))..end;
                    let key: Vec<&[f32]> = seen.clone().map(|p| &keys[at_of(p)..at_of(p) + size]).collect();
                    let value: Vec<&[f32]> = seen.map(|p| &values[at_of(p)..at_of(p) + size]).collect();
                    let wanted = exact(&query[at..at + size], &key, &value, scale);
                    for (ours, wanted) in ours.iter().zip(wanted) {
                        assert!(
                            (f64::from(*ours) - wanted).abs() < 1e-5,
                            "row {index}, query {query_of_row}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn equals_dense_attention() {
        with_threads();
        let rows = vec![(1, 1), (1, 37), (0, 5), (5, 5), (3, 40), (4, 0), (33, 50)];
        for (heads, kv_heads, size) in [(8, 2, 32), (3, 3, 16), (6, 1, 80), (4, 2, 128), (5, 1, 64)] {
            for block_size in [1, 5, 16] {
                for window in [None, Some(1), Some(7), Some(100)] {
                    check(&Case { heads, kv_heads, size, block_size, rows: rows.clone(), window });
                }
            }
        }
    }

    #[test]
    fn refuses_what_is_not_there() {
        let data = [0.0; 64];
        let query = Place { shape: [1, 1], strides: [16, 16], size: 16 };
        let cache = Place { shape: [2, 2, 1], strides: [32, 16, 16], size: 16 };
        let query = unsafe { Vectors::new(data.as_ptr(), query) };
        let cache = unsafe { Vectors::new(data.as_ptr(), cache) };
        let rows = |table: &'static [i32], len: &'static [i32], starts: &'static [i32]| PagedRows {
            block_table: table,
            width: 2,
            stride: 2,
            context_lens: len,
            query_start_loc: starts,
            window: None,
        };
        let run = |rows| paged_attention(query, cache, cache, rows, 1.0, &mut [f32::NAN; 16], 1);
        assert!(run(rows(&[0, 1], &[3], &[0, 1])).is_ok());
        assert!(run(rows(&[0, -1], &[2], &[0, 1])).is_ok());
        for (table, len, starts) in [
            (&[0, 2], &[3], &[0, 1]),
            (&[-1, 0], &[3], &[0, 1]),
            (&[0, 1], &[5], &[0, 1]),
            (&[0, 1], &[-1], &[0, 1]),
            (&[0, 1], &[3], &[0, 2]),
            (&[0, 1], &[3], &[1, 1]),
            (&[0, 1], &[3], &[0, -1]),
        ] {
            assert!(run(rows(table, len, starts)).is_err(), "{table:?} {len:?} {starts:?}");
        }
    }
}
