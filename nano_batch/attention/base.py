"""What a paged attention backend is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class PagedContext:
    """The keys and values that rows of queries attend to. All tensors lie on one device.

    `longest` is the largest context length, where the host knows it; None spares the device a wait.
    """

    key_cache: (
        torch.Tensor
    )  # [num_blocks, block_size, num_kv_heads, head_dim], any strides; the query's dtype
    # or float8_e4m3fn
    value_cache: torch.Tensor  # the same
    block_table: torch.Tensor  # [rows, max_blocks] int32 or int64; -1 where a row has no block
    context_lens: torch.Tensor  # [rows] int32 or int64, keys up to and including the row's last query
    scale: float
    sliding_window: int | None  # the query at i sees the keys at j with i - window < j <= i
    longest: int | None = None
    soft_cap: float | None = None  # c makes c * tanh(score / c) of every scaled score
    key_scale: float | torch.Tensor = 1.0  # of a float8_e4m3fn cache: keys are stored * scale;
    value_scale: float | torch.Tensor = 1.0  # a tensor is [num_kv_heads] float32

    @property
    def block_size(self) -> int:
        """Token slots in a block."""
        return self.key_cache.shape[1]


class AttentionBackend(Protocol):
    """A way to compute paged attention. Shapes, dtypes and devices were checked before it is called.

    A backend reads no table entry outside the range that a row's queries see, lets no value in an unread slot
    reach a result, and gives zeros to a row with context 0.
    """

    def decode(self, query: torch.Tensor, context: PagedContext) -> torch.Tensor:
        """One query a row, its last position: [rows, num_heads, head_dim] -> the same shape and dtype."""
        ...

    def prefill(
        self, query: torch.Tensor, query_start_loc: torch.Tensor, context: PagedContext
    ) -> torch.Tensor:
        """Row r's queries are query_start_loc[r] to query_start_loc[r + 1], its last positions, causal.

        [tokens, num_heads, head_dim] -> the same shape and dtype; tokens that belong to no row get zeros.
        """
        ...
