"""How a schedule uses its batch slots, and what a prefill costs its neighbours (docs/metrics.md, "Slots")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import Shown
from nano_batch.errors import MetricsError
from nano_batch.records import Phase, Run, Schedule, Work

if TYPE_CHECKING:
    from nano_batch.simulator.costs import Cost

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def batch_slots(run: Run) -> int:
    """The sequences that run at once at most, from the run's settings.

    Raises:
        MetricsError: the settings do not say.
    """
    slots = run.settings.get("engine", {}).get("max_num_seqs")
    if slots is None:
        raise MetricsError("the run's settings do not say how many batch slots there were (max_num_seqs)")
    return int(slots)


@dataclass(frozen=True)
class SlotTime(Shown):
    """Shares of the time of all batch slots, from the run's start to its end, from 0 to 1.

    Attributes:
        idle: no request is on the slot.
        bubble: the part of `idle` while some request waits.
        stalled: a request is on the slot, and no token of it is computed.
    """

    idle: float
    bubble: float
    stalled: float


def idle_share(run: Run) -> float:
    """Share of the slots' time in which nobody holds them, from 0 to 1; needs no event log."""
    total = batch_slots(run) * run.span_s
    held = float((run.steps.running * run.steps.duration_s).sum())
    return max(0.0, 1 - held / total) if total else 0.0  # rounding alone takes it below 0


def slot_time(run: Run, schedule: Schedule | None = None) -> SlotTime:
    """How the slots' time was used; needs an event log."""
    schedule, steps = schedule or Schedule(run), run.steps
    slots, total = batch_slots(run), batch_slots(run) * run.span_s
    if not total:
        return SlotTime(0.0, 0.0, 0.0)
    empty = (slots - steps.running) * steps.duration_s
    bubble = float(empty[steps.waiting > 0].sum())
    return SlotTime(idle_share(run), bubble / total, schedule.spans.seconds(Phase.STALLED) / total)


def longest_gap_s(schedule: Schedule) -> Floats:
    """Each request's longest time between two successive tokens, float64 [requests]; NaN below two tokens."""
    work, found = schedule.work, np.full(len(schedule.run.requests), np.nan)
    gives = np.flatnonzero(work.gives)
    row, times = work.row[gives], schedule.end_s[work.step[gives]]
    same = row[1:] == row[:-1]
    longest = np.full(len(found), -np.inf)
    np.maximum.at(longest, row[1:][same], np.diff(times)[same])
    return np.where(np.isfinite(longest), longest, found)


@dataclass(frozen=True, eq=False, repr=False)
class PrefillCosts(Shown):
    """What each prefill chunk adds to its step, one entry a chunk.

    Attributes:
        row: int64, the request's row in `Run.requests`.
        step: int64, the step's row in `Run.steps`.
        seconds: float64, the step's duration less what it takes without the chunk.
    """

    row: Ints
    step: Ints
    seconds: Floats

    def __repr__(self) -> str:
        return f"PrefillCosts: {len(self.row):,} chunks, {self.seconds.sum():.3g} s"


def prefill_costs(schedule: Schedule, cost: Cost) -> PrefillCosts:
    """What each prefill chunk adds to its step under `cost`: the whole duration where it is alone in it.

    Raises:
        MetricsError: the step times of the run are not those of `cost`.
    """
    work, model, steps = schedule.work, cost.core(), schedule.run.steps
    chunks = np.flatnonzero(~work.decode)
    whole = features(schedule)
    part = _chunk_features(work, chunks, _window(schedule.run))
    step = work.step[chunks]
    rest = {name: column[step] - part.get(name, 0) for name, column in whole.items()}
    with_ = _seconds(model, {name: column[step] for name, column in whole.items()})
    off = np.abs(with_ - steps.duration_s[step])
    if (
        schedule.run.settings.get("simulator", {}).get("steps_in_flight", 0) == 0
        and (off > 1e-9 + 1e-6 * with_).any()
    ):
        raise MetricsError(f"the steps of the run did not take what {cost!r} says")
    alone = rest["prefill_sequences"] + rest["decode_sequences"] == 0
    return PrefillCosts(work.row[chunks], step, with_ - np.where(alone, 0.0, _seconds(model, rest)))


def features(schedule: Schedule) -> dict[str, Ints]:
    """What each step asked of the device, by the names of `StepFeatures`, int64 [steps] each."""
    work, run = schedule.work, schedule.run
    steps, window = len(run.steps), _window(run)
    decodes = np.flatnonzero(work.decode)
    at, context = work.step[decodes], np.minimum(work.before[decodes] + 1, window)
    longest = np.zeros(steps, np.int64)
    np.maximum.at(longest, at, context)
    chunks = np.flatnonzero(~work.decode)
    sums = {
        name: _total(work.step[chunks], values, steps)
        for name, values in _chunk_features(work, chunks, window).items()
    }
    log = run.events
    assert log is not None  # a Schedule has one
    numbers = np.searchsorted(run.steps.step, log.step)
    counts = {
        name: np.bincount(numbers[log.kind == kind], minlength=steps)[:steps]
        for name, kind in (("blocks_copied", 6), ("blocks_swapped_out", 10), ("blocks_swapped_in", 11))
    }
    return {
        **sums,
        "decode_sequences": np.bincount(at, minlength=steps),
        "decode_context": _total(at, context, steps),
        "decode_context_max": longest,
        "sampled": np.bincount(work.step[work.gives], minlength=steps),
        **counts,
    }


def _chunk_features(work: Work, chunks: Ints, window: int) -> dict[str, Ints]:
    """What each prefill chunk adds to the features of its step."""
    start, count = work.before[chunks], work.tokens[chunks]
    end = start + count
    full = np.clip(window, start, end)  # queries from here on see a whole window
    pairs = _triangle(full) - _triangle(start) + (end - full) * np.where(full < end, window, 0)
    return {
        "prefill_tokens": count,
        "prefill_sequences": np.ones(len(chunks), np.int64),
        "prefill_context": np.minimum(end, window + count),
        "prefill_pairs": pairs,
        "sampled": work.gives[chunks].astype(np.int64),
    }


def _triangle(n: Ints) -> Ints:
    return n * (n + 1) // 2


def _total(step: Ints, values: Ints, steps: int) -> Ints:
    sums = np.zeros(steps, np.int64)
    np.add.at(sums, step, values)
    return sums


def _window(run: Run) -> int:
    window = run.settings.get("engine", {}).get("sliding_window")
    return 2**40 if window is None else int(window)


def _seconds(model: Any, columns: dict[str, Ints]) -> Floats:
    from nano_batch._core import StepFeatures

    names, rows = list(columns), zip(*(column.tolist() for column in columns.values()), strict=True)
    return np.array(
        [sum(model.step_time(StepFeatures(**dict(zip(names, row, strict=True))))) for row in rows]
    )
