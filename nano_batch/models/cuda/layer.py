"""The kernels of a decoder layer on checked tensors: how many threads, which width, which program."""

from __future__ import annotations

from ctypes import c_float, c_int32, c_int64, c_uint32
from dataclasses import dataclass
from functools import cache

import torch

from nano_batch.cuda.launch import kernel, multiprocessors
from nano_batch.cuda.program import Macro
from nano_batch.cuda.tensor_map import PANEL, tensor_map
from nano_batch.cuda.vectors import ACCESS_BYTES, NAMES, vector_of
from nano_batch.errors import InvalidArgumentError
from nano_batch.models.cuda import SOURCES

WARP = 32
MOST_THREADS = 1024
MOST_KEPT = 2
"""Vectors that a thread of `rms_norm` keeps, 16,384 elements of 16 bits; longer rows are read twice."""
SILU_THREADS, SILU_VECTORS = 128, 2
LINEAR_THREADS, LINEAR_ROWS = 256, 16
"""Threads of a block of `few_rows`, and the weight's rows that it takes."""
FEW_ROWS = 8
"""Rows of x that `few_rows` takes."""
HOPPER_TOKENS = (64, 128, 192, 256)
"""Rows of x that `few_rows_hopper` is built for."""
HOPPER_SHARED_BYTES = 226 * 1024
"""Of a block, beside its barriers and what the device keeps: one block has a multiprocessor."""
HOPPER_ALIGNMENT = 1024
"""Of its stages."""
HOPPER_THREADS = {64: 192, 128: 320, 192: 512, 256: 320}
"""Of a block."""
# By the most rows of x; docs/notes/engine.md has the times of others.
_GATED_COLUMNS = {64: (64, 112), 128: (64, 112, 224), 192: (112, 224), 256: (64, 112)}
_LINEAR_COLUMNS, _LINEAR_SPLITS = (64, 96, 128), (1, 2)
_PARTED_SPLITS = {64: (1,), 128: (1,), 192: (2,), 256: (2,)}


