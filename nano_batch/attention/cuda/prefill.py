"""Paged prefill by a library: the keys that a row's queries see are gathered, then attended to densely.

A gathered key is written and read once more for all the queries of its row, which cost far more to multiply
than it does to move; the attention itself is PyTorch's FlashAttention over rows of different lengths.
Source: Dao, "FlashAttention-2" (2023).

A float8_e4m3fn cache is attended to in float16 whatever the query's dtype: rounding stored * scale to
bfloat16 would cost more than all the rest. What float16 cannot hold, beyond 65504, becomes infinite in plain
sight.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch

from nano_batch.attention.base import PagedContext
from nano_batch.attention.cache_ops import gather_kv
from nano_batch.attention.fp8 import QUANTISED

LIBRARY_DTYPES = (torch.float16, torch.bfloat16)
LARGEST_HEAD_DIM = 256


@dataclass(frozen=True)
class Seen:
    """The keys and values that rows of queries see, row after row."""

    keys: torch.Tensor  # [seen, num_kv_heads, head_dim]
    values: torch.Tensor  # the same
    starts: torch.Tensor  # [rows + 1] int32
    most: int  # of one row


def library_refusal(query: torch.Tensor, context: PagedContext) -> str | None:
    """The reason why the library does not take this case; None where it does."""
    head_dim = query.shape[-1]
    if _options() is None:
        return f"PyTorch {torch.__version__} has no attention over rows of different lengths with a window"
    if query.dtype not in LIBRARY_DTYPES:
        return f"the library takes float16 and bfloat16, not {query.dtype}"
    if head_dim % 8 or head_dim > LARGEST_HEAD_DIM:
        return f"the library takes head dims that are multiples of 8 up to {LARGEST_HEAD_DIM}, not {head_dim}"
    if context.soft_cap is not None:
        return f"the library has no soft cap; it is {context.soft_cap}"
    if context.scale <= 0:
        return f"the library takes scales above 0, not {context.scale}"
    for tensor in (context.key_cache, context.value_cache):
        if tensor.stride(-1) != 1:
            return f"a cache has strides {tensor.stride()}; the last needs to be 1"
    return None


def prefill_by_library(
    query: torch.Tensor, query_start_loc: torch.Tensor, context: PagedContext
) -> torch.Tensor:
    """See `AttentionBackend.prefill`; only where `library_refusal` finds no reason."""
    starts, lens = query_start_loc.long(), context.context_lens.long()
    host = torch.cat([starts, lens]).cpu()  # the one wait for the device
    host_starts, host_lens = host[: len(starts)], host[len(starts) :]
    queries = host_starts.diff()
    tokens = int(host_starts[-1])
    padding = torch.nonzero((host_lens == 0) & (queries > 0)).flatten().tolist()
    dtype = torch.float16 if context.key_cache.dtype == QUANTISED else query.dtype
    seen = gathered(starts, queries, host_lens, context, dtype)
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    if seen.most == 0:
        return output
    window = -1 if context.sliding_window is None else context.sliding_window - 1
    attended = _varlen(
        query[:tokens].to(dtype).contiguous(), seen.keys, seen.values, starts.int(), seen.starts,
        int(queries.max()), seen.most, scale=context.scale, window_size=(window, 0), **(_options() or {}),
    )  # fmt: skip
    output[:tokens] = attended
    for row in padding:
        output[int(host_starts[row]) : int(host_starts[row + 1])] = 0
    return output


def gathered(
    starts: torch.Tensor,
    host_queries: torch.Tensor,
    host_lens: torch.Tensor,
    context: PagedContext,
    dtype: torch.dtype,
) -> Seen:
    """Copy what each row's queries see, and nothing else, out of the cache.

    Args:
        starts: [rows + 1] int64 on the device, where each row's queries begin.
        host_queries, host_lens: [rows] int64 on the host, queries and context of each row.
        context: where the keys are.
        dtype: of the copies.
    """
    device, size = starts.device, context.block_size
    host_counts, _ = _counts(host_queries, host_lens, context.sliding_window)
    counts, oldest = _counts(starts.diff(), context.context_lens.long(), context.sliding_window)
    total = int(host_counts.sum())
    ends = counts.cumsum(0)
    row = torch.repeat_interleave(counts, output_size=total)  # of each seen key
    position = torch.arange(total, device=device) + (oldest - ends + counts)[row]
    slots = context.block_table[row, position // size].long() * size + position % size
    keys = torch.empty((total, *context.key_cache.shape[2:]), dtype=dtype, device=device)
    values = torch.empty_like(keys)
    gather_kv(keys, values, context.key_cache, context.value_cache, slots, *_scales(context))
    seen_starts = torch.cat([ends.new_zeros(1), ends]).int()
    return Seen(keys, values, seen_starts, int(host_counts.max()) if len(host_counts) else 0)


def _counts(
    queries: torch.Tensor, lens: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many keys each row's queries see, and the position of the first of them."""
    oldest = torch.zeros_like(lens) if window is None else (lens - queries - window + 1).clamp(min=0)
    return torch.where((queries > 0) & (lens > 0), lens - oldest, 0), oldest


def _scales(context: PagedContext) -> list[torch.Tensor | None]:
    if context.key_cache.dtype != QUANTISED:
        return [None, None]
    heads, device = context.key_cache.shape[2], context.key_cache.device
    return [
        scale if isinstance(scale, torch.Tensor) else torch.full((heads,), scale, device=device)
        for scale in (context.key_scale, context.value_scale)
    ]


def _varlen(*args: Any, **options: Any) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    return cast(torch.Tensor, varlen_attn(*args, **options))


@cache
def _options() -> dict[str, Any] | None:
    """What this version's function must be told about grouped heads; None where it has no windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if "window_size" not in known or "scale" not in known:
        return None
    return {"enable_gqa": True} if "enable_gqa" in known else {}
