"""Random tensors for the cases: a cache in random block order, and what float64 makes of two of its rows."""

from __future__ import annotations

import torch

from nano_batch.attention.base import PagedContext
from nano_batch.attention.dense import dense_attention
from nano_batch.attention.fp8 import QUANTISED, as_bits
from nano_batch.benchmarks.on_gpu.cases import HEAD_DIM, HEADS, KV_HEADS, Case

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": QUANTISED}


class Inputs:
    """What a case attends with and to.

    Attributes:
        query: [tokens, HEADS, HEAD_DIM], one a row or those of a prefill, row after row.
        starts: [rows + 1] int32, where each row's queries begin.
        contexts: one for each of the case's copies: caches of their own, the same table and lengths.
        host_lens: [rows], on the host.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        new = case.queries or (1,) * case.batch
        dtype = torch.bfloat16 if case.dtype == "fp8" else DTYPES[case.dtype]
        self.query = torch.randn(sum(new), HEADS, HEAD_DIM, dtype=dtype, device=device)
        self.host_queries, self.host_lens = torch.tensor(new), torch.tensor(case.contexts)
        self.starts = torch.cat([torch.zeros(1), self.host_queries.cumsum(0)]).int().to(device)
        blocks = -(-self.host_lens // case.block_size)
        self.table = random_table(blocks).to(device)
        lens, shape = (
            self.host_lens.int().to(device),
            (int(blocks.sum()), case.block_size, KV_HEADS, HEAD_DIM),
        )

        def cache() -> torch.Tensor:
            return torch.randn(shape, dtype=dtype, device=device).to(DTYPES[case.dtype])

        self.contexts = [
            PagedContext(cache(), cache(), self.table, lens, HEAD_DIM**-0.5, None, longest=case.context)
            for _ in range(case.copies)
        ]

    def error(self, output: torch.Tensor) -> float:
        """Norm of the difference over norm of float64 attention, the larger one of the first and last row."""
        rows = len(self.host_lens)
        return max(self._row_error(output, row) for row in {0, rows - 1})

    def _row_error(self, output: torch.Tensor, row: int) -> float:
        context = self.contexts[0]
        begin, end = int(self.starts[row]), int(self.starts[row + 1])
        length = int(self.host_lens[row])
        blocks = self.table[row, : -(-length // context.block_size)].long()
        seen = [as_bits(cache)[blocks].view(cache.dtype).float().flatten(0, 1)[:length]
                for cache in (context.key_cache, context.value_cache)]  # fmt: skip
        expected = dense_attention(self.query[begin:end], *seen)
        return float((output[begin:end] - expected).norm() / expected.norm())


def random_table(blocks: torch.Tensor) -> torch.Tensor:
    """[rows, most blocks] int32: the blocks that each of the rows needs, all in random order, then -1."""
    order, table = torch.randperm(int(blocks.sum())), torch.full((len(blocks), int(blocks.max())), -1)
    table[torch.arange(table.shape[1])[None] < blocks[:, None]] = order
    return table.int()
