"""Two configurations over a load, as panels: throughput, latencies, goodput, the bound and what binds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import number
from nano_batch.metrics import SLO
from nano_batch.saturation.bound import output_bound_per_s
from nano_batch.saturation.curve import LoadCurve
from nano_batch.saturation.limits import THROUGHPUT, Binding
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
    Text,
)
from nano_batch.viz.table import Table

Floats = NDArray[np.float64]
COLOURS = ("series-1", "series-2")
LOADS = {"users": ("Concurrency", "users"), "rate": ("Arrivals", "requests/s")}


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two: its letter, its curve and what binds at each load."""

    letter: str
    curve: LoadCurve
    limits: Sequence[Binding]

    @property
    def colour(self) -> str:
        """The role of its colour."""
        return COLOURS["AB".index(self.letter)]


def over_load(sides: Sequence[Side], slo: SLO) -> Chart:
    """The four panels on one axis of load."""
    first = sides[0].curve
    x = Axis(*LOADS[first.over], scale="log2", ticks=first.loads.tolist())
    panels = [_throughput(sides, slo, x), _latency(sides, "ttft", "Time to first token", slo, x)]
    panels += [_goodput(sides, slo, x), _latency(sides, "tpot", "Time per output token", slo, x)]
    return _chart(sides, slo, panels, columns=2, share="x")


def per_user(sides: Sequence[Side], slo: SLO) -> Chart:
    """Tokens per second that each user sees against those of the whole GPU, a point a load."""
    x, y = Axis("Of one user", "tokens/s", "log10"), Axis("Of the GPU", "tokens/s", "log10")
    series: list[Series] = []
    for side in sides:
        each = 1 / side.curve.spread("tpot_p50_s")[0]
        whole = side.curve.spread(THROUGHPUT)[0]
        series += [
            Line(f"{side.letter}, path", each, whole, side.colour),
            Points(f"{side.letter}, a load", each, whole, side.colour),
        ]
    panel = Panel("What one user gets against what the GPU gives", x, y, series)
    return _chart(sides, slo, [panel], columns=1, share="")


def _chart(sides: Sequence[Side], slo: SLO, panels: list[Panel], *, columns: int, share: str) -> Chart:
    return Chart(
        panels,
        "Throughput over " + ("concurrency" if sides[0].curve.over == "users" else "arrival rate"),
        columns=columns,  # type: ignore[arg-type]
        share=share,  # type: ignore[arg-type]
        settings="; ".join(f"{side.letter}: {side.curve.configuration.name}" for side in sides),
        says=[_sentence(side, slo) for side in sides],
        numbers=_numbers(sides, slo),
        table=_table(sides),
    )


def _throughput(sides: Sequence[Side], slo: SLO, x: Axis) -> Panel:
    series: list[Series] = []
    marks: list[Mark] = []
    first = sides[0].curve.loads
    for side in sides:
        bound = [
            min(
                output_bound_per_s(side.curve.configuration, side.curve.workload(point, seed))
                for seed in (0,)
            )
            for point in range(len(first))
        ]
        series += _spread(side, "median", side.curve.spread(THROUGHPUT))
        series.append(Line(f"{side.letter}, bound", first, bound, side.colour, "1 4", 1.5))
        marks += _unstable(side, min(filter(np.isfinite, side.curve.spread(THROUGHPUT)[0]), default=1.0))
    one = sides[0].curve.spread(THROUGHPUT)[0][0] / first[0]
    if sides[0].curve.over == "users" and np.isfinite(one):
        series.append(Line("proportional to A's first point", first, one * first, "muted", "5 4", 1.2))
    marks += [*_shade(sides[-1], slo), ribbon(sides[-1])]
    title = f"Output throughput; below it, what limits {sides[-1].letter}"
    return Panel(title, x, Axis("Output", "tokens/s", "log10"), series, marks)


def _latency(sides: Sequence[Side], name: str, title: str, slo: SLO, x: Axis) -> Panel:
    series: list[Series] = []
    for side in sides:
        p50, p99 = (
            tuple(1e3 * values for values in side.curve.spread(f"{name}_{q}_s")) for q in ("p50", "p99")
        )
        loads = side.curve.loads
        series.append(Line(f"{side.letter}, p50", loads, p50[0], side.colour, "4 3", 1.5))
        series += [
            Band(f"{side.letter}, p99 of five seeds", loads, p99[1], p99[2], side.colour),
            Line(f"{side.letter}, p99", loads, p99[0], side.colour),
            Points(
                f"{side.letter}, p99 (hollow: few samples)",
                loads,
                p99[0],
                side.colour,
                side.curve.hollow(name),
            ),
        ]
    limit = getattr(slo, f"{name}_s")
    rules = (
        [] if limit is None else [Rule("y", 1e3 * limit, f"objective {number(1e3 * limit)} ms", f"{name}_ms")]
    )
    marks = rules if name == "ttft" else [*rules, ribbon(sides[0])]
    shown = title if name == "ttft" else f"{title}; below it, what limits {sides[0].letter}"
    return Panel(shown, x, Axis(name.upper(), "ms", "log10"), series, marks)


def _goodput(sides: Sequence[Side], slo: SLO, x: Axis) -> Panel:
    series: list[Series] = []
    for side in sides:
        series += _spread(side, "goodput", side.curve.goodput(slo))
    title = "Goodput: requests that meet both objectives"
    return Panel(title, x, Axis("Goodput", "requests/s"), series, _shade(sides[-1], slo))


def _spread(side: Side, name: str, values: tuple[Floats, Floats, Floats]) -> list[Series]:
    """Median as a line with its points, least to most of the seeds as a band."""
    median, low, high = values
    loads, letter = side.curve.loads, side.letter
    return [
        Band(f"{letter}, five seeds", loads, low, high, side.colour),
        Line(f"{letter}, {name}", loads, median, side.colour),
        Points(f"{letter}, a run", loads, median, side.colour),
    ]


def _unstable(side: Side, low: float) -> list[Mark]:
    return [Text(load, low, f"{side.letter} unstable") for load in side.curve.loads[side.curve.unstable]]


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
    last = side.limits[-1]
    known = (
        "no knee within the loads" if side.curve.knee is None else f"knee at {number(side.curve.knee)} users"
    )
    best = side.curve.best(slo)
    within = (
        "never meets the objectives"
        if best is None
        else (f"meets the objectives, at best at {number(float(side.curve.loads[best]))}")
    )
    head = known + "; " if side.curve.over == "users" else ""
    return f"{side.letter}: {head}{within}; at the highest load {last.words}."


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
            row.append(f"{100 * float(np.median(paired)):+.1f}".replace("-", "−"))
        rows.append(tuple(row))
    if len(sides) == 2:
        columns.append("B against A, %")
    requests = sides[0].curve.requests
    title = f"medians of {len(sides[0].curve.seeds)} seeds, {min(requests)} to {max(requests)} requests a run"
    return Table(title, tuple(columns), tuple(rows))
