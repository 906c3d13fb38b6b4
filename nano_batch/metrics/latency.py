"""Latencies of requests and tokens (docs/metrics.md, "Latency")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import Shown
from nano_batch.errors import MetricsError
from nano_batch.records import EventLog, Kind, Requests, Run

Floats = NDArray[np.float64]


def ttft_s(requests: Requests) -> Floats:
    """Time to first token, t₁ − a, in seconds, float64 [n]."""
    return requests.first_token_s - requests.arrival_s


def tpot_s(requests: Requests) -> Floats:
    """Time per output token after the first, (t_m − t₁) / (m − 1), in seconds, float64 [n]; NaN for m < 2."""
    gaps = np.where(requests.output_tokens > 1, requests.output_tokens - 1.0, np.nan)
    return (requests.finish_s - requests.first_token_s) / gaps


def end_to_end_s(requests: Requests) -> Floats:
    """From arrival to the end, e − a, in seconds, float64 [n]."""
    return requests.finish_s - requests.arrival_s


def normalized_latency_s(requests: Requests) -> Floats:
    """End-to-end latency per output token, (e − a) / m, in seconds, float64 [n]."""
    return end_to_end_s(requests) / np.where(requests.output_tokens > 0, requests.output_tokens, np.nan)


@dataclass(frozen=True, eq=False, repr=False)
class TokenTimes(Shown):
    """When each output token was there: sequence i has `time_s[offsets[i]:offsets[i + 1]]`.

    `sequence` uint32 [S] ascending, `offsets` int64 [S + 1], `time_s` float64.
    """

    sequence: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    time_s: Floats

    def __repr__(self) -> str:
        return f"TokenTimes: {len(self.time_s):,} tokens of {len(self.sequence):,} sequences"

    def gaps_s(self) -> Floats:
        """The inter-token latencies t_{j+1} − t_j of all sequences, one after the other, in seconds."""
        gaps = np.diff(self.time_s)
        within = np.ones(len(gaps), bool)
        ends = self.offsets[1:-1]
        within[ends[(ends > 0) & (ends <= len(gaps))] - 1] = False
        return gaps[within]


def token_times(run: Run) -> TokenTimes:
    """When each token was there, from the event log: at the end of the step that stores all tokens known so
    far.

    A sequence forked off another begins with the newest token that both have.

    Raises:
        MetricsError: the run has no event log, or the log's start was dropped.
    """
    log = run.events
    if log is None or log.first_event:
        raise MetricsError("token times need a run's whole event log; make the engine with event_log=True")
    ends = dict(
        zip(run.steps.step.tolist(), (run.steps.start_s + run.steps.duration_s).tolist(), strict=True)
    )
    steps = _token_steps(log)
    numbers = sorted(steps)
    times = [ends[step] for number in numbers for step in steps[number]]
    offsets = np.cumsum([0, *(len(steps[number]) for number in numbers)])
    return TokenTimes(np.array(numbers, np.uint32), offsets, np.array(times, np.float64))


def inter_token_latency_s(run: Run) -> Floats:
    """Every gap between two successive tokens of a sequence, in seconds; see `token_times`."""
    return token_times(run).gaps_s()


def _token_steps(log: EventLog) -> dict[int, list[int]]:
    """The steps that gave each sequence a token: those after which all its known tokens are stored."""
    known: dict[int, int] = {}
    stored: dict[int, int] = {}
    steps: dict[int, list[int]] = {}
    wanted = np.isin(log.kind, [Kind.ARRIVED, Kind.FORKED, Kind.ADMITTED, Kind.SCHEDULED, Kind.PREEMPTED])
    rows = zip(*(c[wanted].tolist() for c in (log.step, log.kind, log.sequence, log.argument)), strict=True)
    for step, kind, number, argument in rows:
        if kind == Kind.ARRIVED:
            known[number], stored[number], steps[number] = argument, 0, []
        elif kind == Kind.FORKED:
            known[number], stored[number], steps[number] = known[argument], 0, steps[argument][-1:]
        elif kind == Kind.PREEMPTED:
            stored[number] = 0
        else:
            stored[number] = argument + (stored[number] if kind == Kind.SCHEDULED else 0)
            if stored[number] == known[number]:
                known[number] += 1
                steps[number].append(step)
    return steps
