"""Times of calls on a CUDA device: ten in a graph, replayed by turns with those of a peer.

Before each replay the device spins for a while, so that the host has handed everything over when the first
event is taken: a slow host adds nothing. Products of matrices before a case bring the clocks up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch

CALLS, REPLAYS = 10, 20
SPIN_CYCLES = 1_000_000
WARM_S = 0.3
EAGER_MOST_US = 50_000
EAGER_CALLS = 7

Call = Callable[[int], object]
"""A call on one of the copies, by number."""


@dataclass(frozen=True)
class Spread:
    """Microseconds of a call: the median of the replays, and the range of their middle half in per cent."""

    us: float
    apart: float


def capture(call: Call, copies: int, first: int = 0) -> list[torch.cuda.CUDAGraph]:
    """Graphs of ten calls each, which take the copies by turns from `first` on, each at least once."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiles, loads and allocates: no capture may
            call(first % copies)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graphs = []
    for start in range(first, first + copies, CALLS):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for number in range(start, start + CALLS):
                call(number % copies)
        graphs.append(graph)
    return graphs


def replayed(peers: Sequence[Sequence[torch.cuda.CUDAGraph]]) -> list[Spread]:
    """Each peer's time of a call: `REPLAYS` replays of its graphs by turns, peer after peer."""
    warm_up()
    for graphs in peers:
        for graph in graphs:
            graph.replay()
    spans: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in peers]
    for number in range(REPLAYS):
        for graphs, taken in zip(peers, spans, strict=True):
            taken.append(_span(graphs[number % len(graphs)].replay))
    torch.cuda.synchronize()
    return [_spread([_us(span) / CALLS for span in taken]) for taken in spans]


def kept_up(graphs: Sequence[torch.cuda.CUDAGraph], seconds: float) -> float:
    """Microseconds of a call over and over for so long, the mean of the second half."""

    def replay(rounds: int) -> None:
        for _ in range(rounds):
            for graph in graphs:
                graph.replay()

    rounds = max(1, round(seconds / 2 * 1e6 / _timed(lambda: replay(1))))
    replay(rounds)
    return _timed(lambda: replay(rounds)) / (rounds * len(graphs) * CALLS)


def called(call: Callable[[], object], most_us: float = EAGER_MOST_US) -> float | None:
    """Microseconds of a call that no graph holds, the median of a few; None where it takes over `most_us`."""
    call()
    if _timed(call) > most_us:
        return None
    return median(_timed(call) for _ in range(EAGER_CALLS))


def best(call: Callable[[], object], calls: int) -> float:
    """Microseconds of the fastest of some calls."""
    warm_up()
    call()
    return min(_timed(call) for _ in range(calls))


def on_host(call: Callable[[], object]) -> float:
    """Microseconds of the host's clock from a call to the end of what it started: the median of a few."""

    def once() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e6

    call()
    return median(once() for _ in range(EAGER_CALLS))


def warm_up() -> None:
    """Keep the device busy until its clocks are up."""
    matrix = torch.randn(4096, 4096, dtype=torch.bfloat16, device="cuda")
    end = time.perf_counter() + WARM_S
    while time.perf_counter() < end:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()


def _timed(call: Callable[[], object]) -> float:
    span = _span(call)
    torch.cuda.synchronize()
    return _us(span)


def _span(call: Callable[[], object]) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(SPIN_CYCLES)  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    return start, end


def _us(span: tuple[torch.cuda.Event, torch.cuda.Event]) -> float:
    return float(span[0].elapsed_time(span[1])) * 1e3


def _spread(times: Sequence[float]) -> Spread:
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return Spread(middle, 100 * (high - low) / middle)
