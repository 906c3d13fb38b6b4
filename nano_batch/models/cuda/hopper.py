"""Products that Hopper's own instructions compute on checked tensors: which tiles, how many blocks."""

from __future__ import annotations

from ctypes import c_float, c_int32
from dataclasses import dataclass
from functools import cache

import torch

from nano_batch.cuda.launch import WHOLE_SHARED_BYTES, kernel, multiprocessors
from nano_batch.cuda.program import Macro
from nano_batch.cuda.tensor_map import PANEL, PANEL_ALIGNMENT, tensor_map
from nano_batch.cuda.vectors import NAMES, up_to
from nano_batch.models.cuda import SOURCES

FEW_TOKENS = (64, 128, 192, 256)
"""Rows of x that `few_rows_hopper` is built for with x's rows first; the last is the most in either order."""
UNDIVIDED_ROWS, ADDING_COLUMNS, ADDING_SPLITS = 128, 64, 2
"""The most rows of x of products that leave a norm undivided, or divide; the columns of a tile of the former,
which is what a row of squares is of, and the blocks among which its k is split."""
_GROUPS = {64: 1, 128: 2, 192: 3, 256: 2}
FIRST_ROWS = 64
"""Of a product's first factor."""
MANY_THREADS, SHARERS = 384, 2
"""Of a block of `many_rows_hopper`; blocks that share a tile of x."""
BAND = 8
"""Tiles of x that meet the same tiles of the weight: what is read of both stays in the second-level cache."""
FILLED = 0.95
"""How much of the device `many_rows_hopper` needs to have work: with less the library's product is faster."""
# By the most rows of x; docs/notes/engine.md has the times of others.
_GATED_COLUMNS = {64: (64, 112), 128: (64, 112, 224), 192: (112, 224), 256: (64, 112)}
_LINEAR_COLUMNS, _LINEAR_SPLITS = (64, 96, 128), (1, 2)
_PARTED_SPLITS = {64: (1,), 128: (1,), 192: (2,), 256: (2,)}
_WEIGHT_FIRST_ROWS, _WEIGHT_FIRST_GATED, _GATED_ROWS = 240, 224, 208
"""The most rows of x of products with the weight's rows first; gated ones' columns, and most rows."""


