"""Paged attention on CUDA: what runs in kernels, what a library does, what neither can."""

from __future__ import annotations

import torch

from nano_batch.attention.base import PagedContext
from nano_batch.attention.cuda.prefill import library_refusal, prefill_by_library
from nano_batch.attention.loud import say_once
from nano_batch.attention.torch_backend import TorchAttention
from nano_batch.errors import DtypeError, NanoBatchError, ShapeError

HEAD_DIMS = (64, 80, 96, 128, 256)
LARGEST_BLOCK = 256
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class CudaAttention:
    """The backend for CUDA devices that `available.why_not` has nothing against."""

    def decode(self, query: torch.Tensor, context: PagedContext) -> torch.Tensor:
        """See `AttentionBackend.decode`; only where `decode_refusal` finds no reason."""
        from nano_batch.attention.cuda.decode import paged_decode

        return paged_decode(query, context)

    def prefill(
        self, query: torch.Tensor, query_start_loc: torch.Tensor, context: PagedContext
    ) -> torch.Tensor:
        """See `AttentionBackend.prefill`. What the library cannot do, plain PyTorch does, and says so.

        The host waits for the lengths of the rows: a CUDA graph cannot hold this.
        """
        refusal = library_refusal(query, context)
        if refusal is None:
            return prefill_by_library(query, query_start_loc, context)
        say_once(f"paged prefill on a CUDA device runs in plain PyTorch: {refusal}", warn=True)
        return TorchAttention().prefill(query, query_start_loc, context)


def decode_refusal(query: torch.Tensor, context: PagedContext) -> NanoBatchError | None:
    """The error that says why the decode kernel does not take this case; None where it does."""
    if query.dtype not in DTYPES:
        return DtypeError(f"the query is {query.dtype}; the kernel takes float16, bfloat16 and float32")
    if query.shape[-1] not in HEAD_DIMS:
        return ShapeError(f"head_dim is {query.shape[-1]}; the kernel takes one of {HEAD_DIMS}")
    if context.block_size > LARGEST_BLOCK:
        return ShapeError(f"block_size is {context.block_size}; the kernel takes at most {LARGEST_BLOCK}")
    for name, cache in (("key_cache", context.key_cache), ("value_cache", context.value_cache)):
        if cache.stride(-1) != 1:
            return ShapeError(f"{name} has strides {cache.stride()}; the kernel needs the last to be 1")
    return None
