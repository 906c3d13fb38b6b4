"""Throughput, goodput, block utilisation and the saturation knee (docs/metrics.md, "Rates")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nano_batch.display import Shown
from nano_batch.errors import MetricsError
from nano_batch.metrics.latency import end_to_end_s, normalized_latency_s, tpot_s, ttft_s
from nano_batch.records import Requests, Steps

Floats = NDArray[np.float64]
KNEE_GAIN = 0.10


@dataclass(frozen=True)
class Throughput(Shown):
    """Rates over a window of `window_s` seconds."""

    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    window_s: float


def completed(requests: Requests) -> NDArray[np.bool_]:
    """Requests that ran to their end: reason `stop` or `length`."""
    done: NDArray[np.bool_] = (requests.finish_reason == "stop") | (requests.finish_reason == "length")
    return done


def throughput(requests: Requests, window: tuple[float, float] | None = None) -> Throughput:
    """Completed requests, and their tokens, per second of the window (first arrival to last end by default).

    Raises:
        MetricsError: the window is empty.
    """
    start, end = _window(requests, window)
    done = completed(requests) & (requests.finish_s > start) & (requests.finish_s <= end)
    output = float(requests.output_tokens[done].sum())
    total = output + float(requests.prompt_tokens[done].sum())
    span = end - start
    return Throughput(float(done.sum()) / span, output / span, total / span, span)


@dataclass(frozen=True)
class SLO(Shown):
    """Objectives in seconds; None does not count. A request with one token has no TPOT and meets any."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    end_to_end_s: float | None = None

    def met(self, requests: Requests) -> NDArray[np.bool_]:
        """The completed requests that meet every objective, bool [n]."""
        good = completed(requests)
        if self.ttft_s is not None:
            good &= ttft_s(requests) <= self.ttft_s
        if self.tpot_s is not None:
            tpot = tpot_s(requests)
            good &= (tpot <= self.tpot_s) | (requests.output_tokens < 2)
        if self.end_to_end_s is not None:
            good &= end_to_end_s(requests) <= self.end_to_end_s
        return good


def goodput_per_s(requests: Requests, slo: SLO, window: tuple[float, float] | None = None) -> float:
    """Completed requests that meet the SLO, per second of the window (first arrival to last end by default).

    Raises:
        MetricsError: the window is empty.
    """
    start, end = _window(requests, window)
    good = slo.met(requests) & (requests.finish_s > start) & (requests.finish_s <= end)
    return float(good.sum()) / (end - start)


def fairness(requests: Requests) -> float:
    """Jain's index of the completed requests' normalized latencies: (Σ x)² / (n Σ x²); 1 where all are alike.

    From Jain, Chiu and Hawe, DEC TR-301, 1984. NaN without a completed request.
    """
    latency = normalized_latency_s(requests)[completed(requests)]
    latency = latency[np.isfinite(latency)]
    if not len(latency) or not latency.any():
        return float("nan")
    return float(latency.sum() ** 2 / (len(latency) * (latency**2).sum()))


def _window(requests: Requests, window: tuple[float, float] | None) -> tuple[float, float]:
    if window is None:
        if not np.isfinite(requests.finish_s).any():
            raise MetricsError("no request has ended; give the window (start_s, end_s)")
        # Open at its start: an end at the very first arrival would otherwise be lost.
        window = (float(requests.arrival_s.min()), float(np.nanmax(requests.finish_s)))
    if not window[1] > window[0]:
        raise MetricsError(f"the window is {window[0]} s to {window[1]} s; it must end after its start")
    return window


def block_utilisation(steps: Steps) -> Floats:
    """KV utilisation in blocks, referenced blocks / all blocks, float64 [steps], from 0 to 1."""
    total = steps.blocks_used + steps.blocks_cached + steps.blocks_free
    return steps.blocks_used / np.where(total > 0, total, 1)


def saturation_knee(concurrency: ArrayLike, throughputs: ArrayLike) -> float | None:
    """The smallest C from which each doubling gains less than 10 %; None if the points show none.

    Between points the throughput is linear in log₂ C. A doubling counts if its end is within the points, so
    that the last octave holds no knee.

    Raises:
        MetricsError: the columns differ in length, or C does not ascend from above 0, or X is not above 0.
    """
    c, x = np.asarray(concurrency, np.float64), np.asarray(throughputs, np.float64)
    if c.ndim != 1 or c.shape != x.shape or len(c) == 0:
        raise MetricsError(
            f"concurrency and throughput have shapes {c.shape} and {x.shape}; they must be one column"
        )
    if not (c[0] > 0 and (np.diff(c) > 0).all() and np.isfinite(c).all()):
        raise MetricsError("concurrency must ascend strictly from above 0")
    if not (np.isfinite(x).all() and (x > 0).all()):
        raise MetricsError("throughput must be finite and above 0 at each concurrency")
    starts = 2 * c <= c[-1]
    gain = np.interp(np.log2(2 * c[starts]), np.log2(c), x) / x[starts] - 1
    flat = gain < KNEE_GAIN
    if not flat.any() or not flat[-1]:
        return None
    rises = np.flatnonzero(~flat)
    return float(c[rises[-1] + 1 if len(rises) else 0])
