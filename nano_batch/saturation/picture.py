"""Two configurations over a load, as panels: throughput, latencies, goodput, the bound and what binds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import number
from nano_batch.metrics import SLO
from nano_batch.saturation.bound import output_bound_per_s
from nano_batch.saturation.curve import LoadCurve
from nano_batch.saturation.limits import THROUGHPUT, Binding, binding_limits
from nano_batch.viz.chart import (
    Axis,
    Band,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    Ribbon,
    Rule,
    Series,
    Shade,
)
from nano_batch.viz.table import Table

Floats = NDArray[np.float64]
Share = Literal["", "x"]
COLOURS = ("series-1", "series-2")
LOADS = {"users": ("Concurrency", "users"), "rate": ("Arrivals", "requests/s")}


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two: its letter, its curve, what binds and what the cost model allows at each load."""

    letter: str
    curve: LoadCurve
    limits: Sequence[Binding]
    bound: Sequence[float]

    @classmethod
    def of(cls, letter: str, curve: LoadCurve) -> Side:
        """The side of a curve; the bound is the median of the seeds', limits are those of the first seed."""
        bound = [
            [output_bound_per_s(curve.configuration, curve.workload(point, seed)) for seed in curve.seeds]
            for point in range(len(curve.loads))
        ]
        medians = np.median(np.array(bound), axis=1).tolist()
        return cls(letter, curve, binding_limits(curve, curve.seeds[:1]), medians)

    @property
    def colour(self) -> str:
        """The role of its colour."""
        return COLOURS["AB".index(self.letter)]

    @property
    def unstable(self) -> str:
        """Where it has no values, in words; empty where it has all."""
        loads = self.curve.loads[self.curve.unstable]
        return f"{self.letter} unstable at {', '.join(map(number, loads.tolist()))}" if len(loads) else ""


def over_load(sides: Sequence[Side], slo: SLO) -> Chart:
    """The four panels on one axis of load."""
    first = sides[0].curve
    x = Axis(*LOADS[first.over], scale="log2", ticks=first.loads.tolist())
    panels = [_throughput(sides, slo, x), _latency(sides, "ttft", "Time to first token", slo, x)]
    panels += [_goodput(sides, slo, x), _latency(sides, "tpot", "Time per output token", slo, x)]
    return _chart("Throughput over " + _load_word(sides), sides, slo, panels, columns=2, share="x")


def per_user(sides: Sequence[Side], slo: SLO) -> Chart:
    """Tokens per second that each user sees against those of the whole GPU, a point a load."""
    x, y = Axis("Of one user", "tokens/s"), Axis("Of the GPU", "tokens/s", "log10")
    series: list[Series] = []
    for side in sides:
        each = 1 / side.curve.spread("tpot_p50_s")[0]
        whole = side.curve.spread(THROUGHPUT)[0]
        series += [
            Line(side.letter, each, whole, side.colour),
            Points(side.letter, each, whole, side.colour),
        ]
    panel = Panel("What one user gets against what the GPU gives", x, y, series)
    title = "One user against the GPU, over " + _load_word(sides)
    return _chart(title, sides, slo, [panel], columns=1, share="")


def _load_word(sides: Sequence[Side]) -> str:
    return "concurrency" if sides[0].curve.over == "users" else "arrival rate"


def _chart(
    title: str, sides: Sequence[Side], slo: SLO, panels: list[Panel], *, columns: Literal[1, 2], share: Share
) -> Chart:
    return Chart(
        panels,
        title,
        columns=columns,
        share=share,
        settings="; ".join(f"{side.letter}: {side.curve.configuration.name}" for side in sides),
        says=[_sentence(side, slo) for side in sides],
        numbers=_numbers(sides, slo),
        table=_table(sides),
    )


