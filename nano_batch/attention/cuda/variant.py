"""How the decode kernel is built for a case: which source, how many tiles are on their way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from nano_batch.cuda.launch import WHOLE_SHARED_BYTES
from nano_batch.cuda.program import Macro
from nano_batch.cuda.tensor_map import PANEL_ALIGNMENT

ELEMENTS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
FP8 = torch.float8_e4m3fn
TABLE_TYPES = {torch.int32: "int", torch.int64: "long long"}
PAIR_BYTES = 4
"""Of two elements of 16 bits, as which a query is read."""
TILE = 16
MATRIX_COLUMNS = 8
"""Query heads that one matrix of the tensor-core kernel takes."""
MOST_HEADS = {64: 16, 80: 16, 96: 16, 128: 16}
"""Query heads that a block takes at once, as its registers allow; one matrix of them at other dimensions."""
WARPS = 4
FEW_DECODES = 48
"""Rows up to which a block has so many warps: the more of a context in one block, the fewer parts to merge.
Of more rows it may have half as many, and a multiprocessor twice the blocks: fewer wait for each other."""
MOST_HEADS_OF_HALF = 4
"""Query heads of a block of half the warps: of more the parts of all workers (`merge`) take so much shared
memory that a multiprocessor has no room for twice the blocks."""
AHEAD_BYTES = 131072
"""Of keys and values on their way to a multiprocessor: with half of it short steps wait longer."""
ALL_REGISTERS = 65536
OTHER_REGISTERS = 75
"""Of a thread, for everything but tiles on their way, the query and the sums,"""
SCATTERED_REGISTERS = 40
"""which takes so many more where the tokens of a tile lie in several blocks."""
COLUMN_REGISTERS = 40
"""For each further matrix of query heads, beside its query and sums."""
MOST_QUERY_DIM = 128
"""With more dimensions the query is in shared memory; beside a float8 cache it always is."""
MOST_THREAD_REGISTERS = 255
COPIED_DIMS = 64, 128
"""Dimensions of heads whose tiles of 16-bit elements Hopper's copy engine brings."""
COPIED_WARPS = 4
"""Of a block that reads them; one more has them copied."""


