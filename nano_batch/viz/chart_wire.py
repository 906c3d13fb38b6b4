"""A chart as it goes to the browser: ends and ticks of axes, and all columns in one buffer.

A column is [first value, values] of the buffer `data` of little-endian float64; equal columns are there once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nano_batch.viz.chart import Bars, Cells, Chart, Line, Panel, Points, Ribbon, Rule, Shade, column
from nano_batch.viz.scales import Span, spans, stacked


class _Columns:
    """The columns of a chart, end to end."""

    def __init__(self) -> None:
        self._known: dict[bytes, list[int]] = {}
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, values: Any) -> list[int]:
        """Where `values` are in the buffer."""
        held = np.ascontiguousarray(column(values), "<f8").tobytes()
        if held not in self._known:
            self._known[held] = [self._length, len(held) // 8]
            self._parts.append(held)
            self._length += len(held) // 8
        return self._known[held]

    def data(self) -> bytes:
        return b"".join(self._parts)


def pack_chart(chart: Chart) -> dict[str, Any]:
    """The message that the browser draws: everything is computed, nothing placed in pixels."""
    columns = _Columns()
    pairs = zip(chart.panels, spans(chart), strict=True)
    panels = [_panel(panel, x, y, columns) for panel, (x, y) in pairs]
    return {"columns": chart.columns, "panels": panels, "says": list(chart.says), "data": columns.data()}


def _panel(panel: Panel, x: Span, y: Span, columns: _Columns) -> dict[str, Any]:
    return {
        "title": panel.title,
        "note": panel.note,
        "height": panel.height,
        "x": _axis(x) | {"categories": list(panel.categories)},
        "y": _axis(y),
        "series": [
            _series(panel, series, low, high, columns)
            for series, (low, high) in zip(panel.series, stacked(panel), strict=True)
        ],
        "marks": [{"kind": type(mark).__name__.lower(), **_mark(mark)} for mark in panel.marks],
        "steps": None if panel.steps is None else columns.add(panel.steps),
    }


def _axis(span: Span) -> dict[str, Any]:
    axis = span.axis
    return {
        "label": axis.label,
        "unit": axis.unit,
        "scale": axis.scale,
        "low": span.low,
        "high": span.high,
        "ticks": [[value, text] for value, text in span.ticks],
    }


def _series(panel: Panel, series: Any, low: Any, high: Any, columns: _Columns) -> dict[str, Any]:
    kind = type(series).__name__.lower()
    told: dict[str, Any] = {"kind": kind, "name": series.name, "colour": series.colour}
    if isinstance(series, Bars):
        stacks = list(dict.fromkeys(each.stack for each in panel.series if isinstance(each, Bars)))
        rows = [panel.categories.index(name) for name in series.categories]
        told |= {"x": columns.add(rows), "stack": [stacks.index(series.stack), len(stacks)]}
    else:
        told["x"] = columns.add(series.x)
    told |= {"low": columns.add(low), "high": columns.add(high)}
    if isinstance(series, Line):
        told |= {"dash": series.dash, "width": series.width}
    if isinstance(series, Cells):
        told |= {"words": list(series.words), "tips": list(series.tips)}
    if isinstance(series, Points):
        told |= {"hollow": np.asarray(series.hollow).tolist(), "mark": series.mark}
    return told


def _mark(mark: Any) -> dict[str, Any]:
    if isinstance(mark, Ribbon):
        return {"edges": [float(edge) for edge in mark.edges], "words": list(mark.words)}
    if isinstance(mark, Shade):
        told = {"axis": mark.axis, "low": float(mark.low), "high": float(mark.high)}
        return {**told, "label": mark.label, "colour": mark.colour}
    if isinstance(mark, Rule):
        return {"axis": mark.axis, "at": float(mark.at), "label": mark.label, "sets": mark.sets}
    return {"x": float(mark.x), "y": float(mark.y), "words": mark.words}
