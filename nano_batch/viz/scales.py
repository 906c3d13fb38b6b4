"""Ranges and ticks of a chart's axes: the same for the page, the still picture and the plotly figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import number
from nano_batch.errors import InvalidArgumentError
from nano_batch.viz.chart import HALF_CELL, Area, Axis, Band, Bars, Cells, Chart, Panel, Rule, Series, column

FEWEST_POWERS = 3
"""Ticks of a logarithmic axis."""
PARTS_OF_TEN = (1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8)
"""What of each power of ten is marked: the first of many powers, the last of less than one."""


@dataclass(frozen=True)
class Span:
    """An axis with its ends and its ticks, each a value and its text."""

    axis: Axis
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, values: Any) -> NDArray[np.float64]:
        """Where `values` lie from 0 (low) to 1 (high)."""
        low, high = _warp(self.low, self.axis.scale), _warp(self.high, self.axis.scale)
        return np.asarray((_warp(values, self.axis.scale) - low) / (high - low), np.float64)


def stacked(panel: Panel) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Low and high of every series of a panel: areas and bars on top of each other, lines without height."""
    area: Any = 0.0
    stacks: dict[str, NDArray[np.float64]] = {}
    found = []
    for series in panel.series:
        if isinstance(series, Area):
            found.append((area + 0 * column(series.y), area + column(series.y)))
            area = found[-1][1]
        elif isinstance(series, Bars):
            base = stacks.setdefault(series.stack, np.zeros(len(panel.categories)))
            rows = [panel.categories.index(name) for name in series.categories]
            found.append((base[rows], base[rows] + column(series.y)))
            base[rows] = found[-1][1]
        elif isinstance(series, Band):
            found.append((column(series.low), column(series.high)))
        elif isinstance(series, Cells):
            found.append((column(series.y) - HALF_CELL, column(series.y) + HALF_CELL))
        else:
            found.append((column(series.y), column(series.y)))
    return found


def spans(chart: Chart) -> list[tuple[Span, Span]]:
    """The x and y axis of each panel; where the chart shares them, equal axes have equal ends."""
    axes = [(_x(panel), _y(panel)) for panel in chart.panels]
    for place, direction in enumerate("xy"):
        if direction not in chart.share:
            continue
        for title in {pair[place].title for pair in axes}:
            group = [i for i, pair in enumerate(axes) if pair[place].title == title]
            low = min(_end(axes[i][place].low) for i in group)
            high = max(_end(axes[i][place].high) for i in group)
            for i in group:
                pair = list(axes[i])
                pair[place] = replace(pair[place], low=low, high=high)
                axes[i] = (pair[0], pair[1])
    return [
        (_span(x, categories=panel.categories), _span(y))
        for panel, (x, y) in zip(chart.panels, axes, strict=True)
    ]


def _x(panel: Panel) -> Axis:
    if panel.categories:
        return replace(panel.x, scale="linear", low=-0.5, high=len(panel.categories) - 0.5)
    return _filled(panel.x, (_xs(series) for series in panel.series), panel)


def _y(panel: Panel) -> Axis:
    columns = [values for pair in stacked(panel) for values in pair]
    axis = _filled(panel.y, [*columns, *_rules(panel, "y")], panel)
    if panel.y.low is None and axis.scale == "linear":
        axis = replace(axis, low=min(0.0, _end(axis.low)))
    if panel.y.high is None and axis.scale == "linear":
        low, high = _end(axis.low), _end(axis.high)
        axis = replace(axis, high=high + 0.04 * (high - low) if high > low else low + 1)
    return axis


def _rules(panel: Panel, direction: str) -> list[Any]:
    return [[mark.at] for mark in panel.marks if isinstance(mark, Rule) and mark.axis == direction]


def _xs(series: Series) -> NDArray[np.float64]:
    return np.zeros(0) if isinstance(series, Bars) else column(series.x)


def _filled(axis: Axis, columns: Iterable[Any], panel: Panel) -> Axis:
    """`axis` with its ends, those not given from what is drawn."""
    values = np.concatenate([np.zeros(0), *(np.asarray(each, np.float64) for each in columns)])
    values = values[np.isfinite(values)]
    if axis.scale != "linear":
        if (values < 0).any():
            raise InvalidArgumentError(f"panel {panel.title!r}: {values.min():g} on a {axis.scale} axis")
        values = values[values > 0]
    least, most = (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)
    low, high = (
        least if axis.low is None else float(axis.low),
        most if axis.high is None else float(axis.high),
    )
    if not low < high:
        low, high = (low / 2, high * 2) if axis.scale != "linear" else (low, low + 1)
    return replace(axis, low=low, high=high)


def _span(axis: Axis, categories: Sequence[str] = ()) -> Span:
    low, high = _end(axis.low), _end(axis.high)
    if categories:
        return Span(axis, low, high, tuple((float(i), name) for i, name in enumerate(categories)))
    values = _round(low, high, axis.scale) if axis.ticks is None else [float(each) for each in axis.ticks]
    names = [number(value) for value in values] if axis.names is None else axis.names
    ticks = zip(values, names, strict=True)
    return Span(axis, low, high, tuple(tick for tick in ticks if low <= tick[0] <= high))


def _round(low: float, high: float, scale: str) -> list[float]:
    """Round values from `low` to `high`: equal steps, or powers of two or ten where three are in between.

    Ten's have twice and five times them beside them where they are few, then others, too.
    """
    if scale == "log2":
        powers = [2.0**i for i in range(int(np.ceil(np.log2(low))), int(np.floor(np.log2(high))) + 1)]
        return powers if len(powers) >= FEWEST_POWERS else _steps(low, high, 8)
    if scale == "log10":
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        for parts in PARTS_OF_TEN if high / low >= 1000 else PARTS_OF_TEN[1:]:
            values = [part * 10.0**i for i in decades for part in parts]
            if sum(low <= value <= high for value in values) >= FEWEST_POWERS:
                return values
        return _steps(low, high, 8)
    return _steps(low, high, 5)


def _steps(low: float, high: float, most: int) -> list[float]:
    """Multiples of a step, of which `most` are as long as the whole, or fewer."""
    raw = (high - low) / most
    size = 10 ** np.floor(np.log10(raw))
    step = float(size * next(part for part in (1, 2, 5, 10) if part * size >= raw * 0.999))
    return [round(i * step, 12) for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _warp(value: Any, scale: str) -> Any:
    values = np.asarray(value, np.float64)
    if scale == "linear":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(values)


def _end(value: float | None) -> float:
    assert value is not None
    return value