def _throughput(sides: Sequence[Side], slo: SLO, x: Axis) -> Panel:
    series: list[Series] = []
    loads = sides[0].curve.loads
    for side in sides:
        series += _spread(side, side.curve.spread(THROUGHPUT))
        series.append(Line(f"{side.letter}, bound", loads, side.bound, side.colour, "1 4", 1.5))
    one = sides[0].curve.spread(THROUGHPUT)[0][0] / loads[0]
    if sides[0].curve.over == "users" and np.isfinite(one):
        series.append(Line("A's first point, in proportion", loads, one * loads, "muted", "5 4", 1.2))
    marks = [*_shade(sides[-1], slo), ribbon(sides[-1])]
    y = _log_axis("Output", "tokens/s", series, ())
    return Panel("Output throughput", x, y, series, marks, note=_limited(sides[-1]))


def _latency(sides: Sequence[Side], name: str, title: str, slo: SLO, x: Axis) -> Panel:
    series: list[Series] = []
    for side in sides:
        loads, letter = side.curve.loads, side.letter
        median = side.curve.spread(f"{name}_p50_s")[0]
        values = tuple(1e3 * values for values in side.curve.spread(f"{name}_p99_s"))
        series.append(Line(f"{letter}, p50", loads, 1e3 * median, side.colour, "4 3", 1.5))
        series += _band(side, *values[1:])
        series.append(Line(f"{letter}, p99", loads, values[0], side.colour))
        series.append(Points(f"{letter}, p99", loads, values[0], side.colour, side.curve.hollow(name)))
    limit = getattr(slo, f"{name}_s")
    rules = (
        [] if limit is None else [Rule("y", 1e3 * limit, f"objective {number(1e3 * limit)} ms", f"{name}_ms")]
    )
    marks: list[Mark] = [*rules, *([ribbon(sides[0])] if name == "tpot" else [])]
    note = "; ".join(filter(None, (side.unstable for side in sides)))
    if name == "tpot" and len(sides) > 1:
        note = _limited(sides[0])
    y = _log_axis(name.upper(), "ms", series, [rule.at for rule in rules])
    return Panel(title, x, y, series, marks, note=note)


def _goodput(sides: Sequence[Side], slo: SLO, x: Axis) -> Panel:
    series = [each for side in sides for each in _spread(side, side.curve.goodput(slo))]
    y = Axis("Goodput", "requests/s")
    return Panel("Goodput: both objectives met", x, y, series, _shade(sides[-1], slo))


def _spread(side: Side, values: tuple[Floats, Floats, Floats]) -> list[Series]:
    """Median as a line with its points, least to most of the seeds as a band."""
    median, low, high = values
    name, loads = f"{side.letter}, median", side.curve.loads
    return [
        *_band(side, low, high),
        Line(name, loads, median, side.colour),
        Points(name, loads, median, side.colour),
    ]


def _band(side: Side, low: Floats, high: Floats) -> list[Series]:
    """Least to most of the seeds, where there are values."""
    known = np.isfinite(low)
    name = f"{side.letter}, least to most of {len(side.curve.seeds)} seeds"
    return [Band(name, side.curve.loads[known], low[known], high[known], side.colour)]


def _log_axis(label: str, unit: str, series: Sequence[Series], marks: Sequence[float]) -> Axis:
    """A logarithmic axis with room for the words of the marks above the highest."""
    columns = [getattr(each, name) for each in series for name in ("y", "low", "high") if hasattr(each, name)]
    values = np.concatenate([*columns, np.asarray(marks, np.float64)])
    values = values[np.isfinite(values) & (values > 0)]
    return Axis(label, unit, "log10", low=float(values.min()) / 1.2, high=1.5 * float(values.max()))


def _shade(side: Side, slo: SLO) -> list[Mark]:
    """The loads of a side within the objectives, its best one named."""
    loads, within, best = side.curve.loads, side.curve.within(slo), side.curve.best(slo)
    if best is None:
        return []
    edges = _edges(loads)
    label = f"{side.letter} meets the objectives, best at {number(float(loads[best]))}"
    runs = [
        list(group) for good, group in groupby(range(len(loads)), key=lambda at: bool(within[at])) if good
    ]
    shades = [
        Shade(edges[run[0]], edges[run[-1] + 1], label if best in run else "", colour=side.colour)
        for run in runs
    ]
    return list(shades)


