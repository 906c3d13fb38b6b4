"""One query a sequence over a paged cache, by this package's CUDA kernels (`decode*.cu`).

A step has two launches: the plan, which cuts the line of all tiles into equal shares (`plan.cu`), and the
attention itself. The plan depends on the context lengths only: a model makes it once a step, and every layer
uses it. Neither launch waits for the host or depends on the lengths in its grid, so that a CUDA graph that
holds them is right for any lengths, tables and padding rows.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_uint32, c_void_p
from typing import Any

import torch

from nano_batch.attention.base import PagedContext
from nano_batch.attention.cuda import SOURCES
from nano_batch.attention.cuda.cache import SlotStrides, TokenStrides
from nano_batch.attention.cuda.plan import (
    DecodePlan,
    parts_floats,
    variant_of,
    workers_of,
)
from nano_batch.attention.cuda.variant import Variant
from nano_batch.attention.rope import Rope
from nano_batch.cuda.launch import LARGEST_INT, is_hopper, kernel
from nano_batch.cuda.tensor_map import cache_map
from nano_batch.cuda.vectors import byte_strides, in_pairs
from nano_batch.errors import DeviceError, InvalidArgumentError, ShapeError

BEHIND_PRODUCTS = range(25, 129)
"""Rows of which a kernel that loads through a cache begins, with a settled plan, when all before has ended.

On Hopper a model's product of so few rows is before the writing that is before it, and its blocks have all
fast memory of a multiprocessor as shared memory. It stays so while one is there, and what begins then has no
cache: from 25 rows on that costs more than an early beginning gains.
"""


def paged_decode(
    query: torch.Tensor,
    context: PagedContext,
    plan: DecodePlan | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend from one query a row: [rows, num_heads, head_dim] -> the same shape and dtype, contiguous.

    Args:
        plan: updated for `context.context_lens`; None makes one for this call.
        out: where the result goes, contiguous; None, or without a plan: a new tensor.
    """
    key_factor, key_scale = _factor_and_tensor(context.key_scale)
    value_factor, value_scale = _factor_and_tensor(context.value_scale)
    caches = context.key_cache, context.value_cache, context.block_table
    window, soft_cap = context.sliding_window or 0, context.soft_cap or 0.0
    numbers = context.scale * key_factor, soft_cap, min(window, LARGEST_INT)
    scales = key_scale, value_scale, value_factor
    output: torch.Tensor
    if plan is None:
        output = _decode_alone(query, *caches, context.context_lens, *numbers, *scales)
        return output
    _check_window(plan, window)
    output = _like_query(query) if out is None else _checked_out(out, query)
    _decode(query, *caches, plan.memory, plan.parts, output, _sizes(plan), plan.settled, *numbers, *scales)
    return output


def paged_decode_writing(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rope: Rope,
    context: PagedContext,
    plan: DecodePlan,
) -> torch.Tensor:
    """As `paged_decode`, but query and keys are turned first, and keys and values written to the cache.

    Args:
        keys, values: [rows, num_kv_heads, head_dim], each row's newest, which `context.context_lens` counts.
        plan: one that `writes`.
    """
    window = context.sliding_window or 0
    _check_window(plan, window)
    output = _like_query(query)
    given = query, keys, values, rope.cosines, rope.sines
    caches = context.key_cache, context.value_cache, context.block_table
    numbers = context.scale, context.soft_cap or 0.0, min(window, LARGEST_INT)
    _decode_writing(*given, *caches, plan.memory, plan.parts, output, _sizes(plan), *numbers)
    return output


def _check_window(plan: DecodePlan, window: int) -> None:
    if plan.window != window:
        raise InvalidArgumentError(
            f"the plan is for sliding_window={plan.window or None}, not {window or None}"
        )


class Newest(ctypes.Structure):
    """Where the newest keys and values come from and go to, and the turns of all positions."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "key_cache", "value_cache", "cosines", "sines")),
        ("key", TokenStrides), ("value", TokenStrides),
        ("key_slot", SlotStrides), ("value_slot", SlotStrides), ("blocks", c_int64),
    )  # fmt: skip

    @classmethod
    def of(
        cls,
        keys: torch.Tensor,
        values: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
    ) -> Newest:
        """Of keys and values, their caches, cosines and sines."""
        tensors = keys, values, key_cache, value_cache, cosines, sines
        return cls(
            *(tensor.data_ptr() for tensor in tensors), TokenStrides.of(keys), TokenStrides.of(values),
            SlotStrides.of(key_cache), SlotStrides.of(value_cache), len(key_cache),
        )  # fmt: skip


def _checked_out(out: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    if out.device != query.device:
        raise DeviceError(f"out is on {out.device}; the query is on {query.device}")
    if out.shape != query.shape or out.dtype != query.dtype or not out.is_contiguous():
        raise ShapeError(
            f"out is {list(out.shape)} of {out.dtype}, strides {out.stride()}; it needs to be contiguous "
            f"{list(query.shape)} of {query.dtype}"
        )
    return out


def _sizes(plan: DecodePlan) -> list[int]:
    """What the plan was made for."""
    return [plan.rows, plan.heads, plan.tile, plan.workers]


def _factor_and_tensor(scale: float | torch.Tensor) -> tuple[float, torch.Tensor | None]:
    """A number goes into the kernel's own factors, a tensor stays on the device."""
    return (1.0, scale) if isinstance(scale, torch.Tensor) else (float(scale), None)


