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
from functools import cache
from typing import Any, cast

import torch

from nano_batch.attention.cache_ops import gather_kv
from nano_batch.attention.fp8 import QUANTISED

LIBRARY_DTYPES = (torch.float16, torch.bfloat16)
LARGEST_HEAD_DIM = 256


class PrefillPlan:
    """Where a step's rows of queries find the keys that they see: made once, used by every layer.

    Args:
        query_start_loc, context_lens, block_table: as for `paged_attention_prefill`.
        block_size: token slots in a block.
        sliding_window: as for `paged_attention_prefill`.
        host_lengths: (query_start_loc, context_lens) as int64 tensors on the host, where they are known;
            None reads them from the device, for which the host waits.
    """

    def __init__(
        self,
        query_start_loc: torch.Tensor,
        context_lens: torch.Tensor,
        block_table: torch.Tensor,
        block_size: int,
        *,
        sliding_window: int | None = None,
        host_lengths: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """Look up the slot of every key that is seen."""
        starts, lens = query_start_loc.long(), context_lens.long()
        if host_lengths is None:
            host = torch.cat([starts, lens]).cpu()  # the one wait for the device
            host_lengths = host[: len(starts)], host[len(starts) :]
        host_starts, host_lens = host_lengths
        queries = host_starts.diff()
        self.rows, self.window = len(lens), sliding_window
        self.tokens = int(host_starts[-1])
        self.starts = starts.int()  # [rows + 1]
        self.most_queries = int(queries.max()) if self.rows else 0
        self.padding = [  # (first, end) of tokens that see nothing
            (int(host_starts[row]), int(host_starts[row + 1]))
            for row in torch.nonzero((host_lens == 0) & (queries > 0)).flatten().tolist()
        ]
        host_counts, _ = _counts(queries, host_lens, sliding_window)
        self.most_seen = int(host_counts.max()) if self.rows else 0
        counts, oldest = _counts(starts.diff(), lens, sliding_window)
        ends = counts.cumsum(0)
        self.seen_starts = torch.cat([ends.new_zeros(1), ends]).int()  # [rows + 1]
        self.slots = _slots(counts, ends, oldest, int(host_counts.sum()), block_table, block_size)  # [seen]

    @classmethod
    def of_arrays(
        cls,
        starts: torch.Tensor,
        seen_starts: torch.Tensor,
        slots: torch.Tensor,
        *,
        tokens: int,
        sliding_window: int | None = None,
    ) -> PrefillPlan:
        """A plan over arrays that someone else fills, of which only the sizes are known, for CUDA graphs.

        Args:
            starts, seen_starts: [rows + 1] int32: where each row's queries begin among the tokens, and its
                keys among the slots; rows without queries come last.
            slots: [at most that many] int64: of the keys, row after row; -1 where there is none.
            tokens: queries there is room for.
            sliding_window: as for `paged_attention_prefill`.
        """
        plan = cls.__new__(cls)
        plan.rows, plan.window, plan.tokens, plan.padding = len(starts) - 1, sliding_window, tokens, []
        plan.starts, plan.seen_starts, plan.slots = starts, seen_starts, slots
        plan.most_queries, plan.most_seen = tokens, len(slots)
        return plan

    def __repr__(self) -> str:
        return f"PrefillPlan: {self.tokens:,} queries of {self.rows:,} rows see {len(self.slots):,} keys"


def _slots(
    counts: torch.Tensor, ends: torch.Tensor, oldest: torch.Tensor, total: int, table: torch.Tensor, size: int
) -> torch.Tensor:
    row = torch.repeat_interleave(counts, output_size=total)  # of each seen key
    position = torch.arange(total, device=counts.device) + (oldest - ends + counts)[row]
    return table[row, position // size].long() * size + position % size


def library_refusal(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> str | None:
    """The reason why the library does not take this case; None where it does."""
    head_dim = query.shape[-1]
    if _options() is None:
        return f"PyTorch {torch.__version__} has no attention over rows of different lengths with a window"
    if query.dtype not in LIBRARY_DTYPES:
        return f"the library takes float16 and bfloat16, not {query.dtype}"
    if head_dim % 8 or head_dim > LARGEST_HEAD_DIM:
        return f"the library takes head dims that are multiples of 8 up to {LARGEST_HEAD_DIM}, not {head_dim}"
    if soft_cap is not None:
        return f"the library has no soft cap; it is {soft_cap}"
    if scale <= 0:
        return f"the library takes scales above 0, not {scale}"
    for tensor in (key_cache, value_cache):
        if tensor.stride(-1) != 1:
            return f"a cache has strides {tensor.stride()}; the last needs to be 1"
    return None


def prefill_by_library(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    plan: PrefillPlan,
    *,
    scale: float,
    key_scale: float | torch.Tensor | None = None,
    value_scale: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend as the plan says: see `AttentionBackend.prefill`; only where `library_refusal` finds no reason.

    A token that belongs to no row gets zeros, or in a plan of arrays anything. float8_e4m3fn caches have
    scales, other caches have none.
    """
    if plan.most_seen == 0:
        return torch.zeros_like(query, memory_format=torch.contiguous_format)
    quantised = key_cache.dtype == QUANTISED
    dtype = torch.float16 if quantised else query.dtype
    shape = (len(plan.slots), *key_cache.shape[2:])
    keys, values = (torch.empty(shape, dtype=dtype, device=query.device) for _ in range(2))
    scales = [_per_head(one, key_cache) if quantised else None for one in (key_scale, value_scale)]
    gather_kv(keys, values, key_cache, value_cache, plan.slots, *scales)
    window = -1 if plan.window is None else plan.window - 1
    attended = _varlen(
        query[: plan.tokens].to(dtype), keys, values, plan.starts, plan.seen_starts,
        plan.most_queries, plan.most_seen, scale=scale, window_size=(window, 0), **(_options() or {}),
    ).to(query.dtype)  # fmt: skip
    for first, end in plan.padding:
        attended[first:end] = 0
    rest = len(query) - plan.tokens
    return torch.cat([attended, attended.new_zeros(rest, *attended.shape[1:])]) if rest else attended


def _counts(
    queries: torch.Tensor, lens: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many keys each row's queries see, and the position of the first of them."""
    oldest = torch.zeros_like(lens) if window is None else (lens - queries - window + 1).clamp(min=0)
    return torch.where((queries > 0) & (lens > 0), lens - oldest, 0), oldest


def _per_head(scale: float | torch.Tensor | None, cache: torch.Tensor) -> torch.Tensor:
    if isinstance(scale, torch.Tensor):
        return scale
    return torch.full(cache.shape[2:3], 1.0 if scale is None else scale, device=cache.device)


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
