"""One scheme of a batching Gantt: a run, its spans, and the numbers that are written beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.errors import ViewError
from nano_batch.metrics import (
    PrefillCosts,
    SlotTime,
    batch_slots,
    longest_gap_s,
    prefill_costs,
    slot_time,
    ttft_s,
)
from nano_batch.records import Phase, Run, Schedule, Spans

if TYPE_CHECKING:
    from nano_batch.simulator.costs import Cost

HELD = (Phase.PREFILL, Phase.DECODE, Phase.STALLED)


@dataclass(frozen=True)
class Delay:
    """A neighbour of a prefill: its row, and by how many seconds its tokens came later."""

    row: int
    seconds: float


class Scheme:
    """A run under its label, with rows in the order of `names` (request ids) for all schemes of a view."""

    def __init__(self, label: str, run: Run, cost: Cost, names: tuple[str, ...] | None = None) -> None:
        self.label, self.run, self.cost = label, run, cost
        own = tuple(run.requests.request_id.tolist())
        self.names = own if names is None else names
        if own != self.names and sorted(own) != sorted(self.names):
            raise ViewError(f"{label} served other requests than the first scheme: they cannot be compared")
        place = {name: at for at, name in enumerate(self.names)}
        self.place = np.array([place[name] for name in own], np.int64)  # row of the run: row of the view
        self.schedule = Schedule(run)
        self.slots = batch_slots(run)

    @cached_property
    def spans(self) -> Spans:
        """The run's spans, rows as in the view, sorted by start: what is drawn later lies above."""
        spans = self.schedule.spans
        order = np.argsort(spans.start_s, kind="stable")
        return Spans(
            self.place[spans.row][order],
            spans.lane[order],
            spans.phase[order],
            spans.start_s[order],
            spans.end_s[order],
        )

    @cached_property
    def costs(self) -> PrefillCosts:
        """What each prefill chunk adds to its step, rows as in the view."""
        costs = prefill_costs(self.schedule, self.cost)
        return PrefillCosts(self.place[costs.row], costs.step, costs.seconds)

    @cached_property
    def slot_time(self) -> SlotTime:
        """How the slots' time was used."""
        return slot_time(self.run, self.schedule)

    @property
    def end_s(self) -> float:
        """The makespan: the end of the last step."""
        return self.run.span_s

    def facts(self) -> dict[str, float]:
        """The numbers of the table, by column; NaN where there is none."""
        ttft, gaps, shares = ttft_s(self.run.requests), longest_gap_s(self.schedule), self.slot_time
        return {
            "makespan (s)": self.end_s,
            "idle (%)": 100 * shares.idle,
            "bubbles (%)": 100 * shares.bubble,
            "stalled (%)": 100 * shares.stalled,
            "TTFT mean (ms)": 1e3 * _mean(ttft),
            "longest gap (ms)": 1e3 * float(np.nanmax(gaps, initial=0.0)),
            "preemptions": float(self.run.requests.preemptions.sum()),
            "steps": float(len(self.run.steps)),
        }

    def at(self, time_s: float) -> dict[str, int]:
        """How many requests are in each phase in the step that ends at `time_s`, and how many slots idle."""
        spans = self.spans
        now = (spans.start_s < time_s) & (time_s <= spans.end_s)
        counts = np.bincount(spans.phase[now], minlength=len(Phase))
        held = sum(int(counts[phase]) for phase in HELD)
        return {**{phase.name.lower(): int(counts[phase]) for phase in Phase}, "idle": self.slots - held}

    def delays(self, row: int) -> list[Delay]:
        """The neighbours whose tokens the prefill of `row` delayed, the most delayed first.

        A neighbour has given a token before and holds a slot in a step of the prefill; see docs/metrics.md.
        """
        spans, costs = self.spans, self.costs
        first = np.full(len(self.names), np.inf)
        first[self.place] = np.nan_to_num(self.run.requests.first_token_s, nan=np.inf)
        late = np.zeros(len(self.names))
        for at in np.flatnonzero(costs.row == row).tolist():
            start = self.schedule.start_s[costs.step[at]]
            middle = (start + self.schedule.end_s[costs.step[at]]) / 2
            there = (spans.lane >= 0) & (spans.start_s < middle) & (middle < spans.end_s)
            others = np.unique(spans.row[there])
            others = others[(others != row) & (first[others] <= start + 1e-9)]
            late[others] += costs.seconds[at]
        order = np.lexsort((np.arange(len(late)), -late))
        return [Delay(int(at), float(late[at])) for at in order[: int((late > 0).sum())]]

    def step_at(self, time_s: float) -> int:
        """The number of the step during which it is `time_s`; a step's end belongs to the step."""
        at = int(np.searchsorted(self.schedule.end_s, time_s, side="left"))
        return int(self.run.steps.step[min(at, len(self.run.steps) - 1)])

    def time_of(self, step: int) -> float:
        """The end of a step."""
        at = int(np.searchsorted(self.run.steps.step, step))
        return float(self.schedule.end_s[min(at, len(self.schedule.end_s) - 1)])

    def pack(self) -> dict[str, Any]:
        """The scheme as it goes to the browser: numbers and little-endian buffers."""
        spans, costs, requests, steps = self.spans, self.costs, self.run.requests, self.run.steps
        back = np.argsort(self.place)  # row of the view: row of the run
        return {
            "label": self.label,
            "slots": self.slots,
            "end_s": self.end_s,
            "words": self.words(),
            "spans": {
                "row": _bytes(spans.row, "<u4"),
                "lane": _bytes(spans.lane, "<i4"),
                "phase": _bytes(spans.phase, "u1"),
                "start": _bytes(spans.start_s, "<f8"),
                "end": _bytes(spans.end_s, "<f8"),
            },
            "requests": {
                "arrival": _bytes(requests.arrival_s[back], "<f8"),
                "first": _bytes(requests.first_token_s[back], "<f8"),
                "finish": _bytes(requests.finish_s[back], "<f8"),
            },
            "steps": {
                "number": _bytes(steps.step, "<u4"),
                "start": _bytes(self.schedule.start_s, "<f8"),
                "end": _bytes(self.schedule.end_s, "<f8"),
                "waiting": _bytes(steps.waiting, "<u4"),
                "running": _bytes(steps.running, "<u4"),
                "preemptions": _bytes(steps.preemptions, "<u4"),
            },
            "chunks": {
                "row": _bytes(costs.row, "<u4"),
                "step": _bytes(costs.step, "<u4"),
                "seconds": _bytes(costs.seconds, "<f8"),
            },
        }

    def words(self) -> str:
        """What is written at the end of the scheme's bars."""
        return f"{seconds(self.end_s)}, idle {100 * self.slot_time.idle:.1f} %"


def seconds(value: float) -> str:
    """A time with its unit, three digits."""
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def _mean(values: Any) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _bytes(values: Any, dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype=dtype).tobytes()
