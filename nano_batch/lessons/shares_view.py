"""The picture of a plan: the line of all tiles, cut into equal shares, beside a worker for each pair."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from nano_batch.display import number
from nano_batch.lessons import small_step as small
from nano_batch.lessons.fragmentation import set_all
from nano_batch.lessons.grid import CELL, ROOM, grid_rows
from nano_batch.lessons.plan_shares import LEAST_TILES, Tile, cuts, line_of_tiles
from nano_batch.viz.chart import Axis, Bars, Cells, Chart, Mark, Panel, Ribbon, Rule, Series
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control, powers_of_two
from nano_batch.viz.table import Table

TILE = 16


def tile_shares(**settings: Any) -> ChartView:
    """Who reads which tiles under the kernel's plan, over workers and the longest context."""

    def make(workers: int, longest: int) -> Chart:
        contexts = (longest, *small.CONTEXTS[1:])
        line = line_of_tiles(contexts, small.KV_HEADS, TILE)
        borders = cuts(contexts, small.KV_HEADS, TILE, workers)
        equal = [end - begin for begin, end in pairwise(borders)]
        equal += [0] * (workers - len(equal))
        whole = _by_pairs(contexts, workers)
        names = [str(worker) for worker in range(workers)]
        bars = [
            Bars("equal shares", names, equal, "bound", stack="equal"),
            Bars("a whole pair each", names, whole, "muted", stack="whole"),
        ]
        rows = ", ".join(map(str, contexts))
        longer = max(whole) / max(equal)
        return Chart(
            [
                _line_panel(line, borders),
                Panel("tiles a worker", Axis("worker"), Axis("tiles"), bars, height=230),
            ],
            "The plan: who reads what",
            settings=f"contexts of {rows} tokens, {small.KV_HEADS} key/value heads, {workers} workers",
            says=[
                f"The busiest worker reads {max(equal)} tiles of {len(line)}; "
                f"with a whole pair each it would read {max(whole)}, {number(longer)} times as many."
                + _idle(equal)
            ],
            numbers={"busiest under equal shares, tiles": max(equal), "with whole pairs, tiles": max(whole)},
            table=_table(names, equal, whole),
        )

    moved = (
        Control("workers", "Workers", "", powers_of_two(1, 16), 4, "more: shorter shares, more to merge"),
        Control(
            "longest",
            "Context of row 0",
            "tokens",
            (16, 64, 200, 512, 1024),
            small.CONTEXTS[0],
            "longer: more uneven",
        ),
    )
    own: dict[str, Any] = {
        "about": "a tile: 16 tokens of one head",
        "source": "the kernel's plan in plain Python",
        "recreate": "lab.tile_shares(...)",
    }
    return set_all(ChartView(make, moved, **own), settings)


def _idle(tiles: list[int]) -> str:
    idle = tiles.count(0)
    return f" {idle} have nothing to do: a share of fewer than {LEAST_TILES} tiles is none." if idle else ""


def _by_pairs(contexts: tuple[int, ...], workers: int) -> list[int]:
    """Tiles of each worker where pairs are dealt out whole, one after the other."""
    tiles = [0] * workers
    for pair in range(small.KV_HEADS * len(contexts)):
        tiles[pair % workers] += -(-contexts[pair % len(contexts)] // TILE)
    return tiles


def _line_panel(line: list[Tile], borders: list[int]) -> Panel:
    wide = len(line) // small.KV_HEADS
    series: list[Series] = []
    for worker, (begin, end) in enumerate(pairwise(borders)):
        mine = range(begin, end)
        words = [str(worker)] * len(mine)
        tips = [f"row {line[at].row}, tile {line[at].number}" for at in mine]
        place = [at % wide for at in mine], [-(at // wide) for at in mine]
        series.append(Cells(f"worker {worker}", *place, f"series-{worker % 8 + 1}", words, tips))
    begins = [at for at in range(wide) if line[at].number == 0]
    edges = [at - 0.5 for at in (*begins, wide)]
    marks: list[Mark] = [
        *(Rule("x", at) for at in edges[1:-1]),
        Ribbon(edges, [f"row {line[at].row}" for at in begins]),
    ]
    x = Axis("place in the line of a head", low=-0.5, high=wide - 0.5)
    names = [f"head {head}" for head in range(small.KV_HEADS)]
    title = "all tiles in one line, by head, then row, cut into shares"
    return Panel(title, x, grid_rows(names), series, marks, height=ROOM + 26 + CELL * small.KV_HEADS)


def _table(names: list[str], equal: list[int], whole: list[int]) -> Table:
    rows = tuple((name, f"{one}", f"{two}") for name, one, two in zip(names, equal, whole, strict=True))
    return Table("tiles a worker", ("worker", "equal shares", "a whole pair each"), rows)
