"""One query a sequence over a paged cache, by this package's CUDA kernels (`decode.cu`, `decode_plain.cu`).

A step has two launches: the plan, which cuts the line of all tiles into equal shares (`plan.cu`), and the
attention itself. The plan depends on the context lengths only: a model makes it once a step, and every layer
uses it. Neither launch waits for the host or depends on the lengths in its grid, so that a CUDA graph that
holds them is right for any lengths, tables and padding rows.

Splitting a context over blocks is that of Dao et al., "Flash-Decoding for long-context inference" (2023);
equal shares that cross the borders of the work that they cut are those of Osama et al., "Stream-K" (2023).
"""

from __future__ import annotations

from ctypes import c_float, c_int32, c_int64, c_uint32
from functools import cache
from typing import Any

import torch

from nano_batch.attention.base import PagedContext
from nano_batch.attention.cuda.launch import kernel
from nano_batch.attention.cuda.variant import FP8, Variant, choose
from nano_batch.errors import ShapeError

LEAST_TILES = 4
"""Fewer tiles are no share: merging its part would cost more than reading it."""
PLAN_THREADS = 1024
SHARE_WORDS = 8
MOST_STRIDE = 2**32
"""Bytes, exclusive, that the tensor-core kernel multiplies a block id with."""


class DecodePlan:
    """The shares of a decode step, made on the device from the context lengths; one for all layers.

    A plan also owns the memory in which the parts of split contexts meet: what uses one plan runs on one
    stream, one after the other.

    Args:
        query: [rows, num_heads, head_dim], whose values are not looked at, as of all tensors here.
        key_cache, value_cache: [num_blocks, block_size, num_kv_heads, head_dim].
        block_table: [rows, max_blocks].
        sliding_window, soft_cap: as in `paged_attention_fwd`.

    Raises:
        ShapeError: there is more work than the plan's 32-bit counts hold.
    """

    def __init__(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        block_table: torch.Tensor,
        *,
        sliding_window: int | None = None,
        soft_cap: float | None = None,
    ) -> None:
        """Allocate the plan; `update` makes it."""
        self.variant = variant = variant_of(query, key_cache, value_cache, block_table, soft_cap is not None)
        self.rows, self.window = len(query), sliding_window or 0
        self.heads = key_cache.shape[2] * variant.parts_of_group
        tiles = self.rows * self.heads * (-(-block_table.shape[1] * variant.block_size // variant.tile) + 1)
        if tiles >= 2**31:
            raise ShapeError(
                f"{self.rows} rows of {block_table.shape[1]} blocks are {tiles} tiles; most is 2^31 - 1"
            )
        self.workers = multiprocessors(query.device) * variant.blocks_per_sm
        words = (SHARE_WORDS + 1) * self.workers + self.rows
        self.memory = torch.empty(words, dtype=torch.int32, device=query.device)
        floats = 2 * self.workers * variant.heads * (variant.head_dim + 2)
        self.parts = torch.empty(floats, dtype=torch.float32, device=query.device)

    def update(self, context_lens: torch.Tensor) -> None:
        """Make the plan for context_lens [rows] (int32 or int64), on the current stream."""
        _plan(context_lens, self.memory, self.heads, self.window, self.workers, self.variant.tile)

    def shares(self) -> torch.Tensor:
        """[workers, 6] int32: row, head, first tile, tiles, first and last worker of the pairs at the ends."""
        return self.memory[: SHARE_WORDS * self.workers].view(self.workers, SHARE_WORDS)[:, :6]


def paged_decode(query: torch.Tensor, context: PagedContext, plan: DecodePlan | None = None) -> torch.Tensor:
    """Attend from one query a row: [rows, num_heads, head_dim] -> the same shape and dtype, contiguous.

    Args:
        plan: updated for `context.context_lens`; None makes one for this call.
    """
    if len(query) == 0:
        return torch.empty_like(query, memory_format=torch.contiguous_format)
    if plan is None:
        plan = DecodePlan(query, context.key_cache, context.value_cache, context.block_table,
                          sliding_window=context.sliding_window, soft_cap=context.soft_cap)  # fmt: skip
        plan.update(context.context_lens)
    key_factor, key_scale = _factor_and_tensor(context.key_scale)
    value_factor, value_scale = _factor_and_tensor(context.value_scale)
    output: torch.Tensor = _decode(
        query, context.key_cache, context.value_cache, context.block_table, plan.memory, plan.parts,
        plan.workers, context.scale * key_factor, context.soft_cap or 0.0, plan.window,
        key_scale, value_scale, value_factor,
    )  # fmt: skip
    return output


def _factor_and_tensor(scale: float | torch.Tensor) -> tuple[float, torch.Tensor | None]:
    """A number goes into the kernel's own factors, a tensor stays on the device."""
    return (1.0, scale) if isinstance(scale, torch.Tensor) else (float(scale), None)


@torch.library.custom_op("nano_batch::plan_decode", mutates_args=("memory",))
def _plan(
    context_lens: torch.Tensor, memory: torch.Tensor, heads: int, window: int, workers: int, tile: int
) -> None:
    rows = len(context_lens)
    defines = {"TILE": tile, "LENGTH_TYPE": "int" if context_lens.dtype == torch.int32 else "long long"}
    run = kernel("plan.cu", defines, "plan", memory.device)
    args: list[Any] = [context_lens.contiguous(), c_int32(rows), c_int32(heads), c_int32(window), c_int32(workers),
            c_int32(LEAST_TILES), memory]  # fmt: skip
    run.launch((1, 1, 1), PLAN_THREADS, 4 * (rows + 1), args)


@_plan.register_fake
def _(*_: Any) -> None:
    return None


@torch.library.custom_op("nano_batch::paged_decode", mutates_args=("plan", "parts"))
def _decode(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    plan: torch.Tensor,
    parts: torch.Tensor,
    workers: int,
    scale: float,
    soft_cap: float,
    window: int,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    value_factor: float,
) -> torch.Tensor:
    variant = variant_of(query, key_cache, value_cache, block_table, soft_cap != 0)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    args = decode_arguments(variant, query, key_cache, value_cache, block_table, plan, parts, output,
                            scale, soft_cap, window, key_scale, value_scale, value_factor)  # fmt: skip
    run = kernel(variant.source, variant.defines(), "decode", query.device)
    run.launch((workers, 1, 1), 32 * variant.warps, variant.shared_bytes, args, pdl=True)
    return output


@_decode.register_fake
def _(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def decode_arguments(
    variant: Variant,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    plan: torch.Tensor,
    parts: torch.Tensor,
    output: torch.Tensor,
    scale: float,
    soft_cap: float,
    window: int,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    value_factor: float,
) -> list[Any]:
    """The parameters of a decode kernel, as `Kernel.launch` takes them."""
    stride = c_uint32 if variant.source == "decode.cu" else c_int64
    return [
        query, c_int64(query.stride(0)), c_int64(query.stride(1)),
        key_cache, *(stride(size) for size in _byte_strides(key_cache)),
        value_cache, *(stride(size) for size in _byte_strides(value_cache)),
        block_table, c_int64(block_table.stride(0)), plan, parts, output,
        c_int32(len(query)), c_int32(key_cache.shape[2]), c_float(scale), c_float(soft_cap), c_int32(window),
        *_scale_arguments(key_scale), *_scale_arguments(value_scale), c_float(value_factor),
    ]  # fmt: skip


def _scale_arguments(scale: torch.Tensor | None) -> list[Any]:
    return [scale, c_int32(0 if scale is None or scale.numel() == 1 else 1)]


def _byte_strides(cache: torch.Tensor) -> tuple[int, int, int]:
    block, token, head, _ = cache.stride()
    return block * cache.itemsize, token * cache.itemsize, head * cache.itemsize


def variant_of(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    soft_cap: bool,
) -> Variant:
    """The variant for these tensors, of which only shapes, dtypes, strides and addresses are looked at."""
    aligned = query.data_ptr() % 4 == 0 and all(stride % 2 == 0 for stride in query.stride()[:2])
    for cache_ in (key_cache, value_cache):
        strides = _byte_strides(cache_)
        aligned = aligned and cache_.data_ptr() % 16 == 0
        aligned = aligned and all(stride % 16 == 0 and stride < MOST_STRIDE for stride in strides)
    apart, value_apart = _byte_strides(key_cache)[1], _byte_strides(value_cache)[1]
    return choose(
        query.dtype, key_cache.dtype == FP8, query.shape[-1], query.shape[1] // key_cache.shape[2],
        key_cache.shape[1], block_table.dtype, soft_cap, aligned, apart if apart == value_apart else 0,
    )  # fmt: skip


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device."""
    return torch.cuda.get_device_properties(device).multi_processor_count
