"""Paged attention by the core's kernels for a processor, which read keys and values where they lie."""

from __future__ import annotations

import torch

from nano_batch import cpu
from nano_batch.attention.base import PagedContext
from nano_batch.errors import DeviceError, DtypeError, InvalidArgumentError, NanoBatchError, ShapeError


class CpuAttention:
    """The backend for what `cpu_refusal` has nothing against; decodes and prompts are one kernel."""

    def decode(self, query: torch.Tensor, context: PagedContext) -> torch.Tensor:
        """See `AttentionBackend.decode`."""
        return self.prefill(query, torch.arange(len(query) + 1, dtype=torch.int32), context)

    def prefill(
        self, query: torch.Tensor, query_start_loc: torch.Tensor, context: PagedContext
    ) -> torch.Tensor:
        """See `AttentionBackend.prefill`."""
        table, lens, starts = context.block_table, context.context_lens, query_start_loc
        return cpu.paged_attention(
            query, context.key_cache, context.value_cache, table.int(), lens.int().contiguous(),
            starts.int().contiguous(), context.scale, context.sliding_window,
        )  # fmt: skip


def cpu_refusal(query: torch.Tensor, context: PagedContext) -> NanoBatchError | None:
    """The error that says why the core's kernel does not take this case; None where it does.

    `query` is [..., head_dim]; that it and the caches agree was checked before.
    """
    tensors = query, context.key_cache, context.value_cache
    if query.device.type != "cpu":
        return DeviceError(f"the query is on {query.device}")
    if not cpu.takes(*tensors):
        dtype = context.key_cache.dtype if query.dtype == torch.float32 else query.dtype
        if dtype != torch.float32:
            return DtypeError(f"keys or queries are {dtype}; the kernel takes float32")
        return DeviceError("the processor has no fused vector arithmetic, or gradients are asked for")
    if query.shape[-1] % cpu.HEAD_LANES:
        return ShapeError(f"head_dim is {query.shape[-1]}; the kernel takes multiples of {cpu.HEAD_LANES}")
    if context.soft_cap is not None:
        return InvalidArgumentError(f"soft_cap={context.soft_cap!r}; the kernel has none")
    for tensor in tensors:
        if tensor.stride(-1) != 1:
            return ShapeError(f"a tensor has strides {tensor.stride()}; the kernel needs the last to be 1")
    return None
