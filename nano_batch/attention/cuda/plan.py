"""The plan of a decode step: equal shares of all tiles, made on the device (`plan.cu`), for all layers.

Splitting a context over blocks is that of Dao et al., "Flash-Decoding for long-context inference" (2023);
equal shares that cross the borders of the work that they cut are those of Osama et al., "Stream-K" (2023).
"""

from __future__ import annotations

from ctypes import c_int32
from typing import Any

import torch

from nano_batch.attention import checks
from nano_batch.attention.cuda import SOURCES
from nano_batch.attention.cuda.backend import decode_refusal
from nano_batch.attention.cuda.variant import FEW_DECODES, FP8, PAIR_BYTES, Variant, choose
from nano_batch.cuda.available import why_not
from nano_batch.cuda.launch import LARGEST_INT, is_hopper, kernel, multiprocessors
from nano_batch.cuda.program import Macro
from nano_batch.cuda.vectors import ACCESS_BYTES, begin_at, byte_strides
from nano_batch.errors import ShapeError

LEAST_TILES = 4
"""Fewer tiles are no share: merging its part would cost more than reading it."""
PLAN_THREADS = 256
SHARE_WORDS = 8
MOST_STRIDE = 2**32
"""Bytes, exclusive, that the tensor-core kernel multiplies a block id with."""
MOST_BYTES = 2**36
"""Of a cache, whose tokens' places it counts in units of 16 bytes where a tile lies in several blocks."""


class DecodePlan:
    """The shares of a decode step, made on the device from the context lengths; one for all layers.

    A plan also owns the memory in which the parts of split contexts meet: what uses one plan runs on one
    stream, one after the other.

    Args:
        query, key_cache, value_cache, block_table, sliding_window, soft_cap: as for `paged_attention_fwd`,
            the query also without its dimension of 1; no value of a tensor is looked at.
        settled: a promise that the plan was updated, and table, keys and values written, but for each row's
            last token, before the kernel began that comes before the attention in its stream: what it
            reads first is then on its way while that kernel ends. On Hopper tiles of most caches of 16-bit
            elements (`COPIED_DIMS`) are then copied to shared memory: behind other kernels of a model that is
            faster, alone it was not measured.

    Attributes:
        writes: whether `paged_attention_writing` takes it: its tiles are copied.

    Raises:
        ShapeError: there is more work than the plan's 32-bit counts hold.
        DtypeError, DeviceError, MissingExtraError, InvalidArgumentError.
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
        settled: bool = False,
    ) -> None:
        """Allocate the plan; `update` makes it."""
        self.settled = settled
        query = query.squeeze(2) if query.dim() == 4 else query
        checks.check_cache(query, key_cache, value_cache, block_size=None)
        checks.check_table(len(query), block_table, query.device)
        if refusal := why_not(query.device) or decode_refusal(query, key_cache, value_cache):
            raise refusal
        self.rows = len(query)
        self.window = checks.checked_window(sliding_window) or 0
        capped = checks.checked_soft_cap(soft_cap) is not None
        variant = variant_of(query, key_cache, value_cache, block_table, capped, settled)
        self.writes = variant.copied
        self.heads, self.tile = key_cache.shape[2] * variant.parts_of_group, variant.tile
        _check_counts(self.rows, self.heads, block_table.shape[1] * variant.block_size, self.tile)
        self.workers = workers_of(variant, query.device)
        words = (SHARE_WORDS + 1) * self.workers + self.rows
        self.memory = torch.empty(words, dtype=torch.int32, device=query.device)
        self.parts = torch.empty(
            parts_floats(variant, self.workers), dtype=torch.float32, device=query.device
        )

    def update(self, context_lens: torch.Tensor) -> None:
        """Make the plan for context_lens [rows] (int32 or int64), on the current stream.

        Raises:
            ShapeError, DtypeError, DeviceError.
        """
        checks.check_lengths(self.rows, context_lens, self.memory.device)
        window = min(self.window, LARGEST_INT)
        _plan(context_lens, self.memory, self.heads, window, self.workers, self.tile)

    def shares(self) -> torch.Tensor:
        """[workers, 6] int32: row, head, tile, tiles, first_worker, last_worker of `Share` (`walk.cuh`)."""
        return self.memory[: SHARE_WORDS * self.workers].view(self.workers, SHARE_WORDS)[:, :6]


@torch.library.custom_op("nano_batch::plan_decode", mutates_args=("memory",))
def _plan(
    context_lens: torch.Tensor, memory: torch.Tensor, heads: int, window: int, workers: int, tile: int
) -> None:
    rows = len(context_lens)
    run = kernel(SOURCES / "plan.cu", plan_defines(tile, context_lens.dtype), "plan", memory.device)
    numbers = [c_int32(number) for number in (rows, heads, window, workers, LEAST_TILES)]
    run.launch((1, 1, 1), PLAN_THREADS, 4 * (rows + 1), [context_lens.contiguous(), *numbers, memory])


def plan_defines(tile: int, lengths: torch.dtype) -> dict[str, Macro]:
    """The macros of `plan.cu` for tiles of so many tokens and lengths of int32 or int64."""
    length_type = "int" if lengths == torch.int32 else "long long"
    return {"TILE": tile, "LENGTH_TYPE": length_type, "THREADS": PLAN_THREADS}


@_plan.register_fake
def _(*_: Any) -> None:
    return None


def _check_counts(rows: int, heads: int, tokens: int, tile: int) -> None:
    tiles = rows * heads * (-(-tokens // tile) + 1)
    if tiles > LARGEST_INT:
        raise ShapeError(f"{rows} rows of up to {tokens} tokens are {tiles} tiles; most is {LARGEST_INT}")


def variant_of(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    soft_cap: bool,
    settled: bool = False,
) -> Variant:
    """The variant for these tensors, of which only shapes, dtypes, strides and addresses are looked at."""
    copies = settled and is_hopper(query.device)
    aligned = begin_at(PAIR_BYTES, query)
    for cache_ in (key_cache, value_cache):
        strides = byte_strides(cache_)
        aligned = aligned and begin_at(ACCESS_BYTES, cache_) and max(strides) < MOST_STRIDE
        aligned = aligned and cache_.shape[0] * strides[0] <= MOST_BYTES
        copies = copies and min(strides) > 0
    apart, value_apart = byte_strides(key_cache)[1], byte_strides(value_cache)[1]
    return choose(
        len(query) <= FEW_DECODES, query.dtype, key_cache.dtype == FP8, query.shape[-1],
        query.shape[1] // key_cache.shape[2], key_cache.shape[1], block_table.dtype, soft_cap, aligned,
        apart if apart == value_apart else 0, copies,
    )  # fmt: skip


def workers_of(variant: Variant, device: torch.device) -> int:
    """Blocks of threads of a launch: what the device holds at once."""
    return multiprocessors(device) * variant.blocks_per_sm


def parts_floats(variant: Variant, workers: int) -> int:
    """Numbers in `Parts` (`combine.cuh`)."""
    return 2 * workers * variant.heads * (variant.head_dim + 2)
