"""A chart as a plotly figure: a pure function of its spec, for a reader's own script or `interact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.viz.chart import Area, Band, Bars, Cells, Chart, Points, Ribbon, Rule, Shade, Text
from nano_batch.viz.palette import HATCHED, ROLES
from nano_batch.viz.scales import Span, spans, stacked

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figure(chart: Chart) -> go.Figure:
    """Every panel, series and mark of `chart`, with its ends and ticks, in the light theme's colours."""
    from plotly.subplots import make_subplots

    rows = -(-len(chart.panels) // chart.columns)
    titles = [panel.title for panel in chart.panels]
    drawn: go.Figure = make_subplots(rows=rows, cols=chart.columns, subplot_titles=titles)
    known: set[str] = set()
    for place, (panel, (x, y)) in enumerate(zip(chart.panels, spans(chart), strict=True)):
        cell = {"row": place // chart.columns + 1, "col": place % chart.columns + 1}
        for series, (low, high) in zip(panel.series, stacked(panel), strict=True):
            for trace in _traces(panel, series, low, high, series.name not in known):
                drawn.add_trace(trace, **cell)
            known.add(series.name)
        for mark in panel.marks:
            _mark(drawn, mark, cell)
        drawn.update_xaxes(**_axis(x, bool(panel.categories)), **cell)
        drawn.update_yaxes(**_axis(y, False), **cell)
    drawn.update_layout(title=chart.title, barmode="overlay", template="plotly_white", height=320 * rows)
    return drawn


def _traces(panel: Any, series: Any, low: Any, high: Any, named: bool) -> list[Any]:
    from plotly.graph_objects import Bar, Scatter

    colour = ROLES[series.colour]["light"]
    own: dict[str, Any] = {"name": series.name, "legendgroup": series.name, "showlegend": named}
    if isinstance(series, Bars):
        stacks = list(dict.fromkeys(each.stack for each in panel.series if isinstance(each, Bars)))
        wide = 0.7 / len(stacks)
        offset = wide * (stacks.index(series.stack) - len(stacks) / 2)
        rows = np.array([panel.categories.index(name) for name in series.categories], float)
        marker: dict[str, Any] = {
            "color": colour,
            "pattern": {"shape": "/" if series.colour in HATCHED else ""},
        }
        return [Bar(x=rows, y=high - low, base=low, offset=offset, width=wide, marker=marker, **own)]
    if isinstance(series, (Area, Band)):
        edge = {"mode": "lines", "line": {"width": 0, "color": colour}, "x": series.x}
        fill = _rgba(colour, 0.25 if isinstance(series, Band) else 1.0)
        below = Scatter(y=low, hoverinfo="skip", **edge, **{**own, "showlegend": False})
        return [below, Scatter(y=high, fill="tonexty", fillcolor=fill, **edge, **own)]
    if isinstance(series, Cells):
        squares = {"color": colour, "symbol": "square", "size": 22}
        text: dict[str, Any] = {"text": series.words, "hovertext": series.tips}
        return [Scatter(x=series.x, y=series.y, mode="markers+text", marker=squares, **text, **own)]
    if isinstance(series, Points):
        symbols = np.where(np.asarray(series.hollow), f"{series.mark}-open", series.mark)
        dots = {"color": colour, "symbol": symbols, "size": 8}
        return [Scatter(x=series.x, y=series.y, mode="markers", marker=dots, **own)]
    line = {"color": colour, "width": series.width, "dash": "dash" if series.dash else "solid"}
    return [Scatter(x=series.x, y=series.y, mode="lines", line=line, **own)]


def _mark(drawn: Any, mark: Any, cell: dict[str, int]) -> None:
    if isinstance(mark, Rule):
        add = drawn.add_vline if mark.axis == "x" else drawn.add_hline
        add(mark.at, annotation_text=mark.label, line={"width": 1}, **cell)
    elif isinstance(mark, Shade):
        add = drawn.add_vrect if mark.axis == "x" else drawn.add_hrect
        colour = ROLES[mark.colour]["light"]
        add(mark.low, mark.high, annotation_text=mark.label, fillcolor=colour, opacity=0.18, **cell)
    elif isinstance(mark, Text):
        drawn.add_annotation(x=mark.x, y=mark.y, text=mark.words, showarrow=False, **cell)
    elif isinstance(mark, Ribbon):
        for low, high, words in zip(mark.edges, mark.edges[1:], mark.words, strict=False):
            middle = (low + high) / 2
            drawn.add_annotation(x=middle, y=0, yref="y domain", text=words, showarrow=False, **cell)


def _axis(span: Span, categories: bool) -> dict[str, Any]:
    ends = [span.low, span.high]
    if span.axis.scale != "linear":
        ends = list(np.log10(ends))
    return {
        "title": span.axis.title,
        "type": "linear" if span.axis.scale == "linear" or categories else "log",
        "range": ends,
        "tickvals": [value for value, _ in span.ticks],
        "ticktext": [words for _, words in span.ticks],
    }


def _rgba(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
