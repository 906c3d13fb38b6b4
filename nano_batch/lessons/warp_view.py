"""The picture of what the decode kernel's warps ask for, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nano_batch.lessons import small_step as small
from nano_batch.lessons.fragmentation import set_all
from nano_batch.lessons.grid import Place, cache_panel, cells, in_cache, rows_panel, step_line, worker_look
from nano_batch.lessons.small_step import Read, recording
from nano_batch.viz.chart import Chart, Panel, Series
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control
from nano_batch.viz.table import Table

PLACES = ("in its context", "in the cache")


def warp_reads(**settings: Any) -> ChartView:
    """Which tiles the kernel's warps ask for, in which order; recorded from its source, run on a CPU."""
    kept = recording()
    most = max(read.order for read in kept.reads) + 1

    def make(asked: int, drawn: str) -> Chart:
        done = [read for read in kept.reads if read.order < asked]
        panels = [_head_panel(head, kept.reads, asked, drawn) for head in range(small.KV_HEADS)]
        tiles = [share[3] for share in kept.shares]
        return Chart(
            panels,
            "What the kernel's warps ask for",
            columns=2 if drawn == PLACES[1] else 1,
            settings=f"{step_line()}; {len(kept.shares)} workers of {kept.warps} warps",
            says=[
                f"After {asked} tiles a warp, {len(done)} of {len(kept.reads)} tiles are asked for.",
                f"A worker reads {min(tiles)} or {max(tiles)} tiles; {_split(kept.reads)}.",
            ],
            numbers={"asked for, tiles": float(len(done))},
            table=_warp_table(kept.reads, asked),
        )

    moved = (
        Control(
            "asked",
            "Tiles a warp has asked for",
            "",
            tuple(range(1, most + 1)),
            most,
            "all warps run at once",
        ),
        Control(
            "drawn", "Drawn", "", PLACES, PLACES[0], "where the tokens stand, or where they lie in memory"
        ),
    )
    own: dict[str, Any] = {
        "about": "each cell: warp, and which of the warp's tiles it is; a tile is a block of one head",
        "source": "recorded: the kernel's source, run on a CPU",
        "recreate": "lab.warp_reads(...)",
    }
    return set_all(ChartView(make, moved, **own), settings)


def _split(reads: Sequence[Read]) -> str:
    workers: dict[tuple[int, int], set[int]] = {}
    for read in reads:
        workers.setdefault((read.head, read.row), set()).add(read.worker)
    split = sum(len(mine) > 1 for mine in workers.values())
    pairs = f"{split} of the {len(workers)} pairs of a head and a row"
    return f"{pairs} have several workers, whose parts are merged"


def _head_panel(head: int, every: Sequence[Read], asked: int, drawn: str) -> Panel:
    reads = {read.block: read for read in every if read.head == head}
    logical = drawn == PLACES[0]
    stand: dict[int, Place] = {block: (read.tile, -read.row) for block, read in reads.items()}
    places: Mapping[int, Place] = stand if logical else in_cache()

    def words(block: int) -> str:
        if block not in reads:
            return ""
        return (" · " if logical else "·").join((str(reads[block].warp), ordinal(reads[block].order)))

    def tips(block: int) -> str:
        if block not in reads:
            return f"block {block}: in no table"
        read = reads[block]
        who = f"worker {read.worker}, warp {read.warp}, its {ordinal(read.order)} tile"
        first = read.tile * small.BLOCK_SIZE
        return f"{who}\nblock {block}, row {read.row}, {read.tokens} tokens from {first} on"

    later = [block for block in places if block not in reads or reads[block].order >= asked]
    series: list[Series] = []
    if later:
        series.append(
            cells("not asked for yet" if logical else "not asked for", "free", later, places, _none, tips)
        )
    for worker in sorted({read.worker for read in reads.values()}):
        mine = [block for block in places if block not in later and reads[block].worker == worker]
        series.append(cells(*worker_look(worker), mine, places, words, tips))
    title = f"key/value head {head}"
    if not logical:
        return cache_panel(title, series)
    return rows_panel(title, series, [f"row {row}" for row in range(len(small.CONTEXTS))])


def _none(_: int) -> str:
    return ""


def ordinal(order: int) -> str:
    """0 as "1st"."""
    return {0: "1st", 1: "2nd", 2: "3rd"}.get(order, f"{order + 1}th")


def _warp_table(reads: Sequence[Read], asked: int) -> Table:
    warps = sorted({(read.worker, read.warp) for read in reads})
    rows = tuple(
        (f"{worker}", f"{warp}", ", ".join(
            f"{read.head}/{read.row}/{read.tile}" for read in reads
            if (read.worker, read.warp) == (worker, warp) and read.order < asked
        ))
        for worker, warp in warps
    )  # fmt: skip
    return Table("asked for, in order: head / row / tile of the row", ("worker", "warp", "tiles"), rows)
