"""The small model served here and now: this engine, Transformers, and what the machine allows at most."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nano_batch.benchmarks.report import Row, machine

if TYPE_CHECKING:
    from nano_batch.benchmarks.engines.base import EngineUnderTest
    from nano_batch.benchmarks.engines.work import Request
    from nano_batch.models import PagedMistral

CONCURRENCIES = (1, 2, 4, 8, 16)
PROMPTS, OUTPUTS = (8, 32), (8, 32)
LEAST_REQUESTS, SEED = 4, 0
PRODUCT_ROWS = (1, 8, 16, 32, 64, 128, 256, 512)
"""Rows of the products that are timed: no step has more tokens than 16 prompts of 32."""


class LiveEngines:
    """Every concurrency is measured once, on one thread: on more, what else runs here decides.

    Attributes:
        rows: what was measured so far, as rows of `nano-batch bench engine`.
    """

    def __init__(self, model: PagedMistral) -> None:
        self.model = model
        self.rows: list[Row] = []
        self.device = str(machine()["processor"])
        self.has_transformers = find_spec("transformers") is not None

    def at(self, concurrency: int) -> list[Row]:
        """The rows of this many requests at once: served twice, the first time to warm up."""
        from nano_batch.benchmarks.engines.rows import with_limits

        if not any(row["concurrency"] == concurrency for row in self.rows):
            with one_thread():
                measured = [self._row(engine, concurrency) for engine in self._engines]
            self.rows += with_limits(measured)
        return [row for row in self.rows if row["concurrency"] == concurrency]

    @cached_property
    def limits(self) -> list[Row]:
        """The limit at every concurrency."""
        return [self._row(self._engines[-1], concurrency) for concurrency in CONCURRENCIES]

    @cached_property
    def _engines(self) -> list[EngineUnderTest]:
        from nano_batch.benchmarks.engines.limit import Limit, card_of
        from nano_batch.benchmarks.engines.ours import NanoBatch
        from nano_batch.benchmarks.engines.rates import measure_rates
        from nano_batch.benchmarks.engines.transformers_generate import TransformersGenerate

        with one_thread():
            limit = Limit(card_of(self.model), measure_rates(self.model, PRODUCT_ROWS))
        theirs = [TransformersGenerate(self.model)] if self.has_transformers else []
        return [NanoBatch(self.model), *theirs, limit]

    def _row(self, engine: EngineUnderTest, concurrency: int) -> Row:
        from nano_batch.benchmarks.engine import served_in_runs
        from nano_batch.benchmarks.engines.rows import row
        from nano_batch.benchmarks.engines.work import Case

        work = requests(concurrency, self.model.config.vocab_size)
        case = Case("offline", concurrency, len(work))
        return row(case, engine.name, served_in_runs(engine, work, concurrency, runs=1))


def requests(concurrency: int, vocab_size: int) -> list[Request]:
    """Short ones, two for each place; the same for every engine."""
    from nano_batch.benchmarks.engines.work import Request

    draw = random.Random(SEED)
    prompts = [
        [draw.randrange(3, vocab_size) for _ in range(draw.randint(*PROMPTS))]
        for _ in range(max(LEAST_REQUESTS, 2 * concurrency))
    ]
    return [Request(prompt, draw.randint(*OUTPUTS)) for prompt in prompts]


@contextmanager
def one_thread() -> Iterator[Any]:
    """PyTorch on one thread, for all engines alike."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