def _limited(side: Side) -> str:
    return f"below it: what limits {side.letter}, for seed {side.curve.seeds[0]}"


def ribbon(side: Side) -> Ribbon:
    """What limits a side, neighbouring loads with one limit together."""
    edges = _edges(side.curve.loads)
    groups = [
        (word, list(at))
        for word, at in groupby(range(len(side.limits)), key=lambda at: side.limits[at].limit)
    ]
    return Ribbon([edges[0], *(edges[at[-1] + 1] for _, at in groups)], [word for word, _ in groups])


def _edges(loads: Floats) -> list[float]:
    """Half way between loads on the axis; the ends are the first and the last load."""
    middle = np.sqrt(loads[:-1] * loads[1:])
    return [float(loads[0]), *middle.tolist(), float(loads[-1])]


def _numbers(sides: Sequence[Side], slo: SLO) -> dict[str, float]:
    """The highest throughput and goodput of the side that the controls move."""
    side = sides[-1]
    best = side.curve.best(slo)
    throughput, goodput = side.curve.spread(THROUGHPUT)[0], side.curve.goodput(slo)[0]
    within = float("nan") if best is None else float(throughput[best])
    return {
        f"{side.letter} highest output, tokens/s": _highest(throughput),
        f"{side.letter} within the objectives, tokens/s": within,
        f"{side.letter} highest goodput, requests/s": _highest(goodput),
    }


def _highest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else float("nan")


def _sentence(side: Side, slo: SLO) -> str:
    parts = []
    if side.curve.over == "users":
        knee = side.curve.knee
        parts.append("no knee within the loads" if knee is None else f"knee at {number(knee)} users")
    best = side.curve.best(slo)
    met = "" if best is None else f", at best at {number(float(side.curve.loads[best]))}"
    parts.append(f"meets the objectives{met}" if met else "never meets the objectives")
    parts += filter(None, [side.unstable])
    limit = f"the last point is limited, for seed {side.curve.seeds[0]}, by {side.limits[-1].words}"
    return f"{side.letter}: {'; '.join(parts)}; {limit}."


def _table(sides: Sequence[Side]) -> Table:
    """A row a load: medians of each side, what limits it, and the paired difference."""
    load = " ".join(LOADS[sides[0].curve.over])
    parts = ("output, tokens/s", "TTFT p99, ms", "TPOT p99, ms", "limit")
    columns = [load.lower(), *(f"{side.letter} {part}" for side in sides for part in parts)]
    rows = []
    for point, at in enumerate(sides[0].curve.loads.tolist()):
        row = [number(at)]
        for side in sides:
            throughput = side.curve.spread(THROUGHPUT)[0][point]
            ttft, tpot = (1e3 * side.curve.spread(f"{name}_p99_s")[0][point] for name in ("ttft", "tpot"))
            shown = [number(float(value)) for value in (throughput, ttft, tpot)]
            row += ["unstable", "", ""] if side.curve.unstable[point] else shown
            row.append(side.limits[point].limit)
        if len(sides) == 2:
            paired = sides[1].curve.values(THROUGHPUT)[point] / sides[0].curve.values(THROUGHPUT)[point] - 1
            known = not any(side.curve.unstable[point] for side in sides)
            row.append(f"{100 * float(np.median(paired)):+.1f}".replace("-", "−") if known else "")
        rows.append(tuple(row))
    if len(sides) == 2:
        columns.append("B against A, %")
    requests = sides[0].curve.requests
    counts = " to ".join(str(count) for count in sorted({min(requests), max(requests)}))
    title = f"medians of {len(sides[0].curve.seeds)} seeds, {counts} requests a run"
    return Table(title, tuple(columns), tuple(rows))
