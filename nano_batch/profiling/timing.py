"""Times on a CUDA device: a call captured into a graph and replayed, as an engine's steps are."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

REPEATS = 5
LEAST_S = 0.01


def graph_seconds(call: Callable[[], Any]) -> float:
    """Seconds of one replay of `call` captured into a CUDA graph: the median of several timed stretches."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return event_seconds(graph.replay)


def event_seconds(call: Callable[[], Any]) -> float:
    """Seconds of `call` on the device, warm: the median of stretches of at least 10 ms each."""
    call()
    once = _stretch(call, 1)
    count = max(1, int(LEAST_S / max(once, 1e-6)))
    return median(_stretch(call, count) for _ in range(REPEATS))


def _stretch(call: Callable[[], Any], count: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / count


def host_seconds(call: Callable[[], Any], count: int = 50) -> float:
    """Seconds of the host's clock for one `call`, the median of several stretches."""

    def stretch() -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count

    call()
    return median(stretch() for _ in range(REPEATS))
