"""Prompts over a paged cache by this package's CUDA kernel (`prefill.cu`): keys are read where they lie."""

from __future__ import annotations

from ctypes import c_float, c_int32, c_int64, c_uint32

import torch

from nano_batch.attention.cuda import SOURCES
from nano_batch.attention.cuda.prefill_plan import PrefillPlan
from nano_batch.attention.cuda.variant import ELEMENTS, PAIR_BYTES
from nano_batch.attention.rope import Rope
from nano_batch.cuda.launch import LARGEST_INT, Argument, is_hopper, kernel, multiprocessors
from nano_batch.cuda.program import Macro
from nano_batch.cuda.tensor_map import PANEL_ALIGNMENT
from nano_batch.cuda.vectors import ACCESS_BYTES, SIXTEEN_BITS, begin_at, byte_strides, in_pairs

HEAD_DIMS = (64, 128)
WARPS = 4
ROWS = 16 * WARPS
"""Of a block's products: queries and their heads."""
KEYS = 64
"""Keys that a block has in shared memory, twice over."""
BLOCKS_PER_SM, MOST_BLOCKS_PER_SM = 2, 3
"""Blocks of a multiprocessor; on Hopper, whose products take fewer registers, of many blocks one more."""
MOST_PIECES = 2**32
"""Of `ACCESS_BYTES` in a cache: places are reckoned in 32 bits."""


def kernel_refusal(query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> str | None:
    """The reason why the kernel does not take this case; None where it does."""
    group, head_dim = query.shape[1] // key_cache.shape[2], query.shape[2]
    if query.dtype not in SIXTEEN_BITS or key_cache.dtype != query.dtype:
        return f"the kernel takes float16 and bfloat16, not {query.dtype} over {key_cache.dtype}"
    if head_dim not in HEAD_DIMS or group > ROWS:
        return f"the kernel takes head dims {HEAD_DIMS} and groups up to {ROWS}, not {head_dim} and {group}"
    if key_cache.shape[0] * key_cache.shape[1] > LARGEST_INT:
        return f"the cache has more than {LARGEST_INT} slots"
    if not begin_at(PAIR_BYTES, query) or query.stride(2) != 1:
        return f"the queries' strides {query.stride()} are not those of pairs"
    if key_cache.stride() != value_cache.stride():
        return f"the caches' strides differ: {key_cache.stride()} and {value_cache.stride()}"
    lasts = zip(key_cache.shape, byte_strides(key_cache), strict=False)  # of each dimension but the last
    if sum((size - 1) * stride for size, stride in lasts) >= MOST_PIECES * ACCESS_BYTES:
        return f"the cache spans more than {MOST_PIECES * ACCESS_BYTES} bytes"
    for cache in (key_cache, value_cache):
        if cache.stride(3) != 1 or not begin_at(ACCESS_BYTES, cache):
            return f"a cache's rows, of strides {cache.stride()}, do not begin at multiples of {ACCESS_BYTES}"
    return None


def prefill_by_kernel(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    plan: PrefillPlan,
    scale: float,
    rope: Rope | None = None,
    turned: int = 0,
) -> torch.Tensor:
    """Attend as the plan says: see `AttentionBackend.prefill`; only where `kernel_refusal` finds no reason.

    Tokens after the plan's last row get zeros; those before its first are left as the allocator gave them.
    With `rope` the queries from token `turned` on are turned where they are loaded.
    """
    rotation = (None, None, None) if rope is None else (rope.positions, rope.cosines, rope.sines)
    output: torch.Tensor = _prefill(
        query, key_cache, value_cache, plan.starts, plan.seen_starts, plan.slots, *rotation, turned,
        plan.window or 0, scale,
    )  # fmt: skip
    return output


def defines(
    element: torch.dtype, head_dim: int, group: int, block_size: int, blocks_per_sm: int, hopper: bool
) -> dict[str, Macro]:
    """The source's macros."""
    return {
        "ELEMENT": ELEMENTS[element], "HEAD_DIM": head_dim, "GROUP": group, "BLOCK_SIZE": block_size,
        "WARPS": WARPS, "KEYS": KEYS, "BLOCKS_PER_SM": blocks_per_sm, "HOPPER": int(hopper),
    }  # fmt: skip


@torch.library.custom_op("nano_batch::paged_prefill", mutates_args=())
def _prefill(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    starts: torch.Tensor,
    seen_starts: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor | None,
    cosines: torch.Tensor | None,
    sines: torch.Tensor | None,
    turned: int,
    window: int,
    scale: float,
) -> torch.Tensor:
    tokens, query_heads, head_dim = query.shape
    if cosines is not None and sines is not None:
        cosines, sines = in_pairs(cosines), in_pairs(sines)
    kv_heads = key_cache.shape[2]
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    if tokens:
        group = query_heads // kv_heads
        args: list[Argument] = [
            query, c_int64(query.stride(0)), c_int64(query.stride(1)),
            key_cache, value_cache, *(c_uint32(stride // ACCESS_BYTES) for stride in byte_strides(key_cache)),
            starts, seen_starts, slots, positions, cosines, sines, c_int32(turned), output,
            c_int32(len(starts) - 1), c_int32(tokens), c_int32(min(window, LARGEST_INT)), c_float(scale),
        ]  # fmt: skip
        grid, hopper = (-(-tokens // (ROWS // group)), kv_heads, 1), is_hopper(query.device)
        many = hopper and grid[0] * kv_heads > BLOCKS_PER_SM * multiprocessors(query.device)
        many = many and group.bit_count() == 1  # what is reckoned with others takes too many registers
        blocks_per_sm = MOST_BLOCKS_PER_SM if many else BLOCKS_PER_SM
        macros = defines(query.dtype, head_dim, group, key_cache.shape[1], blocks_per_sm, hopper)
        run = kernel(SOURCES / "prefill.cu", macros, "prefill", query.device)
        shared_bytes = 2 * 2 * KEYS * head_dim * query.element_size()  # keys and values, twice over
        run.launch(grid, 32 * WARPS, shared_bytes + hopper * PANEL_ALIGNMENT, args, pdl=True)
    return output


@_prefill.register_fake
def _(query: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)