@dataclass(frozen=True)
class Variant:
    """One way to build `decode.cu`, `decode_hopper.cu` or `decode_plain.cu`; names as their macros."""

    source: str
    head_dim: int
    group: int  # query heads of a key/value head
    heads: int  # of these, what a block takes at once
    block_size: int
    tile: int  # tokens that a warp takes at once
    warps: int
    stages: int  # tiles that are on their way: to a warp, or copied ones to a block
    blocks_per_sm: int
    element: torch.dtype
    fp8: bool
    soft_cap: bool
    table: torch.dtype
    token_bytes: int  # between neighbouring tokens of a block; 0 where keys and values differ

    def defines(self, settled: bool = False, writes: bool = False) -> dict[str, Macro]:
        """The macros; settled: see `DecodePlan`; writes, of copied tiles: the newest keys and values."""
        return {
            **({"SETTLED": int(settled)} if self.source == "decode.cu" else {}),
            **({"WRITES": int(writes)} if self.copied else {}),
            "HEAD_DIM": self.head_dim,
            "GROUP": self.group,
            "HEADS": self.heads,
            "BLOCK_SIZE": self.block_size,
            "TILE": self.tile,
            "WARPS": self.warps,
            "STAGES": self.stages,
            "BLOCKS_PER_SM": self.blocks_per_sm,
            "ELEMENT": ELEMENTS[self.element],
            "FP8": int(self.fp8),
            "SOFT_CAP": int(self.soft_cap),
            "TABLE_TYPE": TABLE_TYPES[self.table],
            "TOKEN_BYTES": self.token_bytes,
        }

    def shared_bytes(self, workers: int) -> int:
        """Dynamic shared memory of a block: two places for its warps' sums, queries, and tiles.

        What merges the parts of at most `workers` workers takes the place of the sums (`merge`).
        """
        sums = _sums_bytes(self.warps, self.heads, self.head_dim)
        if self.source == "decode.cu" and (self.fp8 or self.head_dim > MOST_QUERY_DIM):
            dims = 4 * _load_width(1 if self.fp8 else 2)  # of one load of a token's key by four lanes
            columns = MATRIX_COLUMNS * -(-self.heads // MATRIX_COLUMNS)
            sums += self.warps * -(-self.head_dim // dims) * dims * columns * 2
        merged = max(sums, self.heads * (2 * workers + 1) * 4)
        return merged + (PANEL_ALIGNMENT + self.stages * _stage_bytes(self.head_dim) if self.copied else 0)

    @property
    def overlaps(self) -> bool:
        """Whether the kernel waits by itself for the one before it (programmatic dependent launch)."""
        return self.source != "decode_plain.cu"

    @property
    def copied(self) -> bool:
        """Whether Hopper's copy engine brings the tiles."""
        return self.source == "decode_hopper.cu"

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * (self.warps + self.copied)

    @property
    def parts_of_group(self) -> int:
        """Blocks that one key/value head's query heads need."""
        return -(-self.group // self.heads)


@cache
def choose(
    few: bool,
    element: torch.dtype,
    fp8: bool,
    head_dim: int,
    group: int,
    block_size: int,
    table: torch.dtype,
    soft_cap: bool,
    aligned: bool,
    token_bytes: int,
    copies: bool = False,
) -> Variant:
    """The variant for a case.

    Args:
        few: whether the step has at most `FEW_DECODES` rows.
        element: of queries and outputs.
        fp8: whether the cache holds float8 (e4m3).
        aligned: whether rows of the caches begin at multiples of 16 bytes, and pairs of a query's elements at
            multiples of 4.
        token_bytes: between neighbouring tokens of a block; 0 where keys and values differ.
        copies: whether Hopper's copy engine may bring the tiles.
    """
    scattered = block_size % TILE != 0 or token_bytes == 0
    tensor_cores = element != torch.float32 and head_dim % 16 == 0 and aligned
    if scattered and not fp8 and head_dim > MOST_QUERY_DIM:
        tensor_cores = False  # registers would not do
    if not tensor_cores:
        return Variant("decode_plain.cu", head_dim, group, min(group, 4), block_size, TILE, WARPS, 0, 4,
                       element, fp8, soft_cap, table, 0)  # fmt: skip
    if copies and not fp8 and head_dim in COPIED_DIMS and block_size % TILE == 0:
        return _copied(element, head_dim, group, block_size, table, soft_cap)
    heads = min(group, MATRIX_COLUMNS if scattered else MOST_HEADS.get(head_dim, MATRIX_COLUMNS))
    blocks, warps = _blocks_per_sm(fp8, head_dim, heads, scattered), WARPS
    stages = _stages(head_dim, heads, 1 if fp8 else element.itemsize, scattered, blocks)
    if not few and not fp8 and head_dim <= MOST_QUERY_DIM and heads <= MOST_HEADS_OF_HALF:
        blocks, warps = 2 * blocks, warps // 2
    return Variant("decode.cu", head_dim, group, heads, block_size, TILE, warps, stages, blocks,
                   element, fp8, soft_cap, table, token_bytes)  # fmt: skip


def _copied(
    element: torch.dtype, head_dim: int, group: int, block_size: int, table: torch.dtype, soft_cap: bool
) -> Variant:
    heads, warps = min(group, MOST_HEADS[head_dim]), COPIED_WARPS
    free = WHOLE_SHARED_BYTES - PANEL_ALIGNMENT - _sums_bytes(warps, heads, head_dim)
    stages = free // _stage_bytes(head_dim) // warps * warps
    return Variant("decode_hopper.cu", head_dim, group, heads, block_size, TILE, warps, stages, 1,
                   element, False, soft_cap, table, 0)  # fmt: skip


def _stage_bytes(head_dim: int) -> int:
    """Of a tile's keys and values, of 16-bit elements."""
    return 2 * TILE * head_dim * 2


def _sums_bytes(warps: int, heads: int, head_dim: int) -> int:
    """Two places for a block's sums (`WarpSums`)."""
    return 2 * warps * heads * (head_dim + 4 + 2) * 4


def _blocks_per_sm(fp8: bool, head_dim: int, heads: int, scattered: bool) -> int:
    """A tile of float8 is half the bytes and more work: it takes more warps to wait for as many."""
    if not fp8 or head_dim > MOST_QUERY_DIM or heads > MATRIX_COLUMNS:
        return 2
    return 3 if scattered else 4


def _stages(head_dim: int, heads: int, element_bytes: int, scattered: bool, blocks_per_sm: int) -> int:
    """Tiles on their way, as far as registers can take them, in loads of 16 bytes (`decode.cu`)."""
    width = _load_width(element_bytes)
    key_chunks, value_chunks = -(-head_dim // (4 * width)), -(-head_dim // (8 * width))
    columns = -(-heads // MATRIX_COLUMNS)
    in_shared = element_bytes == 1 or head_dim > MOST_QUERY_DIM
    sums, query = value_chunks * width * 2, 0 if in_shared else key_chunks * width // 2
    threads = 32 * WARPS * blocks_per_sm
    free = min(MOST_THREAD_REGISTERS, ALL_REGISTERS // threads) - OTHER_REGISTERS
    free -= columns * (sums + query) + (columns - 1) * COLUMN_REGISTERS
    free -= SCATTERED_REGISTERS if scattered else 0
    wanted = AHEAD_BYTES // (WARPS * blocks_per_sm * 2 * TILE * head_dim * element_bytes)
    return max(1, min(wanted, free // (8 * key_chunks + 16 * value_chunks)))


def _load_width(element_bytes: int) -> int:
    """Dimensions of a load."""
    return 16 // element_bytes
