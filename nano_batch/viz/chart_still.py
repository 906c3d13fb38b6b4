"""A chart as a still picture, drawn without a browser: one drawing, as SVG and as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import numpy as np

from nano_batch.errors import MissingExtraError
from nano_batch.viz.chart import (
    HALF_CELL,
    Area,
    Band,
    Bars,
    Cells,
    Chart,
    Line,
    Panel,
    Points,
    Ribbon,
    Rule,
    Shade,
    Text,
    column,
)
from nano_batch.viz.palette import ROLES, ink_on
from nano_batch.viz.scales import Span, spans, stacked

WIDTH = 900
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 38, 42
INK, QUIET, LINE, PAPER = "#1a1a1a", "#5a6066", "#c4c8cc", "#ffffff"
Anchor = Literal["start", "middle", "end"]
LETTER = 6.2 / 11
"""About how wide a letter is, of its size."""
NAME_SIZE, TITLE_SIZE = 11, 12


@dataclass
class Drawing:
    """Shapes in the order in which they are drawn, in CSS pixels."""

    shapes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def polygon(self, points: Iterable[Sequence[float]], fill: str, opacity: float = 1.0) -> None:
        """A filled outline."""
        self.shapes.append(("polygon", {"points": list(points), "fill": fill, "opacity": opacity}))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: str, opacity: float = 1.0) -> None:
        """A filled rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, opacity)

    def line(self, points: Iterable[Sequence[float]], stroke: str, width: float = 1.0) -> None:
        """A line through points."""
        self.shapes.append(("line", {"points": list(points), "stroke": stroke, "width": width}))

    def dot(self, x: float, y: float, radius: float, stroke: str, fill: str) -> None:
        """A circle."""
        self.shapes.append(("dot", {"x": x, "y": y, "radius": radius, "stroke": stroke, "fill": fill}))

    def text(
        self, x: float, y: float, words: str, fill: str = INK, anchor: Anchor = "start", size: int = 11
    ) -> None:
        """Words; (x, y) is where their baseline starts, has its middle or ends."""
        own = {"x": x, "y": y, "words": words, "fill": fill, "anchor": anchor, "size": size}
        self.shapes.append(("text", own))


def draw(chart: Chart) -> tuple[Drawing, int]:
    """The drawing of a chart and its height."""
    drawing = Drawing()
    top = _legend(drawing, chart)
    wide = WIDTH / chart.columns
    for place, (panel, (x, y)) in enumerate(zip(chart.panels, spans(chart), strict=True)):
        _panel(drawing, panel, x, y, place % chart.columns * wide, top, wide)
        if place % chart.columns == chart.columns - 1 or place == len(chart.panels) - 1:
            top += panel.height
    return drawing, top


def _legend(drawing: Drawing, chart: Chart) -> int:
    """A swatch and a name of each series, once; the height that they take."""
    drawn = [series for panel in chart.panels for series in panel.series]
    lines = {series.colour for series in drawn if isinstance(series, Line)}
    shown = {
        each.name: each.colour for each in drawn if not (isinstance(each, Band) and each.colour in lines)
    }
    x, y = 4.0, 14
    for name, colour in shown.items():
        wide = 28 + LETTER * NAME_SIZE * len(name)
        if x + wide > WIDTH:
            x, y = 4.0, y + 18
        drawing.box(x, y - 9, x + 11, y + 2, ROLES[colour]["light"])
        drawing.text(x + 16, y, name, size=NAME_SIZE)
        x += wide
    return y + 10


def _panel(drawing: Drawing, panel: Panel, x: Span, y: Span, left: float, above: float, wide: float) -> None:
    frame = (left + LEFT, above + TOP, left + wide - RIGHT, above + panel.height - BOTTOM)
    x0, y0, x1, y1 = frame

    def across(values: Any) -> Any:
        return x0 + x.place(values) * (x1 - x0)

    def down(values: Any) -> Any:
        return y1 - y.place(values) * (y1 - y0)

    title = f"{panel.title}  {panel.note}"
    fitting = int((left + wide - x0) / (LETTER * len(title)))  # a long one is set smaller, not cut
    drawing.text(x0, above + 16, title, size=min(TITLE_SIZE, fitting))
    for value, words in y.ticks:
        drawing.line([(x0, down(value)), (x1, down(value))], LINE)
        drawing.text(x0 - 5, down(value) + 4, words, QUIET, "end")
    end = -100.0
    for value, words in x.ticks:
        half = 3.2 * len(words)
        if across(value) - half > end + 6:
            drawing.text(across(value), y1 + 14, words, QUIET, "middle")
            end = across(value) + half
    drawing.text((x0 + x1) / 2, y1 + 31, x.axis.title, QUIET, "middle")
    drawing.text(x0, above + 30, y.axis.title, QUIET)
    _marks(drawing, panel, across, down, frame)
    for series, (low, high) in zip(panel.series, stacked(panel), strict=True):
        _series(drawing, panel, series, low, high, across, down)


