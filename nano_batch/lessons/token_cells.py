"""A request's tokens as cells: a row for each block of its table, a column for each slot of a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nano_batch.lessons.grid import CELL, ROOM, grid_rows
from nano_batch.viz.chart import Axis, Cells, Panel, Series


def token_cells(
    name: str,
    colour: str,
    tokens: Sequence[int],
    block_size: int,
    words: Mapping[int, str],
    tips: Sequence[str],
) -> Cells:
    """The cells of the tokens at these positions; `words` and `tips` are of all positions."""
    x = [token % block_size for token in tokens]
    y = [-(token // block_size) for token in tokens]
    return Cells(
        name, x, y, colour, [words.get(each, "") for each in tokens], [tips[each] for each in tokens]
    )


def token_panel(
    title: str, series: Sequence[Series], table: Mapping[int, int], rows: int, block_size: int, note: str = ""
) -> Panel:
    """The panel of one request: at each row its logical block and, if it has one, the physical."""
    x = Axis("slot of the block", low=-0.5, high=block_size - 0.5, ticks=range(0, block_size, 4))
    names = [f"{index}: block {table[index]}" if index in table else f"{index}" for index in range(rows)]
    return Panel(title, x, grid_rows(names), series, note=note, height=ROOM + CELL * rows)
