"""What the runs of a case become: one row an engine, metrics as in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nano_batch.benchmarks.engines.base import Served
from nano_batch.benchmarks.engines.work import Case
from nano_batch.benchmarks.report import Row

Floats = NDArray[np.float64]
LIMIT, SUSTAINED = "limit", "limit_sustained"
TWO_DEVICES = "nano_batch_tp2"
"""Of which the limit of one device says nothing."""
PLACE = ("case", "concurrency", "rate_per_s", "requests")
"""The columns that say which load a row is of."""


def row(case: Case, engine: str, runs: Sequence[Sequence[Served]]) -> Row:
    """The median of the runs for every number; of the throughput the least and the most, too."""
    rates = [tokens_per_s(run) for run in runs]
    return {
        "case": case.name,
        "engine": engine,
        "concurrency": case.concurrency,
        "rate_per_s": case.rate_per_s,
        "requests": case.requests,
        "output_tokens": sum(len(each.token_times_s) for each in runs[0]),
        "tok_per_s": _rounded(float(np.median(rates))),
        "tok_per_s_least": _rounded(min(rates)),
        "tok_per_s_most": _rounded(max(rates)),
        "runs": len(runs),
        "ttft_p50_s": _median(runs, ttft_s, 50),
        "ttft_p99_s": _median(runs, ttft_s, 99),
        "ttft_batch_p50_s": _median(runs, ttft_batch_s, 50),
        "tpot_p50_ms": _median(runs, tpot_ms, 50),
        "tpot_p99_ms": _median(runs, tpot_ms, 99),
        "e2e_p50_s": _median(runs, end_to_end_s, 50),
        "step_ms": _median(runs, gaps_ms, 50),
    }


def tokens_per_s(run: Sequence[Served]) -> float:
    """All output tokens over the time from the first arrival to the last token."""
    span = max(each.finish_s for each in run) - min(each.arrival_s for each in run)
    return sum(len(each.token_times_s) for each in run) / span


def ttft_s(run: Sequence[Served]) -> Floats:
    """From arrival to the first token."""
    return np.array([each.first_token_s - each.arrival_s for each in run])


def ttft_batch_s(run: Sequence[Served]) -> Floats:
    """From the start of its batch to the first token."""
    return np.array([each.first_token_s - each.started_s for each in run])


def tpot_ms(run: Sequence[Served]) -> Floats:
    """Time per output token after the first, of each request with more than one."""
    return np.array(
        [
            1e3 * (each.finish_s - each.first_token_s) / (len(each.token_times_s) - 1)
            for each in run
            if len(each.token_times_s) > 1
        ]
    )


def end_to_end_s(run: Sequence[Served]) -> Floats:
    """From arrival to the last token."""
    return np.array([each.finish_s - each.arrival_s for each in run])


def gaps_ms(run: Sequence[Served]) -> Floats:
    """Times between two tokens of a request, of all requests: their median is that of a decode step."""
    return 1e3 * np.concatenate([np.diff(each.token_times_s) for each in run])


def with_limits(rows: Sequence[Row]) -> list[Row]:
    """The rows with `limit_ms`, the limit's `step_ms` at the same load, and the shares of both throughputs.

    They are None where the load's limit was not measured, and for two devices.
    """
    known = {(each["engine"], place_of(each)): each for each in rows}
    found = []
    for each in rows:
        limit, sustained = (
            None if each["engine"] == TWO_DEVICES else known.get((engine, place_of(each)))
            for engine in (LIMIT, SUSTAINED)
        )
        found.append({
            **each, "limit_ms": None if limit is None else limit["step_ms"],
            "limit_percent": _share(each, limit), "sustained_percent": _share(each, sustained),
        })  # fmt: skip
    return found


def _share(row: Row, limit: Row | None) -> float | None:
    """Per cent of a limit's throughput."""
    return None if limit is None else _rounded(100 * row["tok_per_s"] / limit["tok_per_s"])


def place_of(found: Row) -> tuple[object, ...]:
    """Which load the row is of."""
    return tuple(found[name] for name in PLACE)


def _median(
    runs: Sequence[Sequence[Served]], values: Callable[[Sequence[Served]], Floats], percent: float
) -> float | None:
    each = [values(run) for run in runs]
    if not all(len(one) for one in each):
        return None
    return _rounded(float(np.median([np.percentile(one, percent) for one in each])))


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
