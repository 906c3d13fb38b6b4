"""How the decode kernel is built for a case: which source, how large its tiles and rings are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from nano_batch.attention.cuda.program import Macro

ELEMENTS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
FP8 = torch.float8_e4m3fn
TABLE_TYPES = {torch.int32: "int", torch.int64: "long long"}
MATRIX_COLUMNS = 8
"""Query heads that one matrix of the tensor-core kernel takes."""
MOST_OUTPUTS = 2 * 128 * MATRIX_COLUMNS
"""Most sums of a warp (heads times dimensions): what its registers hold."""
MOST_STAGES = 6
PADDING = 16
"""Bytes between rows in shared memory."""
RESERVED = 1024
"""Shared memory that a block takes beyond what it asks for, and some for its own."""


@dataclass(frozen=True)
class Variant:
    """One way to build `decode.cu` (tensor cores) or `decode_plain.cu`; names as their macros."""

    source: str
    head_dim: int
    group: int  # query heads of a key/value head
    heads: int  # of these, what a block takes at once
    block_size: int
    tile: int  # tokens that a warp takes at once
    warps: int
    stages: int  # tiles of a warp in shared memory
    blocks_per_sm: int
    element: torch.dtype
    fp8: bool
    soft_cap: bool
    table: torch.dtype
    token_bytes: int  # between neighbouring tokens of a block; 0 where keys and values differ

    def defines(self) -> dict[str, Macro]:
        """The macros."""
        return {
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

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: the rings, then two places for the warps' sums."""
        return self.warps * self.stages * self.stage_bytes + self.sums_bytes

    @property
    def stage_bytes(self) -> int:
        """A tile of keys and of values."""
        row = self.head_dim * (1 if self.fp8 else self.element.itemsize) + PADDING
        return 2 * self.tile * row

    @property
    def sums_bytes(self) -> int:
        """`WarpSums`, twice."""
        return 2 * self.warps * self.heads * (self.head_dim + 4 + 2) * 4

    @property
    def parts_of_group(self) -> int:
        """Blocks that one key/value head's query heads need."""
        return -(-self.group // self.heads)


@cache
def choose(
    element: torch.dtype,
    fp8: bool,
    head_dim: int,
    group: int,
    block_size: int,
    table: torch.dtype,
    soft_cap: bool,
    aligned: bool,
    token_bytes: int,
    shared_per_sm: int,
) -> Variant:
    """The variant for a case.

    Args:
        element: of queries and outputs.
        fp8: whether the cache holds float8 (e4m3).
        aligned: whether rows of the caches begin at multiples of 16 bytes, and pairs of a query's elements at
            multiples of 4.
        token_bytes: between neighbouring tokens of a block; 0 where keys and values differ.
        shared_per_sm: bytes of shared memory of a multiprocessor.
    """
    tensor_cores = element != torch.float32 and head_dim % 16 == 0 and aligned
    if not tensor_cores:
        return Variant("decode_plain.cu", head_dim, group, min(group, 4), block_size, 16, 4, 0, 4,
                       element, fp8, soft_cap, table, 0)  # fmt: skip
    heads = min(group, max(MATRIX_COLUMNS, MOST_OUTPUTS // head_dim // MATRIX_COLUMNS * MATRIX_COLUMNS))
    blocks, warps = 2, 4
    least = Variant("decode.cu", head_dim, group, heads, block_size, 32 if fp8 else 16, warps, 1, blocks,
                    element, fp8, soft_cap, table, token_bytes)  # fmt: skip
    rings = shared_per_sm // blocks - RESERVED - least.sums_bytes
    stages = min(MOST_STAGES, rings // (warps * least.stage_bytes))
    return Variant(**{**vars(least), "stages": max(2, stages)})
