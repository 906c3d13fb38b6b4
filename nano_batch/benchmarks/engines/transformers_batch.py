"""Transformers' continuous batching: what its `generate_batch` runs, with a length for each request."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from nano_batch.benchmarks.engines.base import Serve, Served
from nano_batch.benchmarks.engines.transformers_model import (
    greedy_config,
    transformers_model,
    transformers_module,
)
from nano_batch.benchmarks.engines.work import LONGEST, OUTPUT_LENGTHS, PROMPT_LENGTHS, Case, Request
from nano_batch.errors import BenchmarkError
from nano_batch.models import PagedMistral

PAGE, BUDGET = 256, 2048
"""Token slots of a block by default, and on a CPU tokens of a step."""
WAIT_S = 1.0
"""Between two looks at whether the manager's thread still lives."""


class TransformersBatch:
    """The manager behind `generate_batch`, with what that call gives it, but no sharing of prefixes.

    `generate_batch` itself has one output length for all requests; the manager takes one for each. It runs in
    a thread of its own, in `torch.inference_mode` if it wants to: the caller must not be in it.
    """

    name, clocked, baseline = "transformers_generate_batch", True, True

    def __init__(self, model: PagedMistral) -> None:
        self.model = model

    def suits(self, case: Case) -> bool:
        """All cases."""
        return True

    @contextmanager
    def opened(self, concurrency: int) -> Iterator[Serve]:
        """A manager of at most `concurrency` requests a batch, warmed up as `generate_batch` does."""
        from transformers.generation.continuous_batching.utils import WorkloadHints

        theirs = transformers_model(self.model)
        config = transformers_module().ContinuousBatchingConfig(
            max_requests_per_batch=concurrency, allow_block_sharing=False, **_memory(theirs, concurrency)
        )
        hints = WorkloadHints(PROMPT_LENGTHS[1], OUTPUT_LENGTHS[1], concurrency)
        with theirs.continuous_batching_context_manager(
            generation_config=greedy_config(max_new_tokens=OUTPUT_LENGTHS[1]),
            continuous_batching_config=config, workload_hints=hints, timeout=5,
        ) as manager:  # fmt: skip
            yield partial(serve, manager)


def _memory(theirs: Any, concurrency: int) -> dict[str, int]:
    """On a GPU what it takes by itself; on a CPU that would be nearly all of the host's memory."""
    if theirs.device.type == "cuda":
        return {}
    return {
        "num_blocks": concurrency * -(-LONGEST // PAGE) + 1,
        "max_batch_tokens": BUDGET,
    }


def serve(manager: Any, requests: Sequence[Request]) -> list[Served]:
    """Hand requests to the manager when they are due, and collect its results."""
    due, names = deque(requests), list[str]()
    results: dict[str, Any] = {}
    start = time.perf_counter()
    while len(results) < len(requests):
        while due and due[0].arrival_s <= time.perf_counter() - start:
            request = due.popleft()
            names.append(
                manager.add_request(
                    request.prompt, max_new_tokens=request.output_tokens, record_timestamps=True
                )
            )
        wait = due[0].arrival_s - (time.perf_counter() - start) if due else WAIT_S
        result = manager.get_result(timeout=max(1e-3, min(wait, WAIT_S)))
        if result is None:
            _check_alive(manager)
        elif result.is_finished():
            results[result.request_id] = result
    return [_served(results[name], request, start) for name, request in zip(names, requests, strict=True)]


def _check_alive(manager: Any) -> None:
    if not manager.is_running():
        raise BenchmarkError("the thread of Transformers' continuous batching has ended")


def _served(result: Any, request: Request, start: float) -> Served:
    if result.error is not None:
        raise BenchmarkError(f"Transformers' continuous batching failed: {result.error}")
    times = [moment - start for moment in result.timestamps]
    return Served(request.arrival_s, result.lifespan[0] - start, times, list(result.generated_tokens))
