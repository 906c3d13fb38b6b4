"""Policies raced on the same requests: a board that keeps attempts, and where two schedules part."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nano_batch.display import html_table
from nano_batch.errors import ViewError
from nano_batch.metrics import SLO, fairness, goodput_per_s, quantile, tpot_s, ttft_s
from nano_batch.records import EventLog, Kind, Run
from nano_batch.simulator import simulate
from nano_batch.simulator.costs import Cost
from nano_batch.studies.batching import EVENTS, default_cost, whole_prompts
from nano_batch.viz.gantt import GanttView
from nano_batch.viz.table import Table
from nano_batch.workloads import Workload

BUILT_IN = ("fcfs", "sjf", "prefill_first")
NAMES = {Kind.ADMITTED: "admits", Kind.SCHEDULED: "computes", Kind.PREEMPTED: "preempts"}


class Board:
    """Attempts on one workload with one engine: a row each, in the order in which they were entered.

    Attributes:
        runs: the runs by the attempts' names.
        slo: the objectives that goodput counts by.
    """

    def __init__(self, workload: Workload, slo: SLO, cost: Cost, engine: dict[str, Any]) -> None:
        self.workload, self.slo, self.cost, self.engine = workload, slo, cost, engine
        self.runs: dict[str, Run] = {}
        self._sources: dict[str, str] = {}

    def enter(self, policy: Any) -> Board:
        """Run a policy (a word, or an object with `score`) and add its row; the same code replaces its own.

        Raises:
            PolicyError: it raised, took over 50 ms for a step, or gave something else than a number a
                request; with the step and the line. The board stays as it was.
        """
        name, source = _name_and_source(policy)
        options = dict(self.engine)
        if policy == "prefill_first":  # whole prompts: a step has to hold the longest
            budget = options.get("max_num_batched_tokens", 0)
            options["max_num_batched_tokens"] = whole_prompts(self.workload, budget)
        run = simulate(self.workload, cost=self.cost, policy=policy, event_log=EVENTS, **options)
        attempt, count = name, 1
        while attempt in self.runs and self._sources[attempt] != source:
            count += 1
            attempt = f"{name} ({count})"
        self.runs[attempt], self._sources[attempt] = run, source
        return self

    def table(self) -> Table:
        """A row an attempt. A quantile with fewer than ten requests beyond it has a ° behind it."""
        rows = tuple((name, *self._row(run)) for name, run in self.runs.items())
        columns = ("policy", "goodput (1/s)", "TTFT p99 (s)", "TPOT p99 (ms)", "fairness", "preemptions")
        goals = f"TTFT ≤ {self.slo.ttft_s} s, TPOT ≤ {self.slo.tpot_s} s"
        return Table(
            f"{len(self.workload):,} requests of {self.workload.name}; goodput: {goals}", columns, rows
        )

    def _row(self, run: Run) -> tuple[str, ...]:
        return (
            f"{goodput_per_s(run.requests, self.slo):.3f}",
            _p99(ttft_s(run.requests), 1.0, ".2f"),
            _p99(tpot_s(run.requests), 1e3, ".1f"),
            f"{fairness(run.requests):.3f}",
            f"{int(run.requests.preemptions.sum()):,}",
        )

    def first_difference(self, one: str, other: str) -> Parting:
        """Where the schedules of two attempts part.

        Raises:
            ViewError: an attempt is not on the board, or the two never part.
        """
        for name in (one, other):
            if name not in self.runs:
                raise ViewError(f"no attempt {name!r} on the board; it has {', '.join(self.runs)}")
        return first_difference({one: self.runs[one], other: self.runs[other]}, cost=self.cost)

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return f"Board of {', '.join(self.runs)}: {len(self.workload):,} requests of {self.workload.name}"

    def _repr_html_(self) -> str:
        table = self.table()
        return html_table(table.title, list(table.columns), table.rows)


def race(
    workload: Workload,
    *policies: Any,
    memory_tokens: int,
    slo: SLO,
    cost: Cost | None = None,
    block_size: int = 16,
    built_in: Iterable[str] = BUILT_IN,
    **engine: Any,
) -> Board:
    """Race `policies` against the built-in ones on the same requests, memory and step times.

    Args:
        policies: objects with `score(requests)`, or words of the scheduler.
        slo: what goodput counts by.
        engine: other options of `Engine`.
    """
    options = {"num_blocks": memory_tokens // block_size, "block_size": block_size, **engine}
    board = Board(workload, slo, cost or default_cost(), options)
    for policy in (*built_in, *policies):
        board.enter(policy)
    return board


@dataclass(frozen=True, eq=False, repr=False)
class Parting:
    """The first step in which two schedules of the same requests differ.

    Attributes:
        step: its number; all steps before it are the same.
        time_s: when it starts.
        did: by the name of each schedule, what only it did in this step.
    """

    step: int
    time_s: float
    did: dict[str, tuple[str, ...]]
    runs: dict[str, Run]
    cost: Cost

    def view(self) -> GanttView:
        """Both schedules on one time axis, at that step, who is concerned selected."""
        view = GanttView(self.runs, cost=self.cost, rows="requests", about=f"they part in step {self.step}")
        # The step of the schedule where it ends first: at its end, both stand in it.
        view.lead = min(self.runs, key=lambda name: self._ends(name))
        view.step = self.step
        around = 12 * float(np.mean(next(iter(self.runs.values())).steps.duration_s))
        view.shown_s = [max(0.0, self.time_s - around), self.time_s + 5 * around]
        concerned = [text.split()[1] for texts in self.did.values() for text in texts]
        view.selected.requests = list(dict.fromkeys(concerned))[:4]
        view.opens_here()
        return view

    def _ends(self, name: str) -> float:
        steps = self.runs[name].steps
        return float(steps.duration_s[np.searchsorted(steps.step, self.step)])

    def __repr__(self) -> str:
        lines = [f"They part in step {self.step}, at {self.time_s:.4g} s:"]
        for name, texts in self.did.items():
            shown = ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")
            lines.append(f"  {name} {shown or 'does nothing of its own'}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [(name, text) for name, texts in self.did.items() for text in texts[:5]]
        title = f"They part in step {self.step}, at {self.time_s:.4g} s"
        return html_table(title, ["schedule", "what only it does"], rows)


def first_difference(runs: dict[str, Run], *, cost: Cost) -> Parting:
    """Where two runs of the same requests part, by their event logs.

    Raises:
        ViewError: they are not two, a log is missing, or they never part.
    """
    if len(runs) != 2:
        raise ViewError(f"{len(runs)} runs are given; two schedules can part")
    logs = [run.events for run in runs.values()]
    one, other = (_acts(log) for log in logs)
    shared = min(len(one), len(other))
    differ = np.flatnonzero((one[:shared] != other[:shared]).any(axis=1))
    if not len(differ) and len(one) == len(other):
        raise ViewError(f"the schedules of {' and '.join(runs)} are the same")
    at = int(differ[0]) if len(differ) else shared
    step = int(min(acts[at, 0] for acts in (one, other) if at < len(acts)))
    parts = [{tuple(act) for act in acts[acts[:, 0] == step].tolist()} for acts in (one, other)]
    did = {
        name: tuple(_said(act, log) for act in sorted(mine - theirs, key=lambda act: (act[1], act[2])))
        for name, log, mine, theirs in zip(runs, logs, parts, reversed(parts), strict=True)
    }
    first = next(iter(runs.values()))
    time_s = float(first.steps.start_s[np.searchsorted(first.steps.step, step)])
    return Parting(step, time_s, did, dict(runs), cost)


def _acts(log: EventLog | None) -> Any:
    """What a schedule decides: (step, kind, sequence, argument) a row, int64, ascending."""
    if log is None:
        raise ViewError("a run has no event log; run it with event_log=True")
    kept = np.isin(log.kind, list(NAMES))
    columns = [column[kept].astype(np.int64) for column in (log.step, log.kind, log.sequence, log.argument)]
    # Within a step the order of decisions is no difference.
    return np.column_stack(columns)[np.lexsort(columns[::-1])]


def _said(act: tuple[int, ...], log: EventLog | None) -> str:
    assert log is not None
    _, kind, sequence, argument = act
    name = f"{NAMES[Kind(kind)]} {log.request_ids.get(sequence, sequence)}"
    return f"{name} ({argument:,} tokens)" if kind == Kind.SCHEDULED else name


def _name_and_source(policy: Any) -> tuple[str, str]:
    if isinstance(policy, str):
        return policy, policy
    try:
        source = inspect.getsource(type(policy))
    except (OSError, TypeError):
        source = repr(type(policy))
    return type(policy).__name__, f"{source}{sorted(getattr(policy, '__dict__', {}).items())!r}"


def _p99(values: Any, factor: float, form: str) -> str:
    found = quantile(values, 0.99)
    return "–" if math.isnan(found.value) else f"{factor * found.value:{form}}{'' if found.firm else '°'}"
