"""The picture of attention through a block table: where the newest token of a request looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nano_batch._choices import unknown_option
from nano_batch.display import number
from nano_batch.errors import LabError
from nano_batch.lessons.attention_read import attention_weights
from nano_batch.lessons.fragmentation import set_all
from nano_batch.lessons.held_tokens import Held, held_at
from nano_batch.lessons.token_cells import token_cells, token_panel
from nano_batch.viz.chart import Axis, Bars, Cells, Chart, Panel
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    from nano_batch.engine import RecordedEngine

# How many times the mean a weight is at least, from most to least, and its colour.
CLASSES = (
    (4.0, "4 times the mean and more", "share-1"),
    (2.0, "2 to 4 times the mean", "share-2"),
    (1.0, "the mean to twice the mean", "share-3"),
    (0.5, "half the mean to the mean", "share-4"),
    (0.0, "less than half the mean", "share-5"),
)
Weights = NDArray[np.float64]


def attention_read(engine: RecordedEngine, request: str, **settings: Any) -> ChartView:
    """Where the newest stored token of a request looks, as it stands now: the weights on its blocks.

    Args:
        engine: is serving the request; later steps do not change the picture.
        request: its id.
        settings: `layer` and `head`, from 0.

    Raises:
        LabError: the request has nothing stored, or has ended and given its blocks back.
        UnknownOptionError: there is no such request.
    """
    known = engine.sequences()
    if request not in known:
        raise unknown_option("request", request, tuple(known))
    sequence, output, index = known[request]
    held = held_at(engine.engine.events(), sequence, engine.engine.snapshot().step)
    if held.ended or not held.stored:
        why = "has given its blocks back" if held.ended else "has nothing stored yet"
        raise LabError(f"request {request!r} {why}: look while it is being served")
    tokens = [*output.prompt_token_ids, *output.sequences[index].token_ids]
    blocks = [held.table[place] for place in range(len(held.table))]
    found = attention_weights(engine.model, engine.cache, blocks, tokens[held.stored - 1], held.stored)
    picture = _Picture(request, tokens, held, engine.cache.block_size, found.double().cpu().numpy())
    own: dict[str, Any] = {
        "about": "recomputed from the cache through the block table, as the model's own step did",
        "recreate": f"lab.attention_read(engine, {request!r}, ...)",
    }
    layers, heads = found.shape[:2]
    controls = (
        Control("layer", "Layer", "", tuple(range(layers)), 0, "later: looks at what earlier ones made"),
        Control("head", "Head", "", tuple(range(heads)), 0, "each one looks in its own way"),
    )
    return set_all(ChartView(picture.chart, controls, **own), settings)


class _Picture:
    """All layers and heads of one moment."""

    def __init__(
        self, request: str, tokens: Sequence[int], held: Held, block_size: int, weights: Weights
    ) -> None:
        self.request, self.tokens, self.held = request, tokens, held
        self.block_size, self.weights = block_size, weights

    def chart(self, layer: int, head: int) -> Chart:
        """The weights of one layer and head."""
        weights = self.weights[layer, head]
        return Chart(
            [self._cells_panel(weights), self._blocks_panel(weights)],
            "Where the newest token looks",
            settings=f"layer {layer}, head {head}, position {len(weights) - 1} of request {self.request}",
            says=[self._said(weights)],
            table=self._table(weights),
        )

    def _cells_panel(self, weights: Weights) -> Panel:
        words = {place: _percent(weight) for place, weight in enumerate(weights)}
        tips = [
            f"position {place}: token {self.tokens[place]}, block {self._block(place)}, "
            f"slot {place % self.block_size}: {number(100 * weight)} % of the attention"
            for place, weight in enumerate(weights)
        ]
        series: list[Cells] = []
        below = np.inf
        for least, name, colour in CLASSES:
            share = weights * len(weights)
            places = np.flatnonzero((share >= least) & (share < below)).tolist()
            below = least
            if places:
                series.append(token_cells(name, colour, places, self.block_size, words, tips))
        rows = -(-len(weights) // self.block_size)
        title = "attention on each token, %"
        return token_panel(title, series, self.held.table, rows, self.block_size)

    def _blocks_panel(self, weights: Weights) -> Panel:
        names = [f"block {self.held.table[row]}" for row in range(len(self._shares(weights)))]
        bars = Bars("attention", names, 100 * self._shares(weights), "used")
        y = Axis("of the attention", "%", low=0.0, high=100.0)
        return Panel("attention on each block", Axis("in the order of the table"), y, [bars], height=240)

    def _shares(self, weights: Weights) -> Weights:
        """The weight of each block of the table."""
        starts = np.arange(0, len(weights), self.block_size)
        shares: Weights = np.add.reduceat(weights, starts)
        return shares

    def _block(self, place: int) -> int:
        return self.held.table[place // self.block_size]

    def _said(self, weights: Weights) -> str:
        most, context = int(weights.argmax()), len(weights)
        return (
            f"{context} keys in {len(self._shares(weights))} blocks are read; most of one token: "
            f"{number(100 * weights[most])} %, at position {most} in block {self._block(most)} "
            f"(the mean is {number(100 / context)} %)."
        )

    def _table(self, weights: Weights) -> Table:
        shares = self._shares(weights)
        filled = np.minimum(self.block_size, len(weights) - np.arange(len(shares)) * self.block_size)
        rows = tuple(
            (f"{row}", f"{self.held.table[row]}", f"{filled[row]}", f"{100 * share:.1f}")
            for row, share in enumerate(shares)
        )
        columns = ("its block", "physical block", "keys read", "of the attention (%)")
        return Table("attention by blocks", columns, rows)


def _percent(weight: float) -> str:
    """Short enough for a cell."""
    return f"{100 * weight:.1f}" if weight < 0.0995 else f"{100 * weight:.0f}"
