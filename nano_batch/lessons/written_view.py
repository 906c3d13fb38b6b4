"""The picture of a real generation: each request's tokens, and the blocks they are written to, by steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch._choices import unknown_option
from nano_batch.errors import ViewError
from nano_batch.lessons.fragmentation import set_all
from nano_batch.lessons.held_tokens import Held, held_at
from nano_batch.lessons.token_cells import token_cells, token_panel
from nano_batch.records import EventLog, State, replay
from nano_batch.viz.chart import Chart, Panel
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    from nano_batch.engine import RecordedEngine

LOOKS = {
    "computed in this step": "computed",
    "stored before": "used",
    "stored, in a block that two share": "shared",
    "kept by the prefix cache": "cached",
    "given back": "muted",
    "not stored": "free",
}


@dataclass(frozen=True)
class Sequence:
    """A request of the picture: its number in the events, its id, and its tokens."""

    number: int
    name: str
    prompt: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and output."""
        return self.prompt + self.output

    def known(self, stored: int) -> int:
        """Tokens known when so many are stored: the prompt, or one more, which was sampled last."""
        return min(max(len(self.prompt), stored + 1), len(self.tokens))

    def tips(self, known: int) -> list[str]:
        """What is said of each position."""
        told = [f"token {token}, " + ("prompt" if place < len(self.prompt) else "written by the model")
                for place, token in enumerate(self.tokens[:known])]  # fmt: skip
        told += ["not written yet"] * (len(self.tokens) - known)
        return [f"{self.name}, position {place}: {words}" for place, words in enumerate(told)]


def written(engine: RecordedEngine, *requests: str, **settings: Any) -> ChartView:
    """Which token is stored in which slot of which block, after each step that the engine has run.

    Args:
        engine: what has served the requests, or is serving them.
        requests: their ids; by default all.
        settings: `step`, where the picture stands; by default at the last one.

    Raises:
        ViewError: the engine has computed nothing yet.
        UnknownOptionError: there is no such request.
    """
    log, served = engine.engine.events(), _sequences(engine, requests)
    steps = np.unique(log.step[log.step > 0]).tolist()
    if not steps:
        raise ViewError("the engine has computed nothing yet: add a request and call its step()")

    def make(step: int) -> Chart:
        state = replay(log, step=min(step, steps[-1]))
        held = {each.number: held_at(log, each.number, step) for each in served}
        return Chart(
            [_panel(each, held[each.number], state, log.block_size) for each in served],
            "What is stored where",
            settings=f"step {step} of {steps[-1]}, blocks of {log.block_size} tokens",
            says=[_said(each, held[each.number]) for each in served],
            numbers={"blocks in use": float(state.block_counts[0])},
            table=_table(served, held, state, log),
        )

    moved = Control("step", "Step", "", tuple(range(1, steps[-1] + 1)), steps[-1], "later: more is stored")
    own: dict[str, Any] = {
        "about": "the tiny Mistral with random weights, served by this package's engine",
        "recreate": "lab.written(engine, ...)",
    }
    return set_all(ChartView(make, (moved,), **own), settings)


def _sequences(engine: RecordedEngine, requests: tuple[str, ...]) -> list[Sequence]:
    """Those asked for, by the order of their arrival."""
    known = engine.sequences()
    for name in requests:
        if name not in known:
            raise unknown_option("request", name, tuple(known))
    return [
        Sequence(number, name, tuple(output.prompt_token_ids), tuple(output.sequences[index].token_ids))
        for name, (number, output, index) in known.items()
        if not requests or name in requests
    ]


def _panel(one: Sequence, held: Held, state: State, block_size: int) -> Panel:
    rows = -(-len(one.tokens) // block_size)
    known = one.known(held.stored)
    words = {place: str(token) for place, token in enumerate(one.tokens[:known])}
    groups: dict[str, list[int]] = {look: [] for look in LOOKS}
    for place in range(len(one.tokens)):
        groups[_look(place, held, state, block_size)].append(place)
    series = [
        token_cells(look, LOOKS[look], places, block_size, words, one.tips(known))
        for look, places in groups.items()
        if places
    ]
    return token_panel(f"request {one.name}", series, held.table, rows, block_size)


def _look(place: int, held: Held, state: State, block_size: int) -> str:
    """What is to be seen of a position: its name in `LOOKS`."""
    if place >= held.stored:
        return "not stored"
    block = held.table[place // block_size]
    if held.ended:
        kept = state.block_cached[block] and place < held.stored // block_size * block_size
        return "kept by the prefix cache" if kept else "given back"
    if place >= held.stored - held.computed:
        return "computed in this step"
    return "stored, in a block that two share" if state.block_references[block] > 1 else "stored before"


def _said(one: Sequence, held: Held) -> str:
    total = len(one.prompt)
    if held.ended:
        return f"{one.name} has ended with {held.stored} stored tokens and given its blocks back."
    if not held.stored:
        return f"{one.name} is not there yet."
    found = f", {held.found} of them found in the cache" if held.found else ""
    return (
        f"{one.name} has {held.stored} tokens stored in {len(held.table)} blocks{found}; this step computed "
        f"{held.computed}, its prompt has {total}."
    )


def _table(served: list[Sequence], held: Mapping[int, Held], state: State, log: EventLog) -> Table:
    rows = [
        (one.name, f"{index}", f"{block}", f"{_filled(mine, index, log.block_size)}",
         f"{state.block_references[block]}", "yes" if state.block_cached[block] else "no")
        for one in served
        for mine in [held[one.number]]
        for index, block in sorted(mine.table.items())
    ]  # fmt: skip
    columns = (
        "request",
        "its block",
        "physical block",
        "tokens stored",
        "held by",
        "known to the cache",
    )
    return Table("blocks of the requests", columns, tuple(rows))


def _filled(held: Held, index: int, block_size: int) -> int:
    return max(0, min(block_size, held.stored - index * block_size))