def few_rows_hopper(
    x: torch.Tensor,
    weight: torch.Tensor,
    gated: bool = False,
    parts: int = 1,
    squares: torch.Tensor | None = None,
    eps: float = 0.0,
    panels: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `ops.linear_few_rows`, where gated `ops.gated_linear`, and for parts `ops.linear_parts`.

    At most `FEW_TOKENS[-1]` rows, with squares `UNDIVIDED_ROWS`.
    """
    rows, n = len(x), len(weight) // (1 + gated)
    output = x.new_empty((rows, n) if parts == 1 else (parts, rows, n))
    if rows:
        divides = squares is not None
        built = hopper_build(rows, len(weight), gated, parts, multiprocessors(x.device), divides=divides)
        _launch(built, x, weight if panels is None else panels, output, squares=squares, eps=eps)
    return output


def add_linear_hopper(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `ops.add_linear`; at most `UNDIVIDED_ROWS` rows."""
    rows, n = len(x), len(weight)
    output = torch.empty_like(residual)
    squares = x.new_empty(squares_shape(rows, n), dtype=torch.float32)
    if rows:
        built = hopper_build(rows, n, False, 1, multiprocessors(x.device), adds=True)
        _launch(built, x, weight, output, residual=residual, norm=norm, squares=squares)
    return output, squares


def _launch(
    built: HopperBuild,
    x: torch.Tensor,
    weight: torch.Tensor,  # or panels
    output: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    norm: torch.Tensor | None = None,
    squares: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    (rows, k), n = x.shape, output.shape[-1]
    tiles, x_rows = -(-n // (built.columns // (1 + built.gated))), up_to(rows, 8)
    maps = (tensor_map(weight, built.columns, built.panels, halves=built.gated),
            tensor_map(x, x_rows, built.panels))  # fmt: skip
    sizes = [c_int32(number) for number in (rows, x_rows, n, k)]
    of_norm = residual, norm, squares, c_int32(0 if squares is None else len(squares)), c_float(eps)
    run = kernel(SOURCES / "few_rows_hopper.cu", built.defines(x.dtype), "few_rows_hopper", x.device)
    grid = tiles if built.spread > 1 else min(tiles, multiprocessors(x.device)), built.spread, 1
    run.launch(grid, built.threads, built.shared_bytes, [*maps, output, *sizes, *of_norm], pdl=True)


def squares_shape(rows: int, size: int) -> tuple[int, int]:
    """Of the squares' sums of rows of so many columns: tiles, and rows of x as they are copied."""
    return -(-size // ADDING_COLUMNS), up_to(rows, 8)


@dataclass(frozen=True)
class HopperBuild:
    """How a kernel is built: rows of x and columns of a tile, blocks among which k is split.

    k is split among `parts`, whose sums go into memory, and each part's among `splits` blocks of a cluster.
    `weight_first`: the weight's rows are the first factor (`tile.cuh`), and `tokens` is a multiple of 8.
    `adds`, `divides`: the norm after it or before it is left undivided (`undivided_norm.cuh`).
    """

    tokens: int
    columns: int
    splits: int
    parts: int = 1
    gated: bool = False
    weight_first: bool = False
    adds: bool = False
    divides: bool = False

    @property
    def spread(self) -> int:
        """Blocks that take a tile."""
        return self.splits * self.parts

    @property
    def panels(self) -> int:
        """Of a chunk of k: two where they are small."""
        return 2 if self.tokens == FEW_TOKENS[0] else 1

    @property
    def groups(self) -> int:
        """Warpgroups that multiply."""
        if not self.weight_first:
            return _GROUPS[self.tokens]
        return 1 + (self.columns // (1 + self.gated) > FIRST_ROWS)

    @property
    def products(self) -> int:
        """Of a tile and one of k, those of rows that are there twice or not at all with them."""
        if not self.weight_first:
            return self.tokens * self.columns
        return self.tokens * self.groups * FIRST_ROWS * (1 + self.gated)

    @property
    def threads(self) -> int:
        """Of a block: those that multiply, and two warps, or four where registers are few or it divides."""
        lends = self.gated if self.weight_first else self.groups == 3
        return 128 * self.groups + (128 if lends or self.divides else 64)

    @property
    def stage_bytes(self) -> int:
        """Of a chunk of x and of the weight, of 16-bit elements."""
        return 2 * self.panels * PANEL * (self.tokens + self.columns)

    @property
    def stages(self) -> int:
        """As many as there is room for."""
        return (WHOLE_SHARED_BYTES - PANEL_ALIGNMENT) // self.stage_bytes

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.stages * self.stage_bytes + PANEL_ALIGNMENT

    def defines(self, dtype: torch.dtype) -> dict[str, Macro]:
        """The source's macros."""
        return {
            "ELEMENT": NAMES[dtype], "TOKENS": self.tokens, "COLUMNS": self.columns, "PANELS": self.panels,
            "STAGES": self.stages, "SPLITS": self.splits, "PARTS": self.parts, "GATED": int(self.gated),
            "WEIGHT_FIRST": int(self.weight_first), "ADDS": int(self.adds), "DIVIDES": int(self.divides),
        }  # fmt: skip


@cache
def hopper_build(
    rows: int, n: int, gated: bool, parts: int, blocks: int, *, adds: bool = False, divides: bool = False
) -> HopperBuild:
    """The build whose busiest block, of so many at once, reads least of a weight of n rows.

    Of equals the one that multiplies least, and of these the one with the widest tiles: the fewer tiles, the
    less often x is read.
    """
    tokens = next(size for size in FEW_TOKENS if size >= rows)
    if gated:
        columns = next(some for most, some in _GATED_COLUMNS.items() if most >= rows)
        shapes = [(width, 1) for width in columns]
    elif adds:
        shapes = [(ADDING_COLUMNS, ADDING_SPLITS)]
    else:
        spreads = _LINEAR_SPLITS if parts == 1 else _PARTED_SPLITS[tokens]
        shapes = [(width, splits) for width in _LINEAR_COLUMNS for splits in spreads]
    most = _GATED_ROWS if gated else _WEIGHT_FIRST_ROWS if parts > 1 or adds else 0
    sizes = [(tokens, shapes, False)]
    if FEW_TOKENS[0] < rows <= most:
        size = up_to(rows, 8 if rows > UNDIVIDED_ROWS else 16)  # fewer rows wait for memory, at any size
        sizes.append((size, [(_WEIGHT_FIRST_GATED, 1)] if gated else shapes, True))
    builds = [
        HopperBuild(size, width, splits, parts, gated, weight_first, adds, divides)
        for size, some, weight_first in sizes
        for width, splits in some
    ]

    def busiest(build: HopperBuild) -> tuple[float, float, float]:
        tiles = -(-n // build.columns)
        turns = -(-tiles * build.spread // blocks) / build.spread
        return turns * build.columns, turns * build.products, -build.columns / build.spread

    return min(builds, key=busiest)


MANY = HopperBuild(256, 128, 1, gated=True)
"""Of `many_rows_hopper`."""


def fill_the_device(rows: int, n: int, device: torch.device) -> bool:
    """Whether the tiles of `rows` rows and a weight of n leave little of the device without work."""
    pair_columns, at_once = SHARERS * MANY.columns, multiprocessors(device) // SHARERS
    pairs = -(-rows // MANY.tokens) * -(-n // pair_columns)
    turns = -(-pairs // at_once)
    return rows * n >= FILLED * turns * at_once * MANY.tokens * pair_columns


def many_rows_hopper(
    x: torch.Tensor, weight: torch.Tensor, panels: torch.Tensor | None = None
) -> torch.Tensor:
    """See `ops.gated_linear`: silu(gate) * up of any number of rows."""
    (rows, k), n = x.shape, len(weight) // 2
    output = x.new_empty(rows, n)
    if rows:
        read = weight if panels is None else panels
        maps = (tensor_map(read, MANY.columns, MANY.panels, halves=True),
                tensor_map(x, MANY.tokens // SHARERS, MANY.panels))  # fmt: skip
        args = *maps, output, c_int32(rows), c_int32(n), c_int32(k // PANEL)
        run = kernel(
            SOURCES / "many_rows_hopper.cu", many_rows_defines(x.dtype), "many_rows_hopper", x.device
        )
        blocks = multiprocessors(x.device) // SHARERS * SHARERS
        run.launch((blocks, 1, 1), MANY_THREADS, MANY.shared_bytes, args, pdl=True)
    return output


def many_rows_defines(dtype: torch.dtype) -> dict[str, Macro]:
    """The source's macros."""
    return {**MANY.defines(dtype), "BAND": BAND}