def rms_norm(
    hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """See `ops.add_rms_norm` and, without a residual, `ops.rms_norm`; last dimensions are contiguous.

    With a residual hidden may be [parts, tokens, size] of float32, see `ops.add_parts_rms_norm`.
    """
    parts = hidden if hidden.dim() == 3 else hidden.unsqueeze(0)
    _, tokens, size = parts.shape
    output = weight.new_empty(tokens, size)
    moved = [hidden, weight, output] + ([] if residual is None else [residual])
    vector = vector_of(size, ACCESS_BYTES // weight.element_size(), moved)
    threads, vectors = row_threads(size // vector)
    defines: dict[str, Macro] = {
        "ELEMENT": NAMES[weight.dtype], "VEC": vector, "RESIDUAL": int(residual is not None),
        "THREADS": threads, "VECTORS": vectors, "PARTS": len(parts),
    }  # fmt: skip
    if tokens:
        apart, stride, _ = parts.stride()
        residual_stride = 0 if residual is None else residual.stride(0)
        args = (hidden, c_int64(stride), c_int64(apart), residual, c_int64(residual_stride), weight, output,
                c_int32(size), c_float(eps))  # fmt: skip
        run = kernel(SOURCES / "rms_norm.cu", defines, "rms_norm", hidden.device)
        run.launch((tokens, 1, 1), threads, 0, args, pdl=True)
    return output


def row_threads(vectors: int) -> tuple[int, int]:
    """The threads that take a row of so many vectors, and what each keeps: 0 where they are many."""
    each = -(-vectors // MOST_THREADS)
    if each > MOST_KEPT:
        return MOST_THREADS, 0
    return -(-vectors // (each * WARP)) * WARP, each


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See `ops.silu_mul`; the last dimension is contiguous."""
    tokens, size = len(gate_up), gate_up.shape[1] // 2
    output = gate_up.new_empty(tokens, size)
    vector = vector_of(size, ACCESS_BYTES // gate_up.element_size(), [gate_up, output])
    lanes, each = size // vector, SILU_THREADS * SILU_VECTORS
    if tokens * lanes > 2**32 - each:
        raise InvalidArgumentError(f"{tokens} tokens at once take {tokens * lanes} vectors of 2^32 - {each}")
    defines: dict[str, Macro] = {
        "ELEMENT": NAMES[gate_up.dtype], "VEC": vector, "THREADS": SILU_THREADS, "VECTORS": SILU_VECTORS,
    }  # fmt: skip
    if tokens:
        args = gate_up, c_int64(gate_up.stride(0)), output, c_uint32(lanes), c_uint32(tokens * lanes)
        run = kernel(SOURCES / "silu_mul.cu", defines, "silu_mul", gate_up.device)
        run.launch((-(-tokens * lanes // each), 1, 1), SILU_THREADS, 0, args, pdl=True)
    return output


def few_rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """See `ops.linear_few_rows`; at most `FEW_ROWS`, whose accesses of 16 bytes are aligned."""
    (rows, k), n = x.shape, len(weight)
    output = x.new_empty(rows, n)
    if rows:
        args = x, c_int64(x.stride(0)), weight, output, c_int32(rows), c_int32(n), c_int32(k)
        run = kernel(SOURCES / "few_rows.cu", {"ELEMENT": NAMES[x.dtype]}, "few_rows", x.device)
        run.launch((-(-n // LINEAR_ROWS), 1, 1), LINEAR_THREADS, 0, args, pdl=True)
    return output


def few_rows_hopper(
    x: torch.Tensor, weight: torch.Tensor, gated: bool = False, parts: int = 1
) -> torch.Tensor:
    """See `ops.linear_few_rows`, where gated `ops.gated_few_rows`, and for parts `ops.linear_parts`.

    At most `HOPPER_TOKENS[-1]` rows.
    """
    (rows, k), n = x.shape, len(weight) // (1 + gated)
    output = x.new_empty(rows, n) if parts == 1 else x.new_empty(parts, rows, n, dtype=torch.float32)
    if rows:
        blocks = multiprocessors(x.device)
        built = hopper_build(rows, len(weight), gated, parts, blocks)
        tiles, x_rows = -(-len(weight) // built.columns), -(-rows // 8) * 8
        maps = (tensor_map(weight, built.columns, built.panels, halves=gated),
                tensor_map(x, x_rows, built.panels))  # fmt: skip
        args = *maps, output, c_int32(rows), c_int32(x_rows), c_int32(n), c_int32(k)
        defines = built.defines(x.dtype, gated)
        run = kernel(SOURCES / "few_rows_hopper.cu", defines, "few_rows_hopper", x.device)
        grid = tiles if built.spread > 1 else min(tiles, blocks), built.spread, 1
        run.launch(grid, built.threads, built.shared_bytes, args, pdl=True)
    return output


@dataclass(frozen=True)
class HopperBuild:
    """How `few_rows_hopper` is built: rows of x, columns of a tile, blocks among which k is split.

    k is split among `parts`, whose sums go into memory, and each part's among `splits` blocks of a cluster.
    """

    tokens: int
    columns: int
    splits: int
    parts: int = 1

    @property
    def spread(self) -> int:
        """Blocks that take a tile."""
        return self.splits * self.parts

    @property
    def panels(self) -> int:
        """Of a chunk of k: two where they are small."""
        return 2 if self.tokens == HOPPER_TOKENS[0] else 1

    @property
    def threads(self) -> int:
        """Of a block."""
        return HOPPER_THREADS[self.tokens]

    @property
    def stage_bytes(self) -> int:
        """Of a chunk of x and of the weight, of 16-bit elements."""
        return 2 * self.panels * PANEL * (self.tokens + self.columns)

    @property
    def stages(self) -> int:
        """As many as there is room for."""
        return (HOPPER_SHARED_BYTES - HOPPER_ALIGNMENT) // self.stage_bytes

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.stages * self.stage_bytes + HOPPER_ALIGNMENT

    def defines(self, dtype: torch.dtype, gated: bool) -> dict[str, Macro]:
        """The source's macros."""
        return {
            "ELEMENT": NAMES[dtype], "TOKENS": self.tokens, "COLUMNS": self.columns, "PANELS": self.panels,
            "STAGES": self.stages, "SPLITS": self.splits, "PARTS": self.parts, "GATED": int(gated),
        }  # fmt: skip


@cache
def hopper_build(rows: int, n: int, gated: bool, parts: int, blocks: int) -> HopperBuild:
    """The build whose busiest block, of so many at once, reads least of a weight of n rows.

    Of equals the one with the widest tiles: the fewer tiles, the less often x is read.
    """
    tokens = next(size for size in HOPPER_TOKENS if size >= rows)
    if gated:
        columns = next(some for most, some in _GATED_COLUMNS.items() if most >= rows)
        builds = [HopperBuild(tokens, width, 1, parts) for width in columns]
    else:
        spreads = _LINEAR_SPLITS if parts == 1 else _PARTED_SPLITS[tokens]
        builds = [
            HopperBuild(tokens, width, splits, parts) for width in _LINEAR_COLUMNS for splits in spreads
        ]

    def most_read(build: HopperBuild) -> tuple[float, float]:
        tiles, width = -(-n // build.columns), build.columns / build.spread
        return -(-tiles * build.spread // blocks) * width, -width

    return min(builds, key=most_read)
