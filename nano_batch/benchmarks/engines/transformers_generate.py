"""Transformers' `generate()`: one request at a time, or static batches that run to their longest output."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from nano_batch.benchmarks.engines.base import Serve, Served
from nano_batch.benchmarks.engines.transformers_model import PAD, greedy_config, transformers_model
from nano_batch.benchmarks.engines.work import Case, Request
from nano_batch.models import PagedMistral


class TransformersGenerate:
    """Static batches: of `concurrency` requests in order, or of as many as have arrived.

    Prompts are padded on the left to the longest. A batch runs to its longest output, and of a request that
    wanted less what comes after is not counted.
    """

    name, clocked, baseline = "transformers_generate", True, True

    def __init__(self, model: PagedMistral) -> None:
        self.model = model

    def suits(self, case: Case) -> bool:
        """Those with more than one request at once."""
        return case.concurrency > 1

    @contextmanager
    def opened(self, concurrency: int) -> Iterator[Serve]:
        """Transformers' model on the same weights."""
        yield partial(serve, transformers_model(self.model), concurrency)


class TransformersGenerateSingle(TransformersGenerate):
    """One request at a time."""

    name = "transformers_generate_single"

    def suits(self, case: Case) -> bool:
        """Those with one request at once."""
        return case.concurrency == 1


def serve(theirs: Any, size: int, requests: Sequence[Request]) -> list[Served]:
    """Serve requests in batches of at most `size`, each begun when the one before it has ended."""
    start, served = time.perf_counter(), list[Served]()
    while len(served) < len(requests):
        first = len(served)
        time.sleep(max(0.0, requests[first].arrival_s - (time.perf_counter() - start)))
        now = time.perf_counter() - start
        batch = [each for each in requests[first : first + size] if each.arrival_s <= now]
        served += serve_batch(theirs, batch, start)
    return served


def serve_batch(theirs: Any, batch: Sequence[Request], start: float) -> list[Served]:
    """Run one batch to its longest output; times are from `start`."""
    began = time.perf_counter() - start
    width = max(len(each.prompt) for each in batch)
    pads = [width - len(each.prompt) for each in batch]
    ids = torch.tensor([[PAD] * pad + each.prompt for pad, each in zip(pads, batch, strict=True)])
    mask = torch.arange(width)[None] >= torch.tensor(pads)[:, None]
    times: list[float] = []
    tokens = theirs.generate(
        ids.to(theirs.device), attention_mask=mask.long().to(theirs.device),
        generation_config=greedy_config(max_new_tokens=max(each.output_tokens for each in batch)),
        stopping_criteria=[token_clock(times, start)],
    )[:, width:].tolist()  # fmt: skip
    return [
        Served(each.arrival_s, began, times[: each.output_tokens], row[: each.output_tokens])
        for each, row in zip(batch, tokens, strict=True)
    ]


def token_clock(times: list[float], start: float) -> Any:
    """A stopping criterion that stops nothing: it notes when each step's tokens are there.

    It waits for the device, which `generate` does itself right after to see whether all rows have ended.
    """

    def note(input_ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        times.append(time.perf_counter() - start)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return note
