"""Several seeds as one line: the median, and the band from the least to the most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_batch.viz.chart import Band, Line, Points

SEEDS = (1, 2, 3, 4, 5)
ABOUT = f"{len(SEEDS)} seeds a point, the same requests everywhere; line median, band least to most"


def drawn(name: str, x: Sequence[float], values: NDArray[np.float64], colour: str) -> list[Any]:
    """Line, band and points of `values` float64 [points, seeds] over `x`."""
    middle = np.median(values, axis=1)
    return [
        Band(f"{name}, least to most", x, values.min(axis=1), values.max(axis=1), colour),
        Line(name, x, middle, colour),
        Points(name, x, middle, colour),
    ]


def spread(values: NDArray[np.float64], form: str) -> str:
    """The median with the least and the most, as a cell of a table."""
    return f"{np.median(values):{form}} ({values.min():{form}} to {values.max():{form}})"
