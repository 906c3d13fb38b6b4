"""CUDA graphs of whole steps: one for each of a ladder of sizes, all over the same arrays.

A graph holds a step from the newest tokens, which it takes from where the last step left them, to the
likeliest ones. What is in its arrays past the step's own rows and tokens has context 0, slot -1 and lane -1:
it writes nothing and is read by nobody.

A library's products of more rows may take less time: those of Mistral 7B, in bf16 on an H200, take a third
longer with 448 rows than with 512. So each graph is timed once, and a step goes to the fastest that has room
for it.
"""

from __future__ import annotations

import bisect
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


def decode_sizes(most: int) -> list[int]:
    """Sizes in rows up to `most`, ever further apart: padding wastes at most a third, from 8 on a fifth."""
    sizes = [1, 2, 3, 4, 6, 8, 10, 12, 14, *range(16, 32, 4), *range(32, 256, 8)]
    sizes += range(256, most + 1, 32)
    return [size for size in sizes if size < most] + [most]


WORTH = 1.02
"""How much longer a smaller graph must take than a larger one to be passed over."""
TIMED = 3
"""Replays of each graph, of which the shortest counts."""


def fastest(times: Sequence[float]) -> list[int]:
    """For each size of a ladder, given its time, the place of the one that a step of that size goes to."""
    chosen: list[int] = []
    best = len(times) - 1
    for place in reversed(range(len(times))):
        if times[place] <= WORTH * times[best]:
            best = place
        chosen.append(best)
    return chosen[::-1]


@dataclass(frozen=True)
class StepGraph:
    """A captured step and what it leaves."""

    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor  # [samples, vocab_size]
    tokens: torch.Tensor  # [samples] int64, the likeliest


class StepGraphs:
    """The graphs of a ladder of sizes, captured from `step(size)`, which gives logits and tokens."""

    def __init__(
        self,
        sizes: Sequence[int],
        device: torch.device,
        step: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
        pool: Any,
        agreed: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Capture all of them, the largest first: the smaller ones live in its memory, which is of `pool`.

        Then they are timed; `agreed` makes all ranks' times those of one, so that they choose alike.
        """
        self.sizes = list(sizes)
        self.graphs: dict[int, StepGraph] = {}
        self._step, self._pool = step, pool
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), _nothing_collected():
            for size in reversed(self.sizes):
                self.graphs[size] = self._captured(size)
        torch.cuda.current_stream(device).wait_stream(stream)
        with torch.cuda.device(device):
            times = torch.tensor([self._ms(size) for size in self.sizes], device=device)
        self._fastest = fastest(agreed(times).tolist())

    def _ms(self, size: int) -> float:
        graph, spans = self.graphs[size].graph, []
        for _ in range(TIMED):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            graph.replay()
            end.record()
            spans.append((start, end))
        torch.cuda.synchronize()
        return min(float(start.elapsed_time(end)) for start, end in spans)

    def _captured(self, size: int) -> StepGraph:
        self._step(size)  # compiles, and lets libraries allocate, outside of the graph
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits, tokens = self._step(size)
        return StepGraph(graph, logits, tokens)

    def size_for(self, needed: int) -> int | None:
        """The fastest size of the ladder with room for what is needed; None where there is none."""
        place = bisect.bisect_left(self.sizes, needed)
        return self.sizes[self._fastest[place]] if place < len(self.sizes) else None


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage is collected: a graph of an earlier engine that was destroyed would break a capture."""
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
