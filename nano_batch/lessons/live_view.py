"""The picture of throughput here and now, beside what was recorded of a large model on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nano_batch.benchmarks.engines.rows import LIMIT
from nano_batch.benchmarks.report import Row
from nano_batch.display import number
from nano_batch.errors import LabError
from nano_batch.lessons.engine_speed import throughput_chart
from nano_batch.lessons.fragmentation import set_all
from nano_batch.lessons.live_engines import CONCURRENCIES, OUTPUTS, PROMPTS, LiveEngines
from nano_batch.lessons.measured_engines import ENGINES, OURS, MeasuredEngines, measured_engines
from nano_batch.viz.chart import Axis, Chart, Line, Panel, Points, Rule, Series, Text
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    from nano_batch.engine import InferenceEngine

CONTROL = Control(
    "concurrency", "Requests at once", "", CONCURRENCIES, 4, "more: a step of the model serves more of them"
)
NOT_MEASURED = "none yet: nano-batch bench engine, on a GPU, makes it"
LIVE, RECORDED = "live: the tiny model", "recorded"
HEIGHT = 340


def live_throughput(
    engine: InferenceEngine, *, live: LiveEngines | None = None, **settings: Any
) -> ChartView:
    """Tokens a second of this engine and Transformers' `generate()` on the same weights, measured here.

    A position of the slider is measured when it is first moved there, in a second or two, and kept. Beside
    it stands what was recorded of a 7B model, or that nothing was.

    Args:
        engine: whose weights are served.
        live: what has been measured before; by default nothing.
        settings: `concurrency`, requests at once.
    """
    here = live or LiveEngines(engine.model)
    recorded = recorded_engines()

    def make(concurrency: int) -> Chart:
        return chart(here, recorded, concurrency)

    circles = f"recorded, {recorded.source('offline')}" if recorded else NOT_MEASURED
    own: dict[str, Any] = {
        "about": f"prompts of {PROMPTS[0]} to {PROMPTS[1]} random tokens, {OUTPUTS[0]} to {OUTPUTS[1]} "
        "greedy ones each; every engine gives exactly these",
        "source": f"diamonds: live, this machine ({here.device}, one thread); circles: {circles}",
        "recreate": "lab.live_throughput(engine, ...)",
    }
    return set_all(ChartView(make, (CONTROL,), **own), settings)


def recorded_engines() -> MeasuredEngines | None:
    """The measurement of a GPU; None where there is none yet."""
    try:
        found = measured_engines()
    except LabError:
        return None
    return None if found.name.startswith("cpu") else found


def chart(here: LiveEngines, recorded: MeasuredEngines | None, concurrency: int) -> Chart:
    """What is measured at one concurrency, and all that was measured before, beside what is recorded."""
    now = here.at(concurrency)
    return Chart(
        [_live_panel(here, concurrency), _recorded_panel(recorded)],
        "How many tokens a second",
        columns=2,
        settings=f"{concurrency} at once, {now[0]['requests']} requests, {now[0]['output_tokens']} tokens",
        says=[_said(here, now)],
        table=_table(here),
    )


def _live_panel(here: LiveEngines, concurrency: int) -> Panel:
    limits = here.limits
    name, colour = ENGINES[LIMIT]
    rates = [row["tok_per_s"] for row in limits]
    series: list[Series] = [Line(name, list(CONCURRENCIES), rates, colour)]
    for engine, (name, colour) in ENGINES.items():
        rows = [row for row in here.rows if row["engine"] == engine != LIMIT]
        if rows:
            x, y = ([row[column] for row in rows] for column in ("concurrency", "tok_per_s"))
            series.append(Points(f"{name}, live", x, y, colour, mark="diamond"))
    at_once = Axis("requests at once", "", "log2", ticks=CONCURRENCIES)
    rate, marks = Axis("output", "tokens/s", "log10", low=50), [Rule("x", concurrency)]
    return Panel(LIVE, at_once, rate, series, marks, note=here.device, height=HEIGHT)


def _recorded_panel(recorded: MeasuredEngines | None) -> Panel:
    if recorded is None:
        x = Axis("requests at once", "", "log2", ticks=(1, 4, 16, 64, 256), low=1, high=256)
        y = Axis("output", "tokens/s", "log10", low=10, high=10_000)
        return Panel(RECORDED, x, y, (), [Text(2, 316, "not measured yet")], note=NOT_MEASURED, height=HEIGHT)
    found = throughput_chart(recorded).panels[0]
    title = f"{RECORDED}: {recorded.content['device']}, {recorded.content['model']}"
    return Panel(
        title, found.x, found.y, found.series, found.marks, note=recorded.when("offline"), height=HEIGHT
    )


def _said(here: LiveEngines, now: list[Row]) -> str:
    rates = {row["engine"]: row["tok_per_s"] for row in now}
    ours, limit = rates.pop(OURS), rates.pop(LIMIT)
    said = f"Here this engine gives {number(ours)} tokens/s, {number(100 * ours / limit)} % of the limit"
    others = [f"{ENGINES[engine][0]} {number(rate)}" for engine, rate in rates.items()]
    if not here.has_transformers:
        others = ["Transformers is not installed: pip install transformers"]
    return f"{said}; {', '.join(others)}."


def _table(here: LiveEngines) -> Table:
    rows = tuple(
        (f"{row['concurrency']}", f"{row['requests']}", ENGINES[row["engine"]][0], number(row["tok_per_s"]),
         number(row["limit_percent"]))
        for row in sorted(here.rows, key=lambda row: row["concurrency"])
    )  # fmt: skip
    return Table("measured here", ("at once", "requests", "engine", "tokens/s", "of the limit (%)"), rows)
