"""The picture of which blocks a reader's own lines of PyTorch read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nano_batch.errors import ViewError
from nano_batch.lessons import small_step as small
from nano_batch.lessons.decode_step import MOST_ERROR, BlockRead, DecodeStep
from nano_batch.lessons.grid import (
    Place,
    cache_panel,
    cells,
    in_cache,
    owners,
    rows_panel,
    step_line,
    worker_look,
)
from nano_batch.viz.chart import Chart, Panel, Series
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    import torch


def blocks_read(step: DecodeStep, output: torch.Tensor) -> ChartView:
    """Which blocks were read since the last such picture, and whether `output` is attention.

    Raises:
        ViewError: nothing was read, or from regions and blocks at once.
        InvalidArgumentError: the output has another shape than the query.
    """
    errors, reads = step.errors(output), tuple(dict.fromkeys(step.reads))
    step.reads.clear()
    kinds = {read.where for read in reads}
    if len(kinds) != 1:
        raise ViewError(f"the picture is of one memory; read was {' and '.join(sorted(kinds)) or 'nothing'}")
    of_regions = kinds == {"regions"}
    held = small.block_table().size if of_regions else small.NUM_BLOCKS

    def make(read: int) -> Chart:
        shown = reads[:read]
        return Chart(
            _region_panels(shown) if of_regions else _block_panels(shown),
            "What dense attention reads" if of_regions else "What paged attention reads",
            settings=step_line(),
            says=[_verdict(errors), _amount(shown, held)],
            numbers={"read, blocks": float(len(_blocks(shown)))},
            table=_table(shown),
        )

    places = tuple(range(1, len(reads) + 1))
    steps = Control("read", "Read so far", "blocks", places, len(reads), "in the order of the lines above")
    own: dict[str, Any] = {
        "about": "by the lines above, in PyTorch",
        "recreate": "lab.blocks_read(step, output)",
    }
    return ChartView(make, (steps,), **own)


def _verdict(errors: Sequence[float]) -> str:
    wrong = [row for row, error in enumerate(errors) if not error <= MOST_ERROR]
    if not wrong:
        return f"The output is dense attention's in all {len(errors)} rows."
    return (
        f"The output is not dense attention's in row {wrong[0]}: off by {errors[wrong[0]]:.2g} of its norm."
    )


def _amount(reads: Sequence[BlockRead], held: int) -> str:
    twice = len(reads) - len(_blocks(reads))
    again = f", {twice} of them by two workers" if twice else ""
    return f"{len(_blocks(reads))} blocks of a memory of {held} are read{again}."


def _blocks(reads: Sequence[BlockRead]) -> set[int]:
    return {read.block for read in reads}


def _table(reads: Sequence[BlockRead]) -> Table:
    rows = tuple(
        (name, f"{len(mine)}", " ".join(str(read.block) for read in mine)) for name, _, mine in _by(reads)
    )
    what = "places" if reads[0].where == "regions" else "blocks"
    return Table(f"{what} read, in order", ("by", what, "which"), rows)


def _by(reads: Sequence[BlockRead]) -> list[tuple[str, str, list[BlockRead]]]:
    """Name, colour and reads of each worker."""
    workers = sorted({read.worker for read in reads}, key=lambda worker: -1 if worker is None else worker)
    return [(*worker_look(worker), [read for read in reads if read.worker == worker]) for worker in workers]


def _region_panels(reads: Sequence[BlockRead]) -> list[Panel]:
    table = small.block_table()
    wide = table.shape[1]
    every: Mapping[int, Place] = {block: (block % wide, -(block // wide)) for block in range(table.size)}
    cells = _cells(reads, every, lambda block: "", lambda block: f"row {block // wide}, place {block % wide}")
    return [
        rows_panel(
            "a region a row, as long as the longest", cells, [f"row {row}" for row in range(len(table))]
        )
    ]


def _block_panels(reads: Sequence[BlockRead]) -> list[Panel]:
    owned = owners()
    logical: Mapping[int, Place] = {block: (tile, -row) for block, (row, tile) in owned.items()}

    def told(block: int) -> str:
        row, tile = owned.get(block, (-1, -1))
        return f"block {block}: " + (f"row {row}, its block {tile}" if row >= 0 else "in no table")

    def owner(block: int) -> str:
        return f"{owned[block][0]} · {owned[block][1]}" if block in owned else ""

    rows = [f"row {row}" for row in range(len(small.CONTEXTS))]
    return [
        rows_panel("the rows, with the blocks of their tables", _cells(reads, logical, str, told), rows),
        cache_panel("the cache: in each block row · place", _cells(reads, in_cache(), owner, told)),
    ]


def _cells(
    reads: Sequence[BlockRead],
    places: Mapping[int, Place],
    words: Callable[[int], str],
    tips: Callable[[int], str],
) -> list[Series]:
    read = _blocks(reads)
    left = [block for block in places if block not in read]
    series = [cells("not read", "free", left, places, words, tips)] if left else []
    seen: set[int] = set()
    for name, colour, mine in _by(reads):
        own = [each.block for each in mine if each.block not in seen]
        seen |= set(own)
        series.append(cells(name, colour, own, places, words, tips))
    return list(series)
