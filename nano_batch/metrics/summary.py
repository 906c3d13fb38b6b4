"""A run in one row of numbers: what a sweep keeps of each of its points (docs/metrics.md)."""

from __future__ import annotations

import numpy as np

from nano_batch.errors import MetricsError
from nano_batch.metrics.latency import end_to_end_s, tpot_s, ttft_s
from nano_batch.metrics.rates import SLO, block_utilisation, goodput_per_s, throughput
from nano_batch.metrics.steady import Window, backlog_grows, quantiles, steady_window, step_means
from nano_batch.records import Run, Steps

Row = dict[str, float | int | bool]
LATENCIES = {"ttft": ttft_s, "tpot": tpot_s, "end_to_end": end_to_end_s}


def summary(run: Run, slo: SLO | None = None, window: Window | None = None) -> Row:
    """Rates, latencies, and what memory held, over a window (`steady_window` by default).

    Latencies are of the requests that arrived in the window; rates count those that ended in it; means over
    steps are weighted by the steps' durations. `iterations`, `preemptions` and `requests` are of the whole
    run.

    Raises:
        MetricsError: no request has ended, or the window is empty.
        RecordsError: the run kept no requests.
    """
    requests, totals = run.served(), run.settings.get("totals", {})
    span = steady_window(requests) if window is None else window
    rates = throughput(requests, span)
    return {
        "requests": len(requests),
        "finished": int(np.isfinite(requests.finish_s).sum()),
        "iterations": int(totals.get("iterations", len(run.steps))),
        **{name: int(totals[name]) for name in ("scheduled_sequences",) if name in totals},
        "run_s": run.span_s,
        "window_start_s": span[0],
        "window_end_s": span[1],
        "throughput_requests_per_s": rates.requests_per_s,
        "throughput_output_tokens_per_s": rates.output_tokens_per_s,
        "throughput_total_tokens_per_s": rates.total_tokens_per_s,
        "goodput_requests_per_s": goodput_per_s(requests, slo or SLO(), span),
        **_latencies(run, span),
        "preemptions": int(requests.preemptions.sum()),
        "cached_prompt_share": _share(requests.cached_tokens.sum(), requests.prompt_tokens.sum()),
        **_means(run, span),
        "unstable": backlog_grows(requests, span),
    }


def _means(run: Run, window: Window) -> Row:
    """Sequences, and what every slot of the memory held."""
    steps = run.steps
    shares = slot_shares(steps, int(run.settings["engine"]["block_size"]))
    blocks = block_utilisation(steps)
    columns = {
        "mean_running": steps.running,
        "mean_waiting": steps.waiting,
        "kv_block_utilisation": blocks,
        **{f"kv_{name}_share": share for name, share in shares.items()},
    }
    highest = float(blocks.max()) if len(steps) else float("nan")
    return {**step_means(steps, columns, window), "kv_block_utilisation_max": highest}


def _latencies(run: Run, window: Window) -> Row:
    """p50 and p99 of each latency, and how many samples lie beyond the p99."""
    requests = run.requests
    came = (requests.arrival_s >= window[0]) & (requests.arrival_s <= window[1])
    row: Row = {}
    for name, of in LATENCIES.items():
        values = of(requests)[came]
        p50, p99 = quantiles(values, (0.5, 0.99))
        row |= {f"{name}_p50_s": p50.value, f"{name}_p99_s": p99.value, f"{name}_beyond_p99": p99.beyond}
    return row


def slot_shares(steps: Steps, block_size: int) -> dict[str, np.ndarray]:
    """Parts of all token slots after each step was planned, float64 [steps] each.

    used + reserved + internal + cached + free = 1; external is a part of free.

    Raises:
        MetricsError: the used blocks of `block_size` slots do not hold the steps' slots.
    """
    blocks = steps.blocks_used + steps.blocks_cached + steps.blocks_free
    total = np.maximum(blocks * block_size, 1)
    held = steps.slots_used + steps.slots_reserved + steps.slots_internal
    wrong = np.flatnonzero(held != steps.blocks_used * block_size)
    if len(wrong):
        raise MetricsError(
            f"step {steps.step[wrong[0]]} has {held[wrong[0]]} slots in {steps.blocks_used[wrong[0]]} used "
            f"blocks; with block_size {block_size} they hold {steps.blocks_used[wrong[0]] * block_size}"
        )
    slots = {
        "used": steps.slots_used,
        "reserved": steps.slots_reserved,
        "internal": steps.slots_internal,
        "cached": steps.blocks_cached * block_size,
        "free": steps.blocks_free * block_size,
        "external": steps.slots_external,
    }
    return {name: count / total for name, count in slots.items()}


def _share(part: int, whole: int) -> float:
    return float(part) / float(whole) if whole else float("nan")
