"""What each request did when: a run's event log and step times as spans of time on batch slots."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import Shown
from nano_batch.errors import RecordsError
from nano_batch.records.run import Run
from nano_batch.records.schema import Kind

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Phase(IntEnum):
    """What a request does during a span."""

    WAITING = 0
    PREFILL = 1
    DECODE = 2
    STALLED = 3  # on a slot, and no token of it is computed
    PREEMPTED = 4


@dataclass(frozen=True, eq=False, repr=False)
class Work(Shown):
    """The scheduled events of a run, sequence by sequence, in the order of steps; one entry each.

    Attributes:
        row: int64, the sequence's row in `Run.requests`.
        step: int64, the step's row in `Run.steps`.
        lane: int64, its batch slot.
        stint: int64, counts admissions: equal from one to the next preemption or end.
        before: int64, tokens stored before.
        tokens: int64, tokens computed.
        decode: bool, the one token is the newest known one, of a request that has given one before and was
            not admitted in this step.
        gives: bool, the step ends with a token of it.
    """

    row: Ints
    step: Ints
    lane: Ints
    stint: Ints
    before: Ints
    tokens: Ints
    decode: NDArray[np.bool_]
    gives: NDArray[np.bool_]

    def __repr__(self) -> str:
        return f"Work: {len(self.row):,} parts of steps, {int(self.tokens.sum()):,} tokens"


@dataclass(frozen=True, eq=False, repr=False)
class Spans(Shown):
    """Spans of time, sorted by row and start; one entry each.

    Attributes:
        row: int64, the request's row in `Run.requests`.
        lane: int64, its batch slot, −1 while it waits.
        phase: uint8, a `Phase`.
        start_s, end_s: float64, seconds since the run's start.
    """

    row: Ints
    lane: Ints
    phase: NDArray[np.uint8]
    start_s: Floats
    end_s: Floats

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        return f"Spans: {len(self):,} of {len(np.unique(self.row)):,} requests"

    def seconds(self, *phases: Phase) -> float:
        """Summed over all requests, the time in any of `phases`."""
        return float((self.end_s - self.start_s)[np.isin(self.phase, phases)].sum())


class Schedule:
    """A run's events in the order of its requests: `work`, `spans`, and the admissions between them.

    Raises:
        RecordsError: the run has no event log from its start, or not every step of it.
    """

    def __init__(self, run: Run) -> None:
        log = run.events
        if log is None or log.first_event:
            raise RecordsError("spans need a run's whole event log; run it with event_log=True")
        self.run = run
        self.start_s = run.steps.start_s
        self.end_s = run.steps.start_s + run.steps.duration_s
        kept = np.isin(log.kind, [Kind.ADMITTED, Kind.SCHEDULED, Kind.PREEMPTED, Kind.FINISHED])
        row = _rows(run)[log.sequence[kept]]
        # A radix sort, where the numbers fit: several times faster on the events of a long run.
        order = np.argsort(row.astype(np.uint16) if len(run.requests) < 2**16 else row, kind="stable")
        self._row = row[order]
        self._kind = log.kind[kept][order]
        self._lane = log.block[kept][order].astype(np.int64)
        self._argument = log.argument[kept][order]
        self._step = self._step_rows(log.step[kept][order])

    def _step_rows(self, step: Any) -> Ints:
        """The row in the table of steps of each step's number; −1 for what was before the first."""
        numbers = self.run.steps.step
        at = np.searchsorted(numbers, step)
        known = (at < len(numbers)) & (numbers[np.minimum(at, len(numbers) - 1)] == step)
        if not (known | (step == 0)).all():
            raise RecordsError("spans need every step of the run; run it without keep_steps")
        return np.where(known, at, -1)

    @cached_property
    def work(self) -> Work:
        """What was computed in which step."""
        row, kind, argument = self._row, self._kind, self._argument
        place = np.arange(len(row))
        scheduled = kind == Kind.SCHEDULED
        total = np.cumsum(np.where(scheduled, argument, 0))
        reset = np.maximum.accumulate(np.where(scheduled, 0, place))
        stored = np.where(kind[reset] == Kind.ADMITTED, argument[reset], 0) + total - total[reset]
        # The most stored before, of the same sequence: whole numbers above it keep sequences apart.
        far = int(stored.max(initial=0)) + 1
        most = np.maximum.accumulate(stored + row * far)
        most_before = np.where(row == np.roll(row, 1), np.roll(most, 1) - row * far, 0)
        most_before[:1] = 0
        prompt = self.run.requests.prompt_tokens[row]
        known = np.where(most_before >= prompt, most_before + 1, prompt)
        # A step's rows of requests that it admits are prefill, whatever they lack.
        newest = (argument == 1) & (stored == known) & (most_before >= prompt)
        newest &= self._step > self._step[reset]
        at = np.flatnonzero(scheduled)
        return Work(
            row=row[at],
            step=self._step[at],
            lane=self._lane[reset[at]],
            stint=np.cumsum(kind == Kind.ADMITTED)[at],
            before=(stored - argument)[at],
            tokens=argument[at],
            decode=newest[at],
            gives=(stored == known)[at],
        )

    @cached_property
    def spans(self) -> Spans:
        """Every request's time from its arrival to its end."""
        parts = [self._computing(), *self._stalled(), self._waiting(), self._preempted()]
        row, lane, phase, start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
        there = np.flatnonzero(end > start)
        order = there[np.lexsort((start[there], row[there]))]
        return Spans(row[order], lane[order], phase[order], start[order], end[order])

    @cached_property
    def _runs(self) -> tuple[Ints, Ints]:
        """First and last place in `work` of each stretch of one phase in steps that follow each other."""
        work = self.work
        if not len(work.row):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        new = (np.diff(work.stint) != 0) | (np.diff(work.decode)) | (np.diff(work.step) > 1)
        first = np.r_[0, np.flatnonzero(new) + 1]
        return first, np.r_[first[1:] - 1, len(work.row) - 1]

    def _computing(self) -> tuple[Any, ...]:
        work, (first, last) = self.work, self._runs
        phase = np.where(work.decode[first], Phase.DECODE, Phase.PREFILL).astype(np.uint8)
        return _part(
            work.row[first],
            work.lane[first],
            phase,
            self.start_s[work.step[first]],
            self.end_s[work.step[last]],
        )

    def _stalled(self) -> list[tuple[Any, ...]]:
        """Between stretches of a stint, and between the last one and the stint's end."""
        work, (first, last) = self.work, self._runs
        within = work.stint[first[1:]] == work.stint[last[:-1]]
        gap = within & (work.step[first[1:]] > work.step[last[:-1]] + 1)
        before, after = last[:-1][gap], first[1:][gap]
        between = _part(
            work.row[before],
            work.lane[before],
            Phase.STALLED,
            self.end_s[work.step[before]],
            self.start_s[work.step[after]],
        )
        admitted = np.flatnonzero(self._kind == Kind.ADMITTED)
        head = np.searchsorted(work.stint, np.arange(1, len(admitted) + 1))
        tail = np.searchsorted(work.stint, np.arange(1, len(admitted) + 1), side="right") - 1
        ran = tail >= head
        row, lane = self._row[admitted], self._lane[admitted]
        begin, stop = self.start_s[self._step[admitted]], self._left(admitted)
        reach = begin.copy()
        reach[ran] = self.start_s[work.step[head[ran]]]
        leave = begin.copy()
        leave[ran] = self.end_s[work.step[tail[ran]]]
        return [
            between,
            _part(row, lane, Phase.STALLED, begin, reach),
            _part(row, lane, Phase.STALLED, leave, stop),
        ]

    def _left(self, places: Ints) -> Floats:
        """When the sequences admitted at `places` lose their slot: at the end of the run at the latest."""
        leaves = np.flatnonzero(np.isin(self._kind, [Kind.PREEMPTED, Kind.FINISHED]))
        return self._moment(leaves, places)

    def _moment(self, events: Ints, places: Ints) -> Floats:
        """The time of the first of `events` after each of `places` in the same sequence, else the end."""
        end = np.full(len(places), self.run.span_s)
        if not len(events):
            return end
        at = np.searchsorted(events, places, side="right")
        found = events[np.minimum(at, len(events) - 1)]
        mine = (at < len(events)) & (self._row[found] == self._row[places])
        end[mine] = self._times(found[mine])
        return end

    def _times(self, places: Ints) -> Floats:
        """When events happen: the end of a sequence with its step's end, the others as a step is planned."""
        step, ends = self._step[places], self._kind[places] == Kind.FINISHED
        times = np.where(ends, self.end_s[step], self.start_s[step])
        # What ended before the first step has no step to name its time.
        return np.where(step < 0, self.run.requests.finish_s[self._row[places]], times)

    def _waiting(self) -> tuple[Any, ...]:
        """From the arrival to the first admission."""
        requests = self.run.requests
        rows = np.arange(len(requests))
        until = np.full(len(requests), self.run.span_s)
        leaves = np.flatnonzero(np.isin(self._kind, [Kind.ADMITTED, Kind.FINISHED]))
        row, first = np.unique(self._row[leaves], return_index=True)
        until[row] = self._times(leaves[first])
        return _part(rows, np.full(len(rows), -1), Phase.WAITING, requests.arrival_s, until)

    def _preempted(self) -> tuple[Any, ...]:
        at = np.flatnonzero(self._kind == Kind.PREEMPTED)
        back = np.flatnonzero(np.isin(self._kind, [Kind.ADMITTED, Kind.FINISHED]))
        lane = np.full(len(at), -1)
        return _part(self._row[at], lane, Phase.PREEMPTED, self._times(at), self._moment(back, at))


def _part(row: Ints, lane: Ints, phase: Any, start: Floats, end: Floats) -> tuple[Any, ...]:
    phases = np.broadcast_to(np.asarray(phase, np.uint8), row.shape)
    return row, lane, phases, start, end


def _rows(run: Run) -> Ints:
    """The row in the table of requests of each sequence's number."""
    numbers = run.requests.sequence.astype(np.int64)
    rows = np.zeros(int(numbers.max(initial=-1)) + 1, np.int64)
    rows[numbers] = np.arange(len(numbers))
    return rows
