"""Steady windows, growing backlogs, quantiles and means over steps (docs/metrics.md, "Steady state")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nano_batch.display import Shown
from nano_batch.errors import MetricsError
from nano_batch.records import Requests, Steps

Floats = NDArray[np.float64]
Window = tuple[float, float]
WARMUP = 0.2
GROWTH_OF_ARRIVALS, GROWTH_DEVIATIONS = 0.01, 3.0
MIN_BEYOND = 10


def steady_window(requests: Requests, warmup: float = WARMUP) -> Window:
    """From the arrival that ends the warm-up, a share of all requests, to the last arrival, in seconds.

    Where these are one moment (all came at once) it is the whole run: first arrival to last end.

    Raises:
        MetricsError: no request has arrived or ended, or the warm-up is not a share below 1.
    """
    if not 0 <= warmup < 1:
        raise MetricsError(f"warmup is {warmup}; it must be at least 0 and below 1")
    if not np.isfinite(requests.finish_s).any():
        raise MetricsError("no request has ended: there is no steady window")
    start, end = float(requests.arrival_s[int(warmup * len(requests))]), float(requests.arrival_s[-1])
    if end > start:
        return start, end
    return float(requests.arrival_s[0]), float(np.nanmax(requests.finish_s))


def in_system(requests: Requests, start_s: float, end_s: float) -> float:
    """Mean number of requests that had arrived and not ended, over the time from `start_s` to `end_s`."""
    return float(_in_system(requests, np.array([start_s, end_s]))[0])


def _in_system(requests: Requests, edges: Floats) -> Floats:
    """The same between every two neighbouring edges."""
    starts, ends = edges[:-1, None], edges[1:, None]
    # fmin: who has not ended stays.
    stays = np.fmin(requests.finish_s, ends) - np.maximum(requests.arrival_s, starts)
    means: Floats = np.maximum(stays, 0.0).sum(axis=1) / np.diff(edges)
    return means


def backlog_grows(requests: Requests, window: Window) -> bool:
    """Whether more comes than is served: the point is unstable, and its latencies are those of its length.

    The mean number in the system rises over each quarter of the window, in all by at least 1 % of the
    window's arrivals and three times the square root of what it was.
    """
    means = _in_system(requests, np.linspace(*window, 5))
    arrivals = int(((requests.arrival_s > window[0]) & (requests.arrival_s <= window[1])).sum())
    least = max(GROWTH_OF_ARRIVALS * arrivals, GROWTH_DEVIATIONS * float(np.sqrt(means[0])))
    return bool((np.diff(means) > 0).all() and means[-1] - means[0] >= least)


@dataclass(frozen=True)
class Quantile(Shown):
    """A quantile of a sample; `beyond` samples are expected above it. NaN for an empty sample."""

    value: float
    beyond: float

    @property
    def firm(self) -> bool:
        """Whether at least ten samples lie beyond; one that is not firm is drawn hollow."""
        return self.beyond >= MIN_BEYOND


def quantile(values: ArrayLike, q: float) -> Quantile:
    """The `q`-quantile of the values that are not NaN, linear between order statistics.

    Raises:
        MetricsError: q is not from 0 to 1.
    """
    return quantiles(values, (q,))[0]


def quantiles(values: ArrayLike, qs: Sequence[float]) -> list[Quantile]:
    """`quantile` of each of `qs`, from one look at the values.

    Raises:
        MetricsError: one of them is not from 0 to 1.
    """
    for q in qs:
        if not 0 <= q <= 1:
            raise MetricsError(f"q is {q}; it must be from 0 to 1")
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    known.sort()
    found = [_linear(known, q) for q in qs]
    # Rounded, since 1 − 0.99 is not a hundredth in binary.
    return [Quantile(value, round((1 - q) * len(known), 6)) for value, q in zip(found, qs, strict=True)]


def _linear(ordered: Floats, q: float) -> float:
    """As `np.quantile` has it, which takes six times as long for a few hundred values."""
    if not len(ordered):
        return float("nan")
    at = q * (len(ordered) - 1)
    below = int(at)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    share = at - below
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def step_means(steps: Steps, columns: Mapping[str, ArrayLike], window: Window) -> dict[str, float]:
    """Mean of each column of steps over the window's time in which a step ran; NaN where none did."""
    ends = np.minimum(steps.start_s + steps.duration_s, window[1])
    weights = np.maximum(ends - np.maximum(steps.start_s, window[0]), 0.0)
    total = float(weights.sum())
    if total <= 0:
        return dict.fromkeys(columns, float("nan"))
    # Not a dot product: a threaded BLAS would add in another order on another machine.
    return {
        name: float((np.asarray(values, np.float64) * weights).sum()) / total
        for name, values in columns.items()
    }
