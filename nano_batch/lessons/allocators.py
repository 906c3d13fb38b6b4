"""The same requests on the same KV memory, given out as contiguous regions or as blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nano_batch._choices import check_choice
from nano_batch.errors import ViewError
from nano_batch.records import Run
from nano_batch.simulator import Roofline, simulate
from nano_batch.viz.block_table import KV_BYTES_PER_TOKEN, MODEL
from nano_batch.workloads import Workload

Allocator = Literal["max", "pow2", "oracle", "paging"]
ALLOCATORS: tuple[Allocator, ...] = get_args(Allocator)
CONTIGUOUS = ALLOCATORS[:-1]
PARTS = ("used", "internal", "reserved", "external", "free")
GPU: Literal["l4"] = "l4"  # what a step costs; a small one, which this memory fits beside the model


@dataclass(frozen=True, eq=False)
class Memory:
    """What is held fixed while allocators are compared.

    Attributes:
        workload: the requests.
        tokens: the KV memory.
        max_num_seqs: requests served at once, at most.
        max_model_len: tokens of the longest request that must be reckoned with; "max" reserves as many.
    """

    workload: Workload
    tokens: int
    max_num_seqs: int = 256
    max_model_len: int | None = None

    def serve(self, allocator: Allocator, block_size: int = 16, *, events: bool = False) -> Run:
        """The requests served on this memory; blocks have no prefix cache here, as regions have none.

        Raises:
            UnknownOptionError: there is no such allocator.
            ViewError: `events` of a region; the memory holds no such block.
        """
        check_choice("allocator", allocator, Allocator)
        if events and allocator != "paging":
            raise ViewError(f"{allocator} gives out regions, not blocks: only paging has a block table")
        if not 1 <= block_size <= self.tokens:
            raise ViewError(f"block_size is {block_size}; it must be from 1 to {self.tokens:,} tokens")
        size = block_size if allocator == "paging" else 1
        return simulate(
            self.workload,
            cost=Roofline.of(GPU, "mistral-7b-v0.1", block_size=size),
            reservation=None if allocator == "paging" else allocator,
            num_blocks=self.tokens // size,
            block_size=size,
            max_num_seqs=self.max_num_seqs,
            max_model_len=self.max_model_len,
            enable_prefix_caching=False,
            event_log=events,
        )

    def parts(self, run: Run) -> dict[str, NDArray[np.int64]]:
        """Slots after each step by the parts of docs/metrics.md; those external are not in those free."""
        steps = run.steps
        own = {name: getattr(steps, f"slots_{name}") for name in PARTS[:-1]}
        rest: Any = self.tokens - sum(own.values())
        return {**own, "free": rest}

    def shares(self, run: Run) -> dict[str, float]:
        """Percent of the memory in each part, the mean over the time in which a request waits.

        What is not used then is waste: somebody could use it.
        """
        weights = run.steps.duration_s * (run.steps.waiting > 0)
        if not weights.sum():
            weights = run.steps.duration_s
        parts = self.parts(run).items()
        return {name: 100 * float(np.average(slots, weights=weights)) / self.tokens for name, slots in parts}

    def words(self) -> str:
        """The memory in tokens and, for the model named, in GiB."""
        return f"{self.tokens:,} tokens of KV memory ({gib(self.tokens):.3g} GiB for {MODEL})"


def gib(tokens: Any) -> Any:
    """GiB of `tokens` tokens' keys and values, of the model named beside every memory."""
    return tokens * KV_BYTES_PER_TOKEN / 2**30
