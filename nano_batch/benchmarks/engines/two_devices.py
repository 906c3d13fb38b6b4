"""This package's `InferenceEngine` with the model split among two CUDA devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

from nano_batch.benchmarks.engines.base import Serve
from nano_batch.benchmarks.engines.ours import greedy, serve
from nano_batch.benchmarks.engines.rows import TWO_DEVICES
from nano_batch.benchmarks.engines.work import LONGEST, Case


class NanoBatchOnTwo:
    """The engine as `NanoBatch` has it, on two devices, each with its part of the same weights.

    Args:
        model_name: a name of `nano_batch.models.mistral.SHAPES`.
        dtype: of the weights.
        make: makes the engine; by default `InferenceEngine.from_pretrained` on CUDA devices.
    """

    name, clocked, baseline = TWO_DEVICES, True, False

    def __init__(
        self,
        model_name: str,
        dtype: torch.dtype,
        make: Callable[..., AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.model_name, self.dtype, self._make = model_name, dtype, make

    def suits(self, case: Case) -> bool:
        """Decode steps, where there are two devices: they are what a second device is to speed up."""
        return case.name == "steady" and torch.cuda.device_count() >= 2

    @contextmanager
    def opened(self, concurrency: int) -> Iterator[Serve]:
        """An engine of `max_num_seqs=concurrency`, whose processes end with it."""
        make = self._make or partial(_from_pretrained(), device="cuda")
        with make(
            self.model_name, load_format="dummy", dtype=self.dtype, tensor_parallel_size=2,
            max_num_seqs=concurrency, max_model_len=LONGEST, enable_prefix_caching=False,
        ) as engine:  # fmt: skip
            yield partial(serve, engine, greedy)


def _from_pretrained() -> Callable[..., AbstractContextManager[Any]]:
    from nano_batch.engine import InferenceEngine

    return InferenceEngine.from_pretrained
