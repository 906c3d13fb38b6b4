"""This package's `InferenceEngine`, driven step by step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from nano_batch.benchmarks.engines.base import Serve, Served
from nano_batch.benchmarks.engines.work import BUDGET, LONGEST, Case, Request
from nano_batch.models import PagedMistral


class SteppedEngine(Protocol):
    """What is asked of the engine here."""

    @property
    def has_unfinished(self) -> bool:
        """Whether any request is not at its end."""

    def add_request(self, request_id: str, prompt: list[int], params: Any) -> Any:
        """Queue a request."""

    def step(self) -> list[Any]:
        """Compute a step; the outputs that moved."""


class NanoBatch:
    """The engine with its own defaults, but no prefix cache: a second run must not find the first one's.

    Args:
        model: its weights are shared with the other engines.
        make: makes the engine; by default `InferenceEngine`.
    """

    name, clocked, baseline = "nano_batch", True, False

    def __init__(self, model: PagedMistral, make: Callable[..., SteppedEngine] | None = None) -> None:
        self.model, self._make = model, make

    def suits(self, case: Case) -> bool:
        """All cases."""
        return True

    @contextmanager
    def opened(self, concurrency: int) -> Iterator[Serve]:
        """An engine of `max_num_seqs=concurrency`; its KV cache goes with the last reference to it."""
        make = self._make or _inference_engine()
        engine = make(
            self.model, max_num_seqs=concurrency, max_model_len=LONGEST, enable_prefix_caching=False
        )
        yield partial(serve, engine, greedy)


def _inference_engine() -> Callable[..., SteppedEngine]:
    from nano_batch.engine import InferenceEngine

    return InferenceEngine


def greedy(output_tokens: int) -> Any:
    """Sampling parameters of so many likeliest tokens, whatever they are."""
    from nano_batch.engine import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)


def serve(
    engine: SteppedEngine, params_of: Callable[[int], Any], requests: Sequence[Request]
) -> list[Served]:
    """Add requests when they are due, and step until all have ended.

    Between two steps so many are added that they fill one: the device works while the rest come.
    """
    due = deque(enumerate(requests))
    outputs: dict[str, Any] = {}
    times: dict[str, list[float]] = {str(number): [] for number in range(len(requests))}
    start = time.perf_counter()
    while due or engine.has_unfinished:
        added = 0
        while due and added < BUDGET and due[0][1].arrival_s <= time.perf_counter() - start:
            number, request = due.popleft()
            engine.add_request(str(number), request.prompt, params_of(request.output_tokens))
            added += len(request.prompt)
        if not engine.has_unfinished:
            time.sleep(max(0.0, due[0][1].arrival_s - (time.perf_counter() - start)))
            continue
        moved = engine.step()
        now = time.perf_counter() - start
        for output in moved:
            outputs[output.request_id] = output
            seen = times[output.request_id]
            seen.extend([now] * (len(output.token_ids) - len(seen)))
    return [
        Served(
            request.arrival_s, outputs[name].metrics.first_scheduled_s - start, times[name],
            list(outputs[name].token_ids),
        )
        for name, request in zip(times, requests, strict=True)
    ]  # fmt: skip
