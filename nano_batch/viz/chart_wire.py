"""A chart as it goes to the browser: ends and ticks of axes, columns as buffers of little-endian float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from nano_batch.viz.chart import Bars, Chart, Line, Panel, Points, Ribbon, Rule, Shade, column
from nano_batch.viz.scales import Span, spans, stacked


def pack_chart(chart: Chart) -> dict[str, Any]:
    """The message that the browser draws: everything is computed, nothing placed in pixels."""
    pairs = zip(chart.panels, spans(chart), strict=True)
    return {
        "columns": chart.columns,
        "panels": [_panel(panel, x, y) for panel, (x, y) in pairs],
        "says": list(chart.says),
    }


def _panel(panel: Panel, x: Span, y: Span) -> dict[str, Any]:
    return {
        "title": panel.title,
        "note": panel.note,
        "height": panel.height,
        "x": _axis(x) | {"categories": list(panel.categories)},
        "y": _axis(y),
        "series": [
            _series(panel, series, low, high)
            for series, (low, high) in zip(panel.series, stacked(panel), strict=True)
        ],
        "marks": [{"kind": type(mark).__name__.lower(), **_mark(mark)} for mark in panel.marks],
        "steps": None if panel.steps is None else _bytes(panel.steps),
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


def _series(panel: Panel, series: Any, low: Any, high: Any) -> dict[str, Any]:
    kind = type(series).__name__.lower()
    told: dict[str, Any] = {"kind": kind, "name": series.name, "colour": series.colour}
    if isinstance(series, Bars):
        stacks = list(dict.fromkeys(each.stack for each in panel.series if isinstance(each, Bars)))
        rows = [panel.categories.index(name) for name in series.categories]
        told |= {"x": _bytes(rows), "stack": [stacks.index(series.stack), len(stacks)]}
    else:
        told["x"] = _bytes(series.x)
    told |= {"low": _bytes(low), "high": _bytes(high)}
    if isinstance(series, Line):
        told |= {"dash": series.dash, "width": series.width}
    if isinstance(series, Points):
        told["hollow"] = np.asarray(series.hollow, np.uint8).tobytes()
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


def _bytes(values: Any) -> bytes:
    return np.ascontiguousarray(column(values), "<f8").tobytes()
