"""The batching Gantt as a still picture, drawn without a browser: PNG, SVG, and a plotly figure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.records import Phase
from nano_batch.viz.palette import PHASES
from nano_batch.viz.poster import encode, rgb

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nano_batch.viz.scheme import Scheme

WIDTH, TALLEST, LARGEST, GAP = 860, 200, 12, 24  # CSS pixels, as in static/gantt_layout.js
MOST_SHAPES = 4000
LOOKS = {look.number: look for look in PHASES}
IDLE = 5


def row_height(rows: int) -> float:
    """CSS pixels of a row: up to 60 rows at least 3, above that bars shrink."""
    return max(3, min(LARGEST, TALLEST // max(1, rows))) if rows <= 60 else TALLEST / rows


def bars(scheme: Scheme, rows: str) -> tuple[int, Any, Any]:
    """How many rows there are, the places in the scheme's spans that are drawn, and the row of each."""
    spans = scheme.spans
    if rows == "requests":
        return len(scheme.names), np.arange(len(spans)), spans.row
    drawn = np.flatnonzero(spans.lane >= 0)
    return scheme.slots, drawn, spans.lane[drawn]


def png(schemes: Sequence[Scheme], rows: str) -> bytes:
    """The bars of each scheme, one below the other, at 2x as a PNG."""
    end = max(scheme.end_s for scheme in schemes) or 1.0
    panels = []
    for scheme in schemes:
        panels += [_panel(scheme, rows, end), np.full((2 * GAP // 2, 2 * WIDTH, 3), 255, np.uint8)]
    return encode(np.ascontiguousarray(np.concatenate(panels[:-1])))


def _panel(scheme: Scheme, rows: str, end: float) -> Any:
    count, drawn, row = bars(scheme, rows)
    edge, spans = 2 * row_height(count), scheme.spans
    height = max(1, round(edge * count))
    image = np.full((height, 2 * WIDTH, 3), 255, np.uint8)
    if rows == "slots":
        _outline(image, scheme.end_s / end, count, edge)
    x = np.round(np.array([spans.start_s[drawn], spans.end_s[drawn]]) * (2 * WIDTH / end)).astype(np.int64)
    top = np.floor(row * edge).astype(np.int64)
    gap = 2 if edge >= 6 else 0
    tall = max(1, int(edge) - gap)
    for at, phase in enumerate(spans.phase[drawn].tolist()):
        colour, y = rgb(LOOKS[phase].light), int(top[at])
        left, right = int(x[0, at]), max(int(x[1, at]), int(x[0, at]) + 1)
        if phase == Phase.WAITING:
            middle = y + tall // 2
            image[middle : middle + max(1, tall // 4), left:right] = colour
        elif phase == Phase.PREEMPTED and tall >= 4:
            part = image[y : y + tall, left:right]
            part[(np.add.outer(np.arange(part.shape[0]), np.arange(part.shape[1])) % 8) < 4] = colour
        else:
            image[y : y + tall, left:right] = colour
    return image


def _outline(image: Any, share: float, rows: int, edge: float) -> None:
    """Idle slots: an empty frame a row, up to the end of the run."""
    right, line = max(2, round(share * image.shape[1])), (138, 144, 150)
    if edge < 6:
        image[:1, :right], image[-1:, :right], image[:, right - 2 : right] = line, line, line
        return
    for row in range(rows):
        top, bottom = round(row * edge), round((row + 1) * edge) - 2
        image[top, :right], image[bottom - 1, :right] = line, line
        image[top:bottom, :1], image[top:bottom, right - 1 : right] = line, line


def svg(schemes: Sequence[Scheme], rows: str, caption: str) -> str:
    """Bars, labels, legend and caption as one SVG; many bars as one picture within it."""
    end = max(scheme.end_s for scheme in schemes) or 1.0
    shapes, top = [], 0.0
    for scheme in schemes:
        count, drawn, _ = bars(scheme, rows)
        height = row_height(count) * count
        shapes.append(_text(0, top + 14, scheme.label, ' font-weight="bold"'))
        shapes.append(_text(WIDTH, top + 14, scheme.words(), ' text-anchor="end"'))
        top += GAP
        if len(drawn) > MOST_SHAPES:
            data = b64encode(encode(np.ascontiguousarray(_panel(scheme, rows, end)))).decode()
            size = f'x="0" y="{top:g}" width="{WIDTH}" height="{height:g}"'
            shapes.append(f'<image {size} href="data:image/png;base64,{data}"/>')
        else:
            shapes += _shapes(scheme, rows, end, top)
        top += height
    legend = top + 24
    for i, look in enumerate(PHASES):
        stroke = ' stroke="#8a9096"' if look.number == IDLE else ""
        shapes.append(
            f'<rect x="{140 * i}" y="{legend - 9:g}" width="10" height="10" fill="{look.light}"{stroke}/>'
        )
        shapes.append(_text(140 * i + 15, legend, look.label))
    lines = caption.splitlines()
    shapes += [_text(0, legend + 6 + 15 * i, line) for i, line in enumerate(lines, start=1)]
    height = legend + 15 * (len(lines) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {WIDTH + 16} {height + 8:g}" '
        'font-family="sans-serif" font-size="12" fill="#1a1a1a" role="img">\n'
        '<rect x="-8" y="-8" width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _shapes(scheme: Scheme, rows: str, end: float, top: float) -> list[str]:
    count, drawn, row = bars(scheme, rows)
    edge, spans, scale = row_height(count), scheme.spans, WIDTH / end
    tall, found = edge - 1 if edge >= 3 else edge, []
    if rows == "slots":
        for lane in range(count):
            size = f'x="0" y="{top + lane * edge:g}" width="{scheme.end_s * scale:.2f}" height="{tall:g}"'
            found.append(f'<rect {size} fill="none" stroke="#8a9096" stroke-width="0.5"/>')
    for at, lane in zip(drawn.tolist(), row.tolist(), strict=True):
        phase, x = int(spans.phase[at]), spans.start_s[at] * scale
        thin = phase == Phase.WAITING
        y, high = top + lane * edge + (tall * 0.4 if thin else 0), tall * 0.2 if thin else tall
        size = f'x="{x:.2f}" y="{y:g}" width="{(spans.end_s[at] - spans.start_s[at]) * scale:.2f}"'
        dash = ' fill-opacity="0.5"' if phase == Phase.PREEMPTED else ""
        found.append(f'<rect {size} height="{high:g}" fill="{LOOKS[phase].light}"{dash}/>')
    return found


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'


def figure(schemes: Sequence[Scheme], rows: str) -> go.Figure:
    """A panel a scheme, a trace a phase: each span a line from its start to its end."""
    from plotly.graph_objects import Figure, Scattergl
    from plotly.subplots import make_subplots

    titles = [f"{scheme.label}: {scheme.words()}" for scheme in schemes]
    drawn: Figure = make_subplots(rows=len(schemes), cols=1, shared_xaxes=True, subplot_titles=titles)
    for panel, scheme in enumerate(schemes, start=1):
        count, places, row = bars(scheme, rows)
        phases = scheme.spans.phase[places]
        for look in PHASES:
            mine = np.flatnonzero(phases == look.number)
            if not len(mine):
                continue
            at = places[mine]
            nothing = np.full(len(at), np.nan)
            x = np.column_stack((scheme.spans.start_s[at], scheme.spans.end_s[at], nothing)).ravel()
            y = np.column_stack((row[mine], row[mine], nothing)).ravel()
            wide = row_height(count) * (0.25 if look.number == Phase.WAITING else 1)
            line = {"color": look.light, "width": max(1, wide)}
            trace = Scattergl(x=x, y=y, mode="lines", line=line, name=look.label, showlegend=panel == 1)
            drawn.add_trace(trace, row=panel, col=1)
        drawn.update_yaxes(range=[count - 0.5, -0.5], title_text=rows[:-1], row=panel, col=1)
    drawn.update_xaxes(title_text="time (s)", row=len(schemes), col=1)
    drawn.update_layout(title="Batch slots over time")
    return drawn