@torch.library.custom_op("nano_batch::paged_decode", mutates_args=("plan", "parts", "output"))
def _decode(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    plan: torch.Tensor,
    parts: torch.Tensor,
    output: torch.Tensor,
    made_for: list[int],
    settled: bool,
    scale: float,
    soft_cap: float,
    window: int,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    value_factor: float,
) -> None:
    tensors = query, key_cache, value_cache, block_table, plan, parts, output
    numbers = scale, soft_cap, window, key_scale, value_scale, value_factor
    _launch(*tensors, made_for, settled, *numbers)


@torch.library.custom_op(
    "nano_batch::paged_decode_writing", mutates_args=("key_cache", "value_cache", "plan", "parts", "output")
)
def _decode_writing(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    plan: torch.Tensor,
    parts: torch.Tensor,
    output: torch.Tensor,
    made_for: list[int],
    scale: float,
    soft_cap: float,
    window: int,
) -> None:
    query, keys, values, cosines, sines = map(in_pairs, (query, keys, values, cosines, sines))
    tensors = query, key_cache, value_cache, block_table, plan, parts, output
    newest = Newest.of(keys, values, key_cache, value_cache, cosines, sines)
    _launch(*tensors, made_for, True, scale, soft_cap, window, None, None, 1.0, newest)


def _launch(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    plan: torch.Tensor,
    parts: torch.Tensor,
    output: torch.Tensor,
    made_for: list[int],
    settled: bool,
    scale: float,
    soft_cap: float,
    window: int,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    value_factor: float,
    newest: Newest | None = None,
) -> None:
    query, block_table = _last_contiguous(query), _last_contiguous(block_table)
    variant = variant_of(query, key_cache, value_cache, block_table, soft_cap != 0, settled)
    *promised, workers = made_for
    needed = [len(query), key_cache.shape[2] * variant.parts_of_group, variant.tile]
    floats = parts_floats(variant, workers)
    if promised != needed or workers > workers_of(variant, query.device) or len(parts) < floats:
        raise ShapeError(
            f"the plan is for [rows, heads, tokens of a tile] {promised} and {len(parts)} sums of {workers} "
            f"workers; these tensors need {needed} and {floats}"
        )
    if newest is not None and not variant.copied:
        raise InvalidArgumentError("the plan writes keys and values, but not to caches that lie as these")
    if len(query) > 0:
        args = decode_arguments(variant, query, key_cache, value_cache, block_table, plan, parts, output,
                                scale, soft_cap, window, key_scale, value_scale, value_factor)  # fmt: skip
        if variant.copied:
            args.append(newest or Newest())
        defines = variant.defines(settled, newest is not None)
        run = kernel(SOURCES / variant.source, defines, "decode", query.device)
        grid, shared = (workers, 1, 1), variant.shared_bytes(workers)
        behind = settled and len(query) in BEHIND_PRODUCTS and is_hopper(query.device)
        overlaps = variant.copied or (variant.overlaps and not behind)
        run.launch(grid, variant.threads, shared, args, pdl=overlaps)


@torch.library.custom_op("nano_batch::paged_decode_alone", mutates_args=())
def _decode_alone(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    soft_cap: float,
    window: int,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    value_factor: float,
) -> torch.Tensor:
    """With a plan of its own: one operator, for a trace cannot see the addresses that a plan depends on."""
    plan = DecodePlan(query, key_cache, value_cache, block_table,
                      sliding_window=window or None, soft_cap=soft_cap or None)  # fmt: skip
    plan.update(context_lens)
    output = _like_query(query)
    _decode(
        query, key_cache, value_cache, block_table, plan.memory, plan.parts, output, _sizes(plan), False,
        scale, soft_cap, window, key_scale, value_scale, value_factor,
    )  # fmt: skip
    return output


def _like_query(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


_decode.register_fake(lambda *_: None)
_decode_writing.register_fake(lambda *_: None)
_decode_alone.register_fake(_like_query)


def _last_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


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
    caches: list[Any]
    if variant.copied:
        caches = [cache_map(cache, variant.tile) for cache in (key_cache, value_cache)]
    else:
        stride = c_uint32 if variant.source == "decode.cu" else c_int64
        caches = [
            part
            for cache in (key_cache, value_cache)
            for part in (cache, *(stride(size) for size in byte_strides(cache)))
        ]
    return [
        query, c_int64(query.stride(0)), c_int64(query.stride(1)), *caches,
        block_table, c_int64(block_table.stride(0)), plan, parts, output,
        c_int32(len(query)), c_int32(key_cache.shape[2]), c_float(scale), c_float(soft_cap), c_int32(window),
        *_scale_arguments(key_scale), *_scale_arguments(value_scale), c_float(value_factor),
    ]  # fmt: skip


def _scale_arguments(scale: torch.Tensor | None) -> list[Any]:
    return [scale, c_int32(0 if scale is None else scale.stride(0))]
