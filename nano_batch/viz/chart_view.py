"""The view of a chart: its controls make another one, a click on a mark opens the run behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import traitlets

from nano_batch._choices import unknown_option
from nano_batch.display import number
from nano_batch.errors import ViewError
from nano_batch.viz import chart_still
from nano_batch.viz.block_table import BlockTableView
from nano_batch.viz.bundle import bundle
from nano_batch.viz.chart import Bars, Chart, Panel, column
from nano_batch.viz.chart_table import frame, summary
from nano_batch.viz.chart_wire import pack_chart
from nano_batch.viz.controls import Control
from nano_batch.viz.palette import HATCHED, ROLES
from nano_batch.viz.selection import Selection
from nano_batch.viz.steer import SteeredView
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_CHILD = ("step", "_requests", "_block", "colour")  # of the run opened, what page and kernel tell each other
_TRAITS: dict[type, type[traitlets.TraitType[Any, Any]]] = {
    bool: traitlets.Bool,
    int: traitlets.Int,
    float: traitlets.Float,
    str: traitlets.Unicode,
}


class ChartView(SteeredView):
    """A live chart. `make(**settings)` is called with the controls' values and returns what is drawn.

    Args:
        make: returns a `Chart`, or a `Chart` and the runs behind it: by (panel, series), or by panel, a run,
            a sequence of runs (one a point), or a function without arguments that makes the run.
        controls: the settings that a reader can move; each becomes a trait of the view.
        opens: `opens(panel, series, index)` gives the run behind a mark, by the panel's title, the series'
            name and the point's place; by default it is looked up in the runs of `make`.
        selection: its `step` is the cursor of the panels whose x is time.
        options: what any view that can be steered takes: `about`, `source`, `recreate`, `made_with`.

    Attributes:
        cursor: the moment marked in all panels over time, in their unit of x; None: no moment.
        opened: the block table of the run behind the mark clicked last, or None.
        runs: what `make` gave beside the chart.
    """

    _esm: ClassVar[Any] = bundle("chart.js")
    _roles = traitlets.Dict(ROLES).tag(sync=True)
    _hatched = traitlets.List(list(HATCHED)).tag(sync=True)
    _chart = traitlets.Dict().tag(sync=True)
    _numbers = traitlets.Dict().tag(sync=True)
    _opens = traitlets.Bool(False).tag(sync=True)
    _opened = traitlets.Dict().tag(sync=True)
    cursor = traitlets.Float(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        make: Callable[..., Any],
        controls: Sequence[Control] = (),
        *,
        opens: Callable[[str, str, int], Any] | None = None,
        selection: Selection | None = None,
        **options: Any,
    ) -> None:
        self._maker, self._opener = make, opens
        self.opened: BlockTableView | None = None
        self._choices = {each.name: each.values for each in controls if isinstance(each.default, str)}
        traits = {each.name: _TRAITS[type(each.default)](each.default).tag(sync=True) for each in controls}
        self.add_traits(**traits)
        super().__init__(controls=tuple(controls), **options)
        self._show(self._make(**self._settings()))
        self._steerable()
        if selection is not None:
            self._follow(selection)

    def _make(self, **settings: Any) -> tuple[Chart, Any]:
        for name, values in self._choices.items():
            if settings[name] not in values:
                raise unknown_option(name, settings[name], values)
        made = self._maker(**settings)
        return made if isinstance(made, tuple) else (made, {})

    def _show(self, made: tuple[Chart, Any]) -> None:
        chart, runs = made
        packed = pack_chart(chart)
        with self.hold_sync():
            self.chart, self.runs = chart, runs
            self.title = chart.title
            self._chart = packed
            table = self.table()
            self._numbers = {"title": table.title, "columns": table.columns, "rows": table.rows}
            self._settings_line = chart.settings
            self._difference = self.difference()
            self._opens = bool(runs) or self._opener is not None
            self.error = ""

    def _facts(self) -> Mapping[str, float]:
        return dict(self.chart.numbers)

    def difference(self) -> str:
        """One line: the chart's numbers against those before; empty where there is nothing before."""
        if self._before is None or not self.chart.numbers:
            return ""
        (name, old), new = self._before, self.chart.numbers
        parts = [_figure(what, _signed(new[what] - old[what])) for what in new if what in old]
        return f"against {name}: {', '.join(parts)}"

    def caption(self) -> str:
        """Title, source and settings; what was measured; the change since the setting before."""
        line = self._settings_line or ", ".join(f"{name} {value}" for name, value in self._settings().items())
        numbers = ", ".join(_figure(name, number(value)) for name, value in self.chart.numbers.items())
        lines = [
            f"{self.title}, {self._source}: {line}" if line else f"{self.title}, {self._source}",
            self._about or "panels: " + "; ".join(panel.title for panel in self.chart.panels),
            numbers or str(len(self.table().rows)) + " rows of numbers: see the table",
            " ".join(self.chart.says),
            self._difference,
        ]
        return "\n".join(filter(None, lines))

    def table(self) -> Table:
        """The chart's own table of numbers, else first, least, most and last value of each series."""
        return self.chart.table or summary(self.chart)

    def to_frame(self) -> pd.DataFrame:
        """Every value drawn: panel, series, x, low and high (for a line or a point they are equal)."""
        return frame(self.chart)

    def poster(self) -> bytes:
        """The panels as PNG at twice the pixels."""
        return chart_still.png(self.chart)

    def svg(self) -> str:
        """The panels with legend and caption as SVG."""
        return chart_still.svg(self.chart, self.caption())

    def figure(self) -> go.Figure:
        """The same chart as a plotly figure, for a reader's own script."""
        from nano_batch.viz.chart_figure import figure

        return figure(self.chart)

    def open_run(self, panel: str, series: str, index: int = 0) -> BlockTableView:
        """Show the run behind a mark in a block table below the chart, at the mark's moment.

        Raises:
            UnknownOptionError: there is no such panel or series; the nearest is named.
            ViewError: no such point, no run behind it, or a run without events.
        """
        shown = _named("panel", panel, {each.title: each for each in self.chart.panels})
        mark = _named("series", series, {each.name: each for each in shown.series})
        count = len(column(mark.y if isinstance(mark, Bars) else mark.x))
        if not 0 <= index < count:
            raise ViewError(f"{series!r} has {count} points; there is no number {index}")
        run = self._run_behind(panel, series, index)
        view = BlockTableView(run, about=f"{panel}: {series}", source=self._source)
        if shown.steps is not None:
            view.step = int(np.asarray(shown.steps)[index])
        self._open(view)
        return view

    def _run_behind(self, panel: str, series: str, index: int) -> Any:
        if self._opener is not None:
            return self._opener(panel, series, index)
        found = self.runs.get((panel, series), self.runs.get(panel)) if self.runs else None
        if isinstance(found, (list, tuple)):
            found = found[index]
        found = found() if callable(found) else found
        if found is None:
            raise ViewError(f"there is no run behind {series!r} in {panel!r}")
        return found

    def _open(self, view: BlockTableView | None) -> None:
        if self.opened is not None:
            self.opened.unobserve_all()
        self.opened = view
        if view is None:
            self._opened = {}
            return
        self._opened = view.page_state()
        view.observe(self._tell_child, names=list(_CHILD))

    def _tell_child(self, change: Any) -> None:
        if not self._from_page:
            self.send({"opened": {change["name"]: change["new"]}})

    def _answer(self, content: Any) -> None:
        if "open" in content:
            return self._open_from_page(*content["open"])
        if "opened" not in content:
            return super()._answer(content)
        if content["opened"] is None:
            self._open(None)
        elif self.opened is not None:
            self._from_page = True
            try:
                self.opened.set_state(
                    {name: value for name, value in content["opened"].items() if name in _CHILD}
                )
            finally:
                self._from_page = False
        return None

    def _open_from_page(self, panel: str, series: str, index: int) -> None:
        try:
            self.open_run(panel, series, index)
            self.error = ""
        except Exception as error:  # a reader's own `opens` may raise anything; the page must say it
            self.error = f"{type(error).__name__}: {error}"
        self._answers += 1

    def _follow(self, selection: Selection) -> None:
        """One clock with the views of a run: the cursor stands at the selection's step."""

        def moved(change: Any) -> None:
            panel = self._timed()
            if panel is not None:
                at = int(np.searchsorted(np.asarray(panel.steps), change["new"]))
                self.cursor = float(_x_of(panel)[min(at, len(_x_of(panel)) - 1)])

        def pointed(change: Any) -> None:
            panel = self._timed()
            if panel is not None and change["new"] is not None:
                at = int(np.abs(_x_of(panel) - change["new"]).argmin())
                selection.step = int(np.asarray(panel.steps)[at])

        selection.observe(moved, names="step")
        self.observe(pointed, names="cursor")

    def _timed(self) -> Panel | None:
        return next((panel for panel in self.chart.panels if panel.steps is not None), None)

    def _file_name(self) -> str:
        return "chart"


def _named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise unknown_option(what, name, tuple(known))
    return known[name]


def _x_of(panel: Panel) -> Any:
    first = panel.series[0]
    return np.arange(len(first.categories)) if isinstance(first, Bars) else column(first.x)


def _figure(what: str, text: str) -> str:
    """ "left empty, tokens" and "7.5" as "left empty 7.5 tokens"."""
    name, _, unit = what.partition(", ")
    return f"{name} {text} {unit}".rstrip()


def _signed(value: float) -> str:
    text = number(abs(value))
    return text if text in ("0", "–") else f"{'+' if value > 0 else '−'}{text}"
