"""Pictures of what whole requests cost: throughput, scaling and latency of every engine, under the limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any, Literal, get_args

from nano_batch.benchmarks.engines.rows import LIMIT, SUSTAINED
from nano_batch.benchmarks.engines.work import CaseName
from nano_batch.benchmarks.report import Row
from nano_batch.display import number
from nano_batch.lessons.measured_engines import (
    ENGINES,
    LIMITS,
    OURS,
    SINGLE,
    MeasuredEngines,
    measured_engines,
)
from nano_batch.viz.chart import Axis, Band, Chart, Line, Panel, PointMark, Points, Rule, Series
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.table import Table

Value = Callable[[Row], float | None]
Live = Mapping[str, Any]
ALL_CASES = get_args(CaseName)
TABLE = {
    "tok_per_s": "tokens/s",
    "limit_percent": "of the limit (%)",
    "sustained_percent": "of the limit over seconds (%)",
    "ttft_p50_s": "TTFT p50 (s)",
    "ttft_p99_s": "TTFT p99 (s)",
    "ttft_batch_p50_s": "TTFT of the batch p50 (s)",
    "tpot_p50_ms": "TPOT p50 (ms)",
    "tpot_p99_ms": "TPOT p99 (ms)",
    "step_ms": "step (ms)",
}


def engine_throughput(device: str | None = None, *, live: Live | None = None) -> ChartView:
    """Output tokens a second over concurrency, of every engine, under the limit.

    Args:
        device: whose recorded measurement, such as "h200"; by default a GPU's.
        live: what `nano_batch.benchmarks.engine.run` returned here: diamonds beside the recorded circles.

    Raises:
        LabError, UnknownOptionError: there is no such measurement.
    """
    return _view(throughput_chart, device, live, "engine_throughput", "offline")


def engine_scaling(device: str | None = None, *, live: Live | None = None) -> ChartView:
    """What more requests at once bring: throughput as a multiple of that at 1, and as a share of the limit.

    Arguments and errors: as `engine_throughput`.
    """
    return _view(scaling_chart, device, live, "engine_scaling", "offline")


def engine_latency(device: str | None = None, *, live: Live | None = None) -> ChartView:
    """How long tokens take: TTFT and TPOT over concurrency, a decode step, TTFT over the rate of arrivals.

    Arguments and errors: as `engine_throughput`.
    """
    return _view(latency_chart, device, live, "engine_latency", *ALL_CASES)


def _view(
    chart: Callable[[MeasuredEngines, MeasuredEngines | None], Chart],
    device: str | None,
    live: Live | None,
    name: str,
    *cases: str,
) -> ChartView:
    recorded = measured_engines(device)
    here = None if live is None else MeasuredEngines("live", live)
    source = f"recorded: {recorded.source(*cases)}"
    source += f"; diamonds: live, {here.source(*cases)}" if here else ""
    own: dict[str, Any] = {"source": source, "recreate": f"lab.{name}({recorded.name!r})"}
    return ChartView(lambda: chart(recorded, here), **own)


def throughput_chart(recorded: MeasuredEngines, here: MeasuredEngines | None = None) -> Chart:
    """Throughput over concurrency; the spread of the runs is a band, one request at a time a line across."""
    series = _series(recorded, here, "offline", _column("tok_per_s"))
    spread = _spread(recorded)
    alone = recorded.rows("offline", SINGLE)
    marks = [Rule("y", row["tok_per_s"], f"one at a time, {number(row['tok_per_s'])}") for row in alone[:1]]
    y = Axis("output", "tokens/s", "log10")
    panel = Panel("throughput", _concurrency(recorded), y, [*spread, *series], marks, height=360)
    return _chart("How many tokens a second", recorded, [panel], "offline", says=_said(recorded))


def scaling_chart(recorded: MeasuredEngines, here: MeasuredEngines | None = None) -> Chart:
    """Throughput over that at concurrency 1 (static batches: over one at a time), and over the limit's.

    Grey: ours over what the limit is over seconds, where power holds large products back.
    """

    def gain(found: MeasuredEngines) -> Value:
        def value(row: Row) -> float | None:
            one = found.one_at_once(row["engine"])
            return None if one is None else row["tok_per_s"] / one["tok_per_s"]

        return value

    x = _concurrency(recorded)
    gained = _series(recorded, None, "offline", gain(recorded))
    gained += [] if here is None else _points(here, "offline", gain(here), live=True)
    share = _series(recorded, here, "offline", _column("limit_percent"), without=(LIMIT,))
    over_seconds = [row for row in recorded.rows("offline", OURS) if row["sustained_percent"] is not None]
    if len(over_seconds) > 1:
        name = f"{ENGINES[OURS][0]}, of {ENGINES[SUSTAINED][0]}"
        values = _values(over_seconds, _column("sustained_percent"))
        share.append(Line(name, _across(over_seconds), values, "muted", dash="5 3"))
    times = Axis("throughput over that at 1", "times", "log2")
    percent = Axis("throughput over the limit's", "%", low=0.0, high=100.0)
    panels = [
        Panel("scaling", x, times, gained, height=320),
        Panel("share of the limit", x, percent, share, height=320),
    ]
    return _chart("What more requests at once bring", recorded, panels, "offline", columns=2)


def latency_chart(recorded: MeasuredEngines, here: MeasuredEngines | None = None) -> Chart:
    """TTFT from arrival and TPOT over concurrency; a decode step; TTFT over the rate of arrivals."""
    across, rate = (
        _concurrency(recorded),
        Axis("arrivals", "requests/s", "log2", ticks=_rates(recorded) or None),
    )
    seconds, ms = Axis("from arrival", "s", "log10"), Axis("per token", "ms", "log10")
    drawn = (
        ("time to first token, p50", across, seconds, "offline", "ttft_p50_s"),
        ("time to first token, p99", across, seconds, "offline", "ttft_p99_s"),
        ("time per output token, p50", across, ms, "offline", "tpot_p50_ms"),
        ("time per output token, p99", across, ms, "offline", "tpot_p99_ms"),
        ("a decode step", across, Axis("step", "ms", "log10"), "steady", "step_ms"),
        ("time to first token of Poisson arrivals, p99", rate, seconds, "poisson", "ttft_p99_s"),
    )
    panels = [
        Panel(
            title, x, y, _series(recorded, here, case, _column(column)), height=290,
            note="" if case == "offline" else recorded.when(case),
        )
        for title, x, y, case, column in drawn
    ]  # fmt: skip
    panels = [each for each in panels if each.series]
    return _chart("How long a token takes", recorded, panels, "offline", columns=2)


def _chart(
    title: str,
    recorded: MeasuredEngines,
    panels: Sequence[Panel],
    *cases: str,
    columns: Literal[1, 2] = 1,
    says: Sequence[str] = (),
) -> Chart:
    """What was measured when stands beside the titles of the first row, so that a bare picture has it."""
    notes = [recorded.source(*cases)] if columns == 1 else [recorded.what, recorded.when(*cases)]
    noted = [replace(panel, note=note) for panel, note in zip(panels, notes, strict=False)]
    return Chart([*noted, *panels[len(noted) :]], title, columns=columns, says=says, table=_table(recorded))


def _series(
    recorded: MeasuredEngines,
    here: MeasuredEngines | None,
    case: str,
    value: Value,
    *,
    without: Sequence[str] = (),
) -> list[Series]:
    """A line and circles an engine, the limit a line alone; what was measured here, diamonds."""
    series: list[Series] = []
    for engine in recorded.engines(case):
        name, colour = ENGINES[engine]
        rows = recorded.rows(case, engine)
        if engine not in without and len(rows) > 1:
            series.append(Line(name, _across(rows), _values(rows, value), colour))
    series += _points(recorded, case, value, without=(LIMIT, *without))
    if here is not None:
        series += _points(here, case, value, without=without, live=True)
    return series


def _points(
    found: MeasuredEngines,
    case: str,
    value: Value,
    *,
    without: Sequence[str] = (),
    live: bool = False,
) -> list[Series]:
    """Circles of what was recorded, diamonds of what was measured here."""
    series: list[Series] = []
    for engine in found.engines(case):
        if engine in without:
            continue
        name, colour = ENGINES[engine]
        rows = found.rows(case, engine)
        mark: PointMark = "diamond" if live else "circle"
        named = f"{name}, live" if live else name
        series.append(Points(named, _across(rows), _values(rows, value), colour, mark=mark))
    return series


def _spread(recorded: MeasuredEngines) -> list[Series]:
    """Least to most of the runs, where there were several."""
    bands: list[Series] = []
    for engine in recorded.engines("offline"):
        rows = [row for row in recorded.rows("offline", engine) if row["runs"] > 1]
        if len(rows) > 1:
            name, colour = ENGINES[engine]
            low, high = ([row[column] for row in rows] for column in ("tok_per_s_least", "tok_per_s_most"))
            bands.append(Band(f"{name}, least to most", _across(rows), low, high, colour))
    return bands


def _across(rows: Sequence[Row]) -> list[float]:
    return [each["concurrency"] if each["rate_per_s"] is None else each["rate_per_s"] for each in rows]


def _column(name: str) -> Value:
    return lambda row: row[name]


def _values(rows: Sequence[Row], value: Value) -> list[float]:
    """NaN where there is none."""
    found = [value(each) for each in rows]
    return [nan if each is None else each for each in found]


def _concurrency(recorded: MeasuredEngines) -> Axis:
    rows = [row for case in ("offline", "steady") for row in recorded.content["rows"] if row["case"] == case]
    return Axis("requests at once", "", "log2", ticks=sorted({row["concurrency"] for row in rows}) or None)


def _rates(recorded: MeasuredEngines) -> list[float]:
    rows = [row for row in recorded.content["rows"] if row["case"] == "poisson"]
    return sorted({row["rate_per_s"] for row in rows})


def _said(recorded: MeasuredEngines) -> list[str]:
    """What the largest concurrency gives, against each other engine at the same load."""
    ours = recorded.rows("offline", OURS)
    if not ours:
        return []
    last = ours[-1]
    others = [
        f"{number(last['tok_per_s'] / row['tok_per_s'])} times {name}"
        for engine, (name, _) in ENGINES.items()
        if engine not in (OURS, *LIMITS)
        for row in recorded.rows("offline", engine)
        if row["concurrency"] == last["concurrency"]
    ]
    share = "" if last["limit_percent"] is None else f", {number(last['limit_percent'])} % of the limit"
    if last["sustained_percent"] is not None:
        share += f" and {number(last['sustained_percent'])} % of what it is over seconds"
    beside = f"; {', '.join(others)}" if others else ""
    return [
        f"{last['requests']} requests, {last['concurrency']} at once: "
        f"{number(last['tok_per_s'])} tokens/s{share}{beside}."
    ]


def _table(recorded: MeasuredEngines) -> Table:
    columns = ("case", "at once", "requests/s", "engine", *TABLE.values())
    rows = [
        (
            row["case"], str(row["concurrency"]), _text(row["rate_per_s"]), ENGINES[row["engine"]][0],
            *(_text(row[name]) for name in TABLE),
        )
        for row in recorded.content["rows"]
    ]  # fmt: skip
    return Table(recorded.source(*ALL_CASES), columns, tuple(rows))


def _text(value: float | None) -> str:
    return "–" if value is None else number(value)
