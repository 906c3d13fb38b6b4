"""The batching Gantt: what each batch slot, or each request, does over time, under several schemes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import traitlets

from nano_batch._choices import check_choice
from nano_batch.errors import ViewError
from nano_batch.records import Run
from nano_batch.viz import gantt_still
from nano_batch.viz.block_table import BlockTableView
from nano_batch.viz.bundle import bundle
from nano_batch.viz.controls import Control
from nano_batch.viz.palette import OWNERS, PHASES
from nano_batch.viz.scheme import Scheme, seconds
from nano_batch.viz.selection import LETTERS, Selection, check_requests, selection_of
from nano_batch.viz.steer import SteeredView
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nano_batch.simulator.costs import Cost

Rows = Literal["slots", "requests"]


class GanttView(SteeredView):
    """The same requests under several schemes, stacked on one time axis.

    `shown_s` is the part of the time axis that is shown, (from, to) in seconds; empty: all of it.

    One scheme leads: the clock counts its steps, and the others stand at the same moment. Each run's other
    views (`block_table(...)`) follow the clock and the selection, and move them.

    Args:
        runs: by the label of each scheme, runs of the same requests with their event logs; a view never
            computes a schedule of its own.
        cost: the cost model that the runs were made with: what a prefill costs its neighbours.
        remake: called with the controls' settings by name, returns such runs. Without it there are no
            controls.
        controls: the settings that `remake` takes.
        rows: "slots": a row a batch slot; "requests": a row a request, in order of arrival.
        options: what any view that can be steered takes: `about`, `source`, `recreate`, `made_with`.

    Raises:
        ViewError: there is no run, or the runs served different requests.
        RecordsError: a run has no whole event log, or not every step.
    """

    _esm: ClassVar[Any] = bundle("gantt.js")
    _phases = traitlets.List([vars(look) for look in PHASES]).tag(sync=True)
    _palette = traitlets.Dict({"owners": OWNERS}).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    lead = traitlets.Unicode("").tag(sync=True)
    rows = traitlets.Unicode("slots").tag(sync=True)
    shown_s: traitlets.List[float] = traitlets.List(traitlets.Float()).tag(sync=True)
    _home = traitlets.Dict().tag(sync=True)
    _run = traitlets.Dict().tag(sync=True)
    _table = traitlets.Dict().tag(sync=True)
    _ghosts: traitlets.List[float] = traitlets.List(traitlets.Float()).tag(sync=True)
    _requests: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _block = traitlets.Int(-1).tag(sync=True)

    def __init__(
        self,
        runs: Mapping[str, Run],
        *,
        cost: Cost,
        remake: Callable[..., Mapping[str, Run]] | None = None,
        controls: tuple[Control, ...] = (),
        rows: Rows = "slots",
        source: str = "simulated",
        **options: Any,
    ) -> None:
        self._cost, self._remake = cost, remake
        self._links: list[tuple[Selection, Any, str]] = []
        self._moving = False
        own = controls if remake else ()
        self.add_traits(**{each.name: _trait(each.default) for each in own})
        super().__init__(controls=own, source=source, title="Batch slots over time", rows=rows, **options)
        for each in own:
            setattr(self, each.name, each.default)
        self._show(self._schemes_of(runs))
        self._steerable()
        self._home = {"rows": self.rows, "lead": self.lead}
        self.observe(lambda _: self._write_code(), names=["step", "_requests", "rows", "lead", "shown_s"])
        self.observe(lambda _: self._move_others(), names=["step", "lead"])
        self.observe(lambda _: self._select_others(), names="_requests")

    def _schemes_of(self, runs: Mapping[str, Run]) -> dict[str, Scheme]:
        if not runs:
            raise ViewError("no run is given; a Gantt shows at least one")
        schemes: dict[str, Scheme] = {}
        names = None
        for label, run in runs.items():
            schemes[label] = Scheme(label, run, self._cost, names)
            names = schemes[label].names
        return schemes

    def _make(self, **settings: Any) -> dict[str, Scheme]:
        assert self._remake is not None
        return self._schemes_of(self._remake(**settings))

    def _show(self, made: dict[str, Scheme]) -> None:
        packed = [scheme.pack() for scheme in made.values()]
        time_s = self.time_s if self._run else None
        with self.hold_sync():
            self._schemes = made
            self._names = next(iter(made.values())).names
            self._moving = True  # the links of the runs before are no longer moved
            if self.lead not in made:
                self.lead = next(iter(made))
            lead = made[self.lead]
            opening = self._opening(lead)
            self._run = {"version": 1, "names": list(self._names), "schemes": packed, "opening_step": opening}
            self._requests = [name for name in self._requests if name in self._names]
            self.step = opening if time_s is None else lead.step_at(time_s)
            self._moving = False
            table = self.table()
            self._table = {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            slots = ", ".join(sorted({f"{scheme.slots:,}" for scheme in made.values()}))
            self._settings_line = f"{len(self._names):,} requests, {slots} batch slots"
            self._difference = self.difference()
            self._ghosts = self._ends_before()
            self.error = ""
        self._link()

    @staticmethod
    def _opening(lead: Scheme) -> int:
        """A third into the run: slots are held, and some have ended."""
        return lead.step_at(lead.end_s / 3)

    # One clock, one selection.

    @property
    def time_s(self) -> float:
        """The clock: the end of the step shown of the scheme that leads, in seconds since the start."""
        return self._schemes[self.lead].time_of(self.step)

    @property
    def selected(self) -> Selection:
        """What is selected in the run that leads; requests are the same in all of them."""
        return selection_of(self._schemes[self.lead].run)

    @property
    def runs(self) -> dict[str, Run]:
        """The runs shown, by their schemes."""
        return {label: scheme.run for label, scheme in self._schemes.items()}

    def _link(self) -> None:
        for selection, handler, name in self._links:
            selection.unobserve(handler, names=name)
        self._links = []
        for label, scheme in self._schemes.items():
            selection = selection_of(scheme.run)
            selection.known = self._names
            for name, call in (("step", self._stepped), ("requests", self._picked)):

                def handler(change: Any, call: Any = call, label: str = label) -> None:
                    if not self._moving:
                        call(label, change["new"])

                selection.observe(handler, names=name)
                self._links.append((selection, handler, name))
        self._move_others()
        self._select_others()

    def _stepped(self, label: str, step: int) -> None:
        with self.hold_trait_notifications():
            self.lead, self.step = label, step

    def _picked(self, label: str, requests: list[str]) -> None:
        self._requests = list(requests)

    def _move_others(self) -> None:
        if self._moving:
            return
        self._moving, time_s = True, self.time_s
        for label, scheme in self._schemes.items():
            step = self.step if label == self.lead else scheme.step_at(time_s)
            selection_of(scheme.run).step = step
        self._moving = False

    def _select_others(self) -> None:
        self._moving = True
        for scheme in self._schemes.values():
            selection_of(scheme.run).requests = list(self._requests)
        self._moving = False

    @traitlets.validate("step")
    def _clamp_step(self, proposal: Any) -> int:
        if not self._run:
            return int(proposal["value"])
        steps = self._schemes[self.lead].run.steps.step
        return int(min(max(proposal["value"], int(steps[0])), int(steps[-1])))

    @traitlets.validate("lead")
    def _check_lead(self, proposal: Any) -> str:
        return self._label(proposal["value"])

    @traitlets.validate("rows")
    def _check_rows(self, proposal: Any) -> str:
        check_choice("rows", proposal["value"], Rows)
        return str(proposal["value"])

    @traitlets.validate("_requests")
    def _check_requests(self, proposal: Any) -> list[str]:
        return check_requests(proposal["value"], self._names)

    @traitlets.validate("shown_s")
    def _check_shown(self, proposal: Any) -> list[float]:
        shown = list(proposal["value"])
        if shown and not (len(shown) == 2 and 0 <= shown[0] < shown[1]):
            raise ViewError(f"shown_s is {shown}; it must be empty or two ascending times from 0")
        return shown

    def set_many(self, settings: Mapping[str, Any]) -> None:
        """Set several controls, and make the picture once."""
        with self.hold_trait_notifications():
            for name, value in settings.items():
                setattr(self, name, value)

    def opens_here(self) -> None:
        """Make what the view shows now where it opens, and where "Reset" leads."""
        self._home = {
            "rows": self.rows,
            "lead": self.lead,
            "step": self.step,
            "shown_s": list(self.shown_s),
            "requests": list(self._requests),
        }

    def _label(self, label: str) -> str:
        if label not in self._schemes:
            raise ViewError(f"no scheme {label!r} is shown; it must be one of {', '.join(self._schemes)}")
        return label

    # The numbers drawn.

    def table(self) -> Table:
        """One row a scheme: makespan, shares of the slots' time, latencies."""
        rows = []
        for label, scheme in self._schemes.items():
            rows.append((label, *(_cell(name, value) for name, value in scheme.facts().items())))
        columns = ("scheme", *next(iter(self._schemes.values())).facts())
        return Table("the whole run", columns, tuple(rows))

    def now(self) -> Table:
        """Requests in each phase, and idle slots, in each scheme at the clock: the legend's numbers."""
        looks = [look for look in PHASES if look.key != "idle"]
        rows = []
        for label, scheme in self._schemes.items():
            counts = scheme.at(self.time_s)
            rows.append((label, *(f"{counts[look.key]:,}" for look in looks), f"{counts['idle']:,}"))
        columns = ("scheme", *(look.label for look in looks), "idle slots")
        return Table(f"at {self.time_s:.4g} s", columns, tuple(rows))

    def delayed(self, request_id: str) -> Table:
        """The neighbours whose tokens the prefill of a request delayed, and by how much; most first.

        Raises:
            ViewError: no run has the request; the nearest is named.
        """
        (name,) = check_requests([request_id], self._names)
        row = self._names.index(name)
        rows = [
            (label, self._names[delay.row], f"{1e3 * delay.seconds:.1f}")
            for label, scheme in self._schemes.items()
            for delay in scheme.delays(row)
        ]
        columns = ("scheme", "neighbour", "tokens later by (ms)")
        return Table(f"delayed by the prefill of {name}", columns, tuple(rows))

    def _ends_before(self) -> list[float]:
        if self._before is None:
            return []
        old = self._before[1]
        return [float(old[label]["makespan (s)"]) for label in self._schemes if label in old]

    def _facts(self) -> dict[str, dict[str, float]]:
        return {label: scheme.facts() for label, scheme in self._schemes.items()}

    def difference(self) -> str:
        """One line: makespan and idle share of each scheme against the setting before, or the pinned one."""
        if self._before is None:
            return ""
        name, old = self._before
        parts = []
        for label, new in self._facts().items():
            before = old.get(label)
            if before is None:
                continue
            end = new["makespan (s)"] - before["makespan (s)"]
            idle = new["idle (%)"] - before["idle (%)"]
            parts.append(f"{label} {end:+.3g} s, idle {idle:+.1f} points")
        return f"against {name}: " + "; ".join(parts)

    def _pin(self, change: Any) -> None:
        super()._pin(change)
        self._ghosts = self._ends_before()

    def _stands(self) -> dict[str, Any]:
        stands: dict[str, Any] = {"step": self.step}
        if self.rows != "slots":
            stands["rows"] = self.rows
        if self.lead != next(iter(self._schemes)):
            stands["lead"] = self.lead
        if self.shown_s:
            stands["shown_s"] = [float(f"{moment:.6g}") for moment in self.shown_s]
        return {**stands, **({"selected": list(self._requests)} if self._requests else {})}

    # The other forms.

    def caption(self) -> str:
        """Title and settings, a line a scheme, and where the clock and the selection stand."""
        about = f"; {self._about}" if self._about else ""
        lines = [f"{self.title}, {self._source}: {self._settings_line}{about}"]
        for label, facts in self._facts().items():
            lines.append(
                f"{label}: {seconds(facts['makespan (s)'])}, idle {facts['idle (%)']:.1f} %, "
                f"TTFT mean {seconds(facts['TTFT mean (ms)'] / 1e3)}, "
                f"longest gap {seconds(facts['longest gap (ms)'] / 1e3)}, "
                f"{facts['preemptions']:.0f} preemptions"
            )
        last = f"clock at {self.time_s:.3g} s, step {self.step} of {self.lead}"
        if self._requests:
            names = (f"{LETTERS[i]} {name}" for i, name in enumerate(self._requests))
            last += "; selected: " + ", ".join(names)
        return "\n".join([*lines, "; ".join(filter(None, (last, self._difference)))])

    def block_table(self, scheme: str | None = None) -> BlockTableView:
        """The block table of a scheme's run, on the same clock and selection."""
        label = self._label(scheme or self.lead)
        return BlockTableView(self._schemes[label].run, about=label, source=self._source)

    def poster(self) -> bytes:
        """The bars as PNG."""
        return gantt_still.png(list(self._schemes.values()), self.rows)

    def svg(self) -> str:
        """The bars with legend and caption as SVG."""
        return gantt_still.svg(list(self._schemes.values()), self.rows, self.caption())

    def figure(self) -> go.Figure:
        """The bars as a plotly figure, a panel a scheme."""
        return gantt_still.figure(list(self._schemes.values()), self.rows)

    def _file_name(self) -> str:
        return f"gantt_step_{self.step}"


def _trait(default: Any) -> Any:
    kinds = {bool: traitlets.Bool, int: traitlets.Int, float: traitlets.Float, str: traitlets.Unicode}
    return kinds[type(default)](default).tag(sync=True)


def _cell(column: str, value: float) -> str:
    if column in ("preemptions", "steps"):
        return f"{value:,.0f}"
    return f"{value:.1f}" if column.endswith(("(%)", "(ms)")) else f"{value:.3f}"