def _series(drawing: Drawing, panel: Panel, series: Any, low: Any, high: Any, across: Any, down: Any) -> None:
    colour = ROLES[series.colour]["light"]
    if isinstance(series, Bars):
        stacks = list(dict.fromkeys(each.stack for each in panel.series if isinstance(each, Bars)))
        wide = 0.7 / len(stacks)
        offset = wide * (stacks.index(series.stack) - (len(stacks) - 1) / 2)
        for row, bottom, top in zip(series.categories, low, high, strict=True):
            middle = panel.categories.index(row) + offset
            ends = across(middle - wide / 2), down(top), across(middle + wide / 2), down(bottom)
            drawing.box(*ends, colour)
        return
    if isinstance(series, Cells):
        edges = [across(column(series.x) + half) for half in (-HALF_CELL, HALF_CELL)]
        sides = zip(*edges, down(high), down(low), strict=True)
        for (left, right, top, bottom), words in zip(sides, series.words, strict=True):
            drawing.box(left, top, right, bottom, colour)
            if 6.2 * len(words) < right - left:
                drawing.text((left + right) / 2, (top + bottom) / 2 + 4, words, ink_on(colour), "middle")
        return
    xs, ys = across(series.x), down(high)
    if isinstance(series, (Area, Band)):
        outline = [*zip(xs, ys, strict=True), *zip(xs[::-1], down(low)[::-1], strict=True)]
        drawing.polygon(outline, colour, 0.25 if isinstance(series, Band) else 1.0)
    elif isinstance(series, Points):
        for at, value, ring in zip(xs, ys, np.asarray(series.hollow), strict=True):
            if np.isfinite(value):
                if series.mark == "diamond":
                    drawing.polygon(
                        [(at - 6, value), (at, value - 6), (at + 6, value), (at, value + 6)], colour
                    )
                else:
                    drawing.dot(at, value, 4, colour, PAPER if ring else colour)
    elif isinstance(series, Line):
        for part in _unbroken(xs, ys):
            drawing.line(part, colour, series.width)


def _unbroken(xs: Any, ys: Any) -> Iterable[list[tuple[float, float]]]:
    """The stretches of a line between its gaps."""
    part: list[tuple[float, float]] = []
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if np.isfinite(x) and np.isfinite(y):
            part.append((x, y))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _marks(drawing: Drawing, panel: Panel, across: Any, down: Any, frame: Sequence[float]) -> None:
    x0, y0, x1, y1 = frame
    for mark in panel.marks:
        if isinstance(mark, Shade):
            upright = mark.axis == "x"
            ends = (across(mark.low), across(mark.high)) if upright else (x0, x1)
            rows = (y0, y1) if upright else (down(mark.high), down(mark.low))
            drawing.box(ends[0], rows[0], ends[1], rows[1], ROLES[mark.colour]["light"], 0.18)
            drawing.text(ends[0] + 4, rows[0] + 12, mark.label, QUIET)
        elif isinstance(mark, Rule):
            at = across(mark.at) if mark.axis == "x" else down(mark.at)
            drawing.line([(at, y0), (at, y1)] if mark.axis == "x" else [(x0, at), (x1, at)], INK)
            place = (at + 4, y0 + 12) if mark.axis == "x" else (x0 + 4, at - 4)
            drawing.text(place[0], place[1], mark.label, QUIET)
        elif isinstance(mark, Text):
            drawing.text(across(mark.x), down(mark.y), mark.words)
        elif isinstance(mark, Ribbon):
            for low, high, words in zip(mark.edges, mark.edges[1:], mark.words, strict=False):
                drawing.text((across(low) + across(high)) / 2, y1 - 4, words, QUIET, "middle", 10)


def svg(chart: Chart, caption: str) -> str:
    """The drawing and the caption as one SVG: no script, no font to load."""
    drawing, height = draw(chart)
    for row, words in enumerate(caption.splitlines(), start=1):
        drawing.text(0, height + 16 * row, words)
    height += 16 * (len(caption.splitlines()) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {WIDTH + 16} {height + 16}" '
        f'font-family="sans-serif" role="img">\n'
        f'<rect x="-8" y="-8" width="100%" height="100%" fill="{PAPER}"/>\n'
        + "\n".join(_as_svg(kind, own) for kind, own in drawing.shapes)
        + "\n</svg>\n"
    )


def _as_svg(kind: str, own: dict[str, Any]) -> str:
    if kind == "text":
        place = f'x="{own["x"]:.1f}" y="{own["y"]:.1f}" text-anchor="{own["anchor"]}"'
        return f'<text {place} font-size="{own["size"]}" fill="{own["fill"]}">{escape(own["words"])}</text>'
    if kind == "dot":
        place = f'cx="{own["x"]:.1f}" cy="{own["y"]:.1f}" r="{own["radius"]}"'
        return f'<circle {place} fill="{own["fill"]}" stroke="{own["stroke"]}" stroke-width="2"/>'
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in own["points"])
    if kind == "polygon":
        return f'<polygon points="{points}" fill="{own["fill"]}" fill-opacity="{own["opacity"]:g}"/>'
    return f'<polyline points="{points}" fill="none" stroke="{own["stroke"]}" stroke-width="{own["width"]}"/>'


def png(chart: Chart, scale: int = 2) -> bytes:
    """The drawing as PNG, `scale` pixels a CSS pixel.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError("a chart as PNG needs Pillow: pip install pillow") from error
    drawing, height = draw(chart)
    image = Image.new("RGB", (WIDTH * scale, height * scale), PAPER)
    pen: Any = ImageDraw.Draw(image, "RGBA")
    for kind, own in drawing.shapes:
        if kind == "text":
            font = ImageFont.load_default(own["size"] * scale)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[own["anchor"]]
            pen.text((own["x"] * scale, own["y"] * scale), own["words"], own["fill"], font, anchor)
        elif kind == "dot":
            x, y, radius = (own[name] * scale for name in ("x", "y", "radius"))
            box = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(box, fill=own["fill"], outline=own["stroke"], width=2 * scale)
        else:
            points = [(x * scale, y * scale) for x, y in own["points"]]
            if kind == "polygon":
                alpha = f"{round(255 * own['opacity']):02X}"
                pen.polygon(points, fill=own["fill"] + alpha)
            else:
                pen.line(points, fill=own["stroke"], width=round(own["width"] * scale))
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()
