"""The small decode step as grids of cells: its rows as they stand, and the cache as it lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nano_batch.lessons import small_step as small
from nano_batch.viz.chart import Axis, Cells, Panel, Series

COLUMNS = 8
"""Blocks side by side in the picture of the cache."""
CELL, ROOM = 34, 84
"""CSS pixels: a row of cells, and what a panel needs beside its rows."""
Place = tuple[float, float]


def step_line() -> str:
    """The step in words."""
    rows = ", ".join(str(context) for context in small.CONTEXTS)
    return f"contexts of {rows} tokens, {small.KV_HEADS} key/value heads, blocks of {small.BLOCK_SIZE}"


def worker_look(worker: int | None) -> tuple[str, str]:
    """Name and colour of what a worker reads; None: nobody named one."""
    return ("read", "used") if worker is None else (f"worker {worker}", f"series-{worker % 8 + 1}")


def owners() -> dict[int, tuple[int, int]]:
    """Row and place in its table of each block that has an owner."""
    table = small.block_table().tolist()
    return {
        block: (row, tile)
        for row, blocks in enumerate(table)
        for tile, block in enumerate(blocks)
        if block >= 0
    }


def in_cache() -> dict[int, Place]:
    """Where each block of the cache is drawn."""
    return {block: (block % COLUMNS, -(block // COLUMNS)) for block in range(small.NUM_BLOCKS)}


def cells(
    name: str,
    colour: str,
    keys: Sequence[Any],
    places: Mapping[Any, Place],
    words: Callable[[Any], str],
    tips: Callable[[Any], str],
) -> Cells:
    """The cells of `keys` at their places."""
    x, y = [places[key][0] for key in keys], [places[key][1] for key in keys]
    return Cells(name, x, y, colour, [words(key) for key in keys], [tips(key) for key in keys])


def rows_panel(title: str, series: Sequence[Series], names: Sequence[str]) -> Panel:
    """The rows of the step, with their blocks in order."""
    wide = small.block_table().shape[1]
    x = Axis(
        "place in the row's context, in blocks of 16 tokens", low=-0.5, high=wide - 0.5, ticks=range(wide)
    )
    return Panel(title, x, grid_rows(names), series, height=ROOM + CELL * len(names))


def cache_panel(title: str, series: Sequence[Series]) -> Panel:
    """The whole cache, block after block."""
    rows = small.NUM_BLOCKS // COLUMNS
    x = Axis("block, and so many more", low=-0.5, high=COLUMNS - 0.5, ticks=range(COLUMNS))
    names = [str(COLUMNS * row) for row in range(rows)]
    return Panel(title, x, grid_rows(names), series, height=ROOM + CELL * rows)


def grid_rows(names: Sequence[str]) -> Axis:
    """The y axis of rows of cells, the first one on top."""
    count = len(names)
    return Axis("", low=0.5 - count, high=0.5, ticks=[-row for row in range(count)], names=names)
