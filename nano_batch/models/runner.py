"""Runs the steps that an `Engine` plans: moves blocks, writes new keys and values, computes logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nano_batch.block_pairs import BlockPairs
from nano_batch.core import SchedulerOutput, StepCounts
from nano_batch.kv_cache import KVCache
from nano_batch.models.base import PagedInputs, PagedModel


class PagedRunner:
    """A model and its KV cache, driven by a schedule; requests live in the engine alone."""

    def __init__(self, model: PagedModel, cache: KVCache) -> None:
        """Take a model and a cache with its layers and heads."""
        self.model = model
        self.cache = cache

    def __repr__(self) -> str:
        return f"PagedRunner: {self.model!r}\n  over {repr(self.cache).splitlines()[0].rstrip(', ')}, …)"

    def _repr_html_(self) -> str:
        return self.cache._repr_html_()

    def run(self, output: SchedulerOutput) -> dict[str, torch.Tensor]:
        """Execute one step; return the logits [vocab_size] of each of `output.sampled_requests`.

        A request with n > 1 whose prompt ends has one entry, from which its n tokens are taken.
        """
        self.cache.move(output.swap_out, output.swap_in, output.copies)
        if not output.scheduled_requests:
            return {}
        logits = self.model.paged(self._inputs(output), self.cache)
        # The sequences of an n > 1 request have names of their own only after the step that ends its prompt.
        return dict(zip(output.sampled_requests, logits, strict=True))

    def run_arrays(
        self,
        counts: StepCounts,
        movement: tuple[BlockPairs, BlockPairs, BlockPairs],
        buffers: Mapping[str, npt.NDArray[Any]],
        newest: torch.Tensor,
    ) -> torch.Tensor:
        """Execute a step of the array form; return logits [samples, vocab_size].

        Args:
            counts, movement: what `Engine.step_arrays` and `Engine.movement` returned.
            buffers: the set of arrays that the step filled.
            newest: [max_num_seqs] int64 on the model's device, each lane's newest token. It is read where a
                token id is -1; the caller writes what it samples to `newest[sample_lanes]`.
        """
        self.cache.move(*movement)
        inputs = self._array_inputs(counts, buffers, newest)
        if not len(inputs.token_ids):
            return torch.empty(0, self.model.config.vocab_size, dtype=self.model.dtype)
        return self.model.paged(inputs, self.cache)

    def _inputs(self, output: SchedulerOutput) -> PagedInputs:
        first, count = np.array(output.num_computed_tokens), np.array(output.num_tokens_per_request)
        starts = np.concatenate([[0], np.cumsum(count)])
        tables = np.full((len(count), max(map(len, output.block_tables))), -1)
        for row, table in enumerate(output.block_tables):
            tables[row, : len(table)] = table
        positions = np.repeat(first - starts[:-1], count) + np.arange(starts[-1])
        last = dict(zip(output.scheduled_requests, starts[1:] - 1, strict=True))
        return PagedInputs(
            self._tensor(np.array(output.token_ids)), self._tensor(positions), output.slot_mappings,
            self._tensor(tables), self._tensor(first + count), self._tensor(starts),
            self._tensor(np.array([last[name] for name in output.sampled_requests])),
        )  # fmt: skip

    def _array_inputs(
        self, counts: StepCounts, buffers: Mapping[str, npt.NDArray[Any]], newest: torch.Tensor
    ) -> PagedInputs:
        rows, tokens = counts.padded_rows, counts.padded_tokens
        starts = buffers["query_start_loc"][: rows + 1]
        given = self._tensor(buffers["token_ids"][:tokens])
        lane = self._tensor(np.repeat(buffers["lanes"][:rows], np.diff(starts)))
        return PagedInputs(
            torch.where(given < 0, newest[lane.clamp(min=0).long()], given.long()),
            self._tensor(buffers["positions"][:tokens]), torch.from_numpy(buffers["slot_mapping"][:tokens]),
            self._tensor(buffers["block_table"][:rows]), self._tensor(buffers["context_lens"][:rows]),
            self._tensor(starts),
            self._tensor(starts[buffers["sample_rows"][: counts.samples] + 1] - 1),
        )  # fmt: skip

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """Copy to the model's device as int32: the engine will fill its buffers anew."""
        return torch.tensor(array, dtype=torch.int32, device=self.model.device)
