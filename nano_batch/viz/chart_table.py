"""A chart in numbers: a few of each series, or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nano_batch.display import number
from nano_batch.viz.chart import Area, Bars, Chart
from nano_batch.viz.scales import stacked
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    import pandas as pd


def summary(chart: Chart) -> Table:
    """First, least, most and last of what each series is at its points."""
    rows = []
    for panel in chart.panels:
        for series, (low, high) in zip(panel.series, stacked(panel), strict=True):
            values = high - low if isinstance(series, (Area, Bars)) else high
            values = values[np.isfinite(values)]
            found = (values[0], values.min(), values.max(), values[-1]) if len(values) else ()
            texts = tuple(number(float(value)) for value in found) or ("–",) * 4
            rows.append((f"{panel.title}: {series.name}", f"{len(high):,}", *texts))
    return Table(chart.title, ("series", "points", "first", "least", "most", "last"), tuple(rows))


def frame(chart: Chart) -> pd.DataFrame:
    """Every value drawn: panel, series, x, low and high (for a line or a point they are equal)."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    for panel in chart.panels:
        for series, (low, high) in zip(panel.series, stacked(panel), strict=True):
            x = list(series.categories) if isinstance(series, Bars) else series.x
            own = {"panel": panel.title, "series": series.name, "x": x, "low": low, "high": high}
            parts.append(pd.DataFrame(own))
    return pd.concat(parts, ignore_index=True)
