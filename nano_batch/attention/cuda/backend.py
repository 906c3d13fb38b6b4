"""Paged attention on CUDA: what runs in kernels, what a library does, what neither can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nano_batch.attention.base import PagedContext
from nano_batch.attention.cuda.prefill import library_refusal, prefill_planned
from nano_batch.attention.cuda.prefill_plan import PrefillPlan
from nano_batch.attention.torch_backend import TorchAttention
from nano_batch.cuda.loud import say_once
from nano_batch.cuda.vectors import KERNEL_DTYPES
from nano_batch.errors import DtypeError, NanoBatchError, ShapeError

if TYPE_CHECKING:
    from nano_batch.attention.cuda.plan import DecodePlan

LARGEST_HEAD_DIM = 256
LARGEST_BLOCK = 256
MOST_ROWS = 24_576
"""Whose running sum of tiles fits into the shared memory of a block on every supported device."""


class CudaAttention:
    """The backend for CUDA devices that `available.why_not` has nothing against."""

    def decode(
        self,
        query: torch.Tensor,
        context: PagedContext,
        plan: DecodePlan | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `AttentionBackend.decode`; only where `decode_refusal` finds no reason."""
        from nano_batch.attention.cuda.decode import paged_decode

        return paged_decode(query, context, plan, out)

    def prefill(
        self, query: torch.Tensor, query_start_loc: torch.Tensor, context: PagedContext
    ) -> torch.Tensor:
        """See `AttentionBackend.prefill`. What the library cannot do, plain PyTorch does, and says so.

        The host waits for the lengths of the rows; a `PrefillPlan` spares it that.
        """
        caches = context.key_cache, context.value_cache
        refusal = library_refusal(query, *caches, context.scale, context.soft_cap)
        if refusal is None:
            lens, table, window = context.context_lens, context.block_table, context.sliding_window
            plan = PrefillPlan(query_start_loc, lens, table, context.block_size, sliding_window=window)
            return prefill_planned(
                query, *caches, plan, scale=context.scale, key_scale=context.key_scale,
                value_scale=context.value_scale,
            )  # fmt: skip
        say_once(f"paged prefill on a CUDA device runs in plain PyTorch: {refusal}", warn=True)
        return TorchAttention().prefill(query, query_start_loc, context)


def decode_refusal(
    query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor
) -> NanoBatchError | None:
    """The error that says why the decode kernels do not take this case; None where they do.

    `query` is [rows, num_heads, head_dim]; that it and the caches agree was checked before.
    """
    rows, _, head_dim = query.shape
    if query.dtype not in KERNEL_DTYPES:
        return DtypeError(f"the query is {query.dtype}; the kernel takes float16, bfloat16 and float32")
    if head_dim % 4 or not 0 < head_dim <= LARGEST_HEAD_DIM:
        return ShapeError(f"head_dim is {head_dim}; the kernel takes multiples of 4 up to {LARGEST_HEAD_DIM}")
    if key_cache.shape[1] > LARGEST_BLOCK:
        return ShapeError(f"block_size is {key_cache.shape[1]}; the kernel takes at most {LARGEST_BLOCK}")
    if rows > MOST_ROWS:
        return ShapeError(f"there are {rows} rows; a plan takes at most {MOST_ROWS}")
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
        if cache.stride(-1) != 1:
            return ShapeError(f"{name} has strides {cache.stride()}; the kernel needs the last to be 1")
    return None
