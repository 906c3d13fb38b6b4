"""An exercise and what its run says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nano_batch.core import Engine
from nano_batch.records import Run
from nano_batch.viz.table import Table


@dataclass(frozen=True, eq=False)
class Truth:
    """What the run says.

    Attributes:
        value: the number asked for.
        why: one line.
        mistakes: what is off, by the number that a likely mistake gives.
        table: the part of the run to look at.
        run: the engine that was driven, or a run, its event log on; of a region's, the same under paging;
            None where no scheduler is asked.
    """

    value: int
    why: str
    mistakes: Mapping[float, str]
    table: Table
    run: Engine | Run | None = None


@dataclass(frozen=True, eq=False)
class Exercise:
    """A question with a number as its answer, or a click on a block, which is the block's number.

    Attributes:
        name: notebook and number, such as "01-1".
        asks: what the number is, for a reader who gave none.
        unit: of the number.
        hints: from a nudge to nearly the answer.
        find: makes the run.
        shows: for a click, makes the engine as it stands when the question is asked.
    """

    name: str
    asks: str
    unit: str
    hints: tuple[str, ...]
    find: Callable[[], Truth]
    shows: Callable[[], Engine] | None = None
