"""Plotly figures in a page: their data beside the text, plotly's own script once, from its package."""

from __future__ import annotations

import json
from typing import Any

MIME = "application/vnd.plotly.v1+json"
_DRAW = """
for (const node of document.querySelectorAll(".nb-plotly")) {
  const { data, layout, config } = JSON.parse(node.querySelector("script").textContent);
  Plotly.newPlot(node, data, layout, { responsive: true, ...config, displaylogo: false });
}
"""


def figure(data: dict[str, Any]) -> str:
    """A figure's place in the page, with its data."""
    text = json.dumps({name: data.get(name, {}) for name in ("data", "layout", "config")})
    inside = text.replace("<", "\\u003c")
    return f'<div class="output nb-plotly"><script type="application/json">{inside}</script></div>'


def script(notebook: Any) -> str:
    """What draws the figures of `notebook`; nothing where it has none."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    if not any(MIME in output.get("data", {}) for output in outputs):
        return ""
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>\n<script>{_DRAW}</script>"
