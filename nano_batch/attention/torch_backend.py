"""Paged attention in plain PyTorch, on any device.

A tile of each row's blocks is gathered at a time and folded into a running softmax: the numbers equal those
of one softmax over all keys, while no more than a tile of keys and values is ever copied. The running
softmax is that of Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), tiled over
keys and queries as in Dao et al., "FlashAttention" (2022). Sums are kept in float32, or float64 for float64
queries.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from nano_batch.attention.base import PagedContext
from nano_batch.attention.fp8 import QUANTISED, as_bits, dequantised

TILE_ELEMENTS = 2**24
"""Most elements of the gathered keys, and of the scores, of one tile."""
QUERY_TILE = 128
"""Queries of a row that share one gathering of its keys."""


class TorchAttention:
    """The backend that runs wherever PyTorch does."""

    def decode(self, query: torch.Tensor, context: PagedContext) -> torch.Tensor:
        """See `AttentionBackend.decode`."""
        first = context.context_lens.long() - 1
        span = _span(context, 1, context.longest)
        return _attend(query.unsqueeze(1), first, context, span).squeeze(1)

    def prefill(
        self, query: torch.Tensor, query_start_loc: torch.Tensor, context: PagedContext
    ) -> torch.Tensor:
        """See `AttentionBackend.prefill`."""
        output = torch.zeros_like(query, memory_format=torch.contiguous_format)
        starts, ends = query_start_loc[:-1].long(), query_start_loc[1:].long()
        lengths = ends - starts
        # With the longest rows first, the rows that still have queries are a prefix: every tile of queries
        # takes only these, and a batch of decodes beside one long prompt is not padded to the prompt.
        by_length = torch.argsort(lengths, descending=True)
        lengths_left = lengths[by_length].cpu()
        reach_left = context.context_lens.long()[by_length].cpu() - lengths_left
        begin, longest = 0, int(lengths_left[0]) if len(lengths_left) else 0
        while begin < longest:
            end = min(longest, begin + QUERY_TILE) if begin else 1
            active = int((lengths_left > begin).sum())
            rows = by_length[:active]
            offsets = torch.arange(begin, end, device=query.device)
            tokens = starts[rows, None] + offsets
            real = tokens < ends[rows, None]
            tokens = torch.where(real, tokens, 0)
            reach = int(torch.minimum(reach_left + end, reach_left + lengths_left)[:active].max())
            part = _rows(context, rows)
            first = part.context_lens.long() - lengths[rows] + begin
            result = _attend(query[tokens], first, part, _span(context, end - begin, reach))
            output[tokens[real]] = result[real]
            begin = end
        return output


def _rows(context: PagedContext, rows: torch.Tensor) -> PagedContext:
    return replace(
        context, block_table=context.block_table[rows], context_lens=context.context_lens[rows], longest=None
    )


def _span(context: PagedContext, queries: int, reach: int | None) -> int:
    """Return the most blocks that `queries` neighbouring queries of a row see, none beyond `reach` keys."""
    blocks, size = context.block_table.shape[1], context.block_size
    if reach is not None:
        blocks = min(blocks, -(-reach // size))
    if context.sliding_window is not None:
        # n neighbouring keys touch most blocks when the first of them is the last of its block.
        neighbours = context.sliding_window + queries - 1
        blocks = min(blocks, 1 + -(-(neighbours - 1) // size))
    return blocks


def _attend(query: torch.Tensor, first: torch.Tensor, context: PagedContext, span: int) -> torch.Tensor:
    """Attend from [rows, queries, num_heads, head_dim]; query q of row r stands at position first[r] + q.

    `span` bounds the blocks that a row's queries see together.
    """
    rows, queries, num_heads, head_dim = query.shape
    if rows == 0:
        return torch.zeros_like(query)
    kv_heads, size = context.key_cache.shape[2], context.block_size
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    # Heads first, so that the gathered blocks are a batch of matrices without another copy.
    split = query.to(exact).reshape(rows, queries, kv_heads, -1, head_dim).permute(2, 0, 1, 3, 4)
    grouped = split.reshape(kv_heads * rows, -1, head_dim) * context.scale
    state = _RunningSoftmax(grouped)

    position = first[:, None] + torch.arange(queries, device=query.device)  # [rows, queries]
    newest = torch.minimum(position[:, -1], context.context_lens.long() - 1)
    oldest = torch.zeros_like(first)
    if context.sliding_window is not None:
        oldest = (first - context.sliding_window + 1).clamp(min=0)

    widest = max(kv_heads * head_dim, queries * num_heads)
    tile = max(1, TILE_ELEMENTS // max(1, rows * widest * size))
    for start in range(0, span, tile):
        ordinal = torch.arange(start, min(start + tile, span), device=query.device)
        column = (oldest // size)[:, None] + ordinal  # [rows, blocks]
        key = (column[:, :, None] * size + torch.arange(size, device=query.device)).flatten(1)
        in_row = (key >= oldest[:, None]) & (key <= newest[:, None])  # [rows, keys]
        hidden = ~in_row[:, None] | (key[:, None] > position[:, :, None])  # [rows, queries, keys]
        if context.sliding_window is not None:
            hidden |= key[:, None] <= position[:, :, None] - context.sliding_window

        blocks = _seen_blocks(context.block_table, column, newest // size)
        keys = _gather(context.key_cache, context.key_scale, blocks, exact).view(
            kv_heads * rows, -1, head_dim
        )
        scores = torch.bmm(grouped, keys.transpose(1, 2))
        del keys
        if context.soft_cap is not None:
            scores.div_(context.soft_cap).tanh_().mul_(context.soft_cap)
        by_query = scores.view(*split.shape[:-1], -1)  # [kv_heads, rows, queries, group, keys]
        by_query.masked_fill_(hidden[None, :, :, None], -torch.inf)
        values = _gather(context.value_cache, context.value_scale, blocks, exact)
        values = values.view(kv_heads, rows, -1, head_dim)
        # A weight of 0 times a NaN in a slot that nobody wrote would be NaN.
        values.masked_fill_(~in_row[None, :, :, None], 0)
        state.add(scores, values.flatten(0, 1))

    attended = state.result().view(split.shape).permute(1, 2, 0, 3, 4)
    return attended.reshape(query.shape).to(query.dtype)


class _RunningSoftmax:
    """Weighted sums of values over tiles of keys, each rescaled to the largest score so far."""

    def __init__(self, query: torch.Tensor) -> None:
        """Begin with no key for `query` [batch, queries, head_dim]."""
        self.largest = torch.full_like(query[..., :1], -torch.inf)
        self.total = torch.zeros_like(self.largest)
        self.output = torch.zeros_like(query)

    def add(self, scores: torch.Tensor, values: torch.Tensor) -> None:
        """Fold in scores [batch, queries, keys], overwritten, and values [batch, keys, head_dim]."""
        larger = torch.maximum(self.largest, scores.amax(-1, keepdim=True))
        # A query that has seen no key yet has no maximum to subtract.
        shift = larger.masked_fill(larger == -torch.inf, 0)
        weights = scores.sub_(shift).exp_()
        fade = torch.exp(self.largest - shift)
        self.total = self.total * fade + weights.sum(-1, keepdim=True)
        self.output = torch.baddbmm(self.output * fade, weights, values)
        self.largest = larger

    def result(self) -> torch.Tensor:
        """Return the softmax-weighted values, zeros where there was no key."""
        return self.output / self.total.masked_fill(self.total == 0, 1)


def _seen_blocks(table: torch.Tensor, column: torch.Tensor, last_column: torch.Tensor) -> torch.Tensor:
    """Return the blocks in the given columns [rows, blocks], flat; block 0 stands in where nothing is
    seen."""
    entry = table.gather(1, column.clamp(max=table.shape[1] - 1))
    return torch.where(column <= last_column[:, None], entry, 0).flatten()


def _gather(
    cache: torch.Tensor, scale: float | torch.Tensor, blocks: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Copy blocks [rows * n] of a cache to [num_kv_heads, rows * n * block_size, head_dim], heads first."""
    # `index_select` would first copy the whole cache, whose heads do not come first; indexing all three
    # does not.
    _, size, kv_heads, head_dim = cache.shape
    offset = torch.arange(size, device=cache.device)
    head = torch.arange(kv_heads, device=cache.device)
    gathered = as_bits(cache)[blocks[None, :, None], offset[None, None], head[:, None, None]]
    gathered = gathered.view(cache.dtype).view(kv_heads, -1, head_dim)
    if cache.dtype != QUANTISED:
        return gathered.to(dtype)
    return dequantised(gathered.transpose(0, 1), scale, dtype).transpose(0, 1)
