"""Where a step's prompts find the keys that they see: looked up once, for all layers."""

from __future__ import annotations

import torch


class PrefillPlan:
    """Where a step's rows of queries find the keys that they see: made once, used by every layer.

    Args:
        query_start_loc, context_lens, block_table: as for `paged_attention_prefill`; the first row may begin
            behind other tokens, whose results are then left as the allocator gave them.
        block_size: token slots in a block.
        sliding_window: as for `paged_attention_prefill`.
        host_lengths: (query_start_loc, context_lens) as int64 tensors on the host, where they are known;
            None reads them from the device, for which the host waits.
    """

    def __init__(
        self,
        query_start_loc: torch.Tensor,
        context_lens: torch.Tensor,
        block_table: torch.Tensor,
        block_size: int,
        *,
        sliding_window: int | None = None,
        host_lengths: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """Look up the slot of every key that is seen."""
        starts, lens = query_start_loc.long(), context_lens.long()
        if host_lengths is None:
            host = torch.cat([starts, lens]).cpu()  # the one wait for the device
            host_lengths = host[: len(starts)], host[len(starts) :]
        host_starts, host_lens = host_lengths
        queries = host_starts.diff()
        self.rows, self.window = len(lens), sliding_window
        self.tokens = int(host_starts[-1])
        self.starts = starts.int()  # [rows + 1]
        self.most_queries = int(queries.max()) if self.rows else 0
        self.padding = [  # (first, end) of tokens that see nothing
            (int(host_starts[row]), int(host_starts[row + 1]))
            for row in torch.nonzero((host_lens == 0) & (queries > 0)).flatten().tolist()
        ]
        host_counts, _ = _counts(queries, host_lens, sliding_window)
        self.most_seen = int(host_counts.max()) if self.rows else 0
        counts, oldest = _counts(starts.diff(), lens, sliding_window)
        ends = counts.cumsum(0)
        self.seen_starts = torch.cat([ends.new_zeros(1), ends]).int()  # [rows + 1]
        self.slots = _slots(counts, ends, oldest, int(host_counts.sum()), block_table, block_size)  # [seen]

    @classmethod
    def of_arrays(
        cls,
        starts: torch.Tensor,
        seen_starts: torch.Tensor,
        slots: torch.Tensor,
        *,
        tokens: int,
        sliding_window: int | None = None,
    ) -> PrefillPlan:
        """A plan over arrays that someone else fills, of which only the sizes are known, for CUDA graphs.

        Args:
            starts, seen_starts: [rows + 1] int32: where each row's queries begin among the tokens, and its
                keys among the slots; rows without queries come last.
            slots: [at most that many] int64: of the keys, row after row; -1 where there is none.
            tokens: queries there is room for.
            sliding_window: as for `paged_attention_prefill`.
        """
        plan = cls.__new__(cls)
        plan.rows, plan.window, plan.tokens, plan.padding = len(starts) - 1, sliding_window, tokens, []
        plan.starts, plan.seen_starts, plan.slots = starts, seen_starts, slots
        plan.most_queries, plan.most_seen = tokens, len(slots)
        return plan

    def __repr__(self) -> str:
        return f"PrefillPlan: {self.tokens:,} queries of {self.rows:,} rows see {len(self.slots):,} keys"


def _slots(
    counts: torch.Tensor, ends: torch.Tensor, oldest: torch.Tensor, total: int, table: torch.Tensor, size: int
) -> torch.Tensor:
    row = torch.repeat_interleave(counts, output_size=total)  # of each seen key
    position = torch.arange(total, device=counts.device) + (oldest - ends + counts)[row]
    return table[row, position // size].long() * size + position % size


def _counts(
    queries: torch.Tensor, lens: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many keys each row's queries see, and the position of the first of them."""
    oldest = torch.zeros_like(lens) if window is None else (lens - queries - window + 1).clamp(min=0)
    return torch.where((queries > 0) & (lens > 0), lens - oldest, 0), oldest
