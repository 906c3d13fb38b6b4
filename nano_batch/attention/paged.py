"""Paged attention as the package's users call it: checks first, then a backend."""

from __future__ import annotations

import torch

from nano_batch.attention import checks
from nano_batch.attention.base import AttentionBackend, PagedContext
from nano_batch.attention.torch_backend import TorchAttention
from nano_batch.errors import ShapeError

_TORCH: AttentionBackend = TorchAttention()


def paged_attention_fwd(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    block_size: int,
    *,
    scale: float | None = None,
    sliding_window: int | None = None,
    validate: bool = True,
) -> torch.Tensor:
    """Attend from one new query a sequence to its keys in the paged cache.

    Args:
        query: [batch, num_heads, 1, head_dim] float16, bfloat16, float32 or float64, at position
            context_lens - 1 of its sequence.
        key_cache, value_cache: [num_blocks, block_size, num_kv_heads, head_dim] in the query's dtype, any
            strides; num_kv_heads divides num_heads.
        block_table: [batch, max_blocks] int32 or int64; position j of a sequence lies in block
            block_table[row, j // block_size] at offset j % block_size. Entries outside the range that the
            query
            sees are never read: -1 will do.
        context_lens: [batch] int32 or int64, the keys attended to, the query's own included; 0 gives zeros.
        block_size: token slots in a block, at least 1.
        scale: the factor on q k; None means 1 / sqrt(head_dim).
        sliding_window: w lets the query at i see the keys at j with i - w < j <= i.
        validate: check the values of `block_table` and `context_lens`, for which the host waits for the
        device;
            False leaves them unread, and an entry out of range is then undefined behaviour.

    Returns:
        [batch, num_heads, 1, head_dim] in the query's dtype. Sums are in float32 (float64 for float64).

    Raises:
        ShapeError, DtypeError, DeviceError, InvalidArgumentError, ContextLengthError, BlockRangeError.

    Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention"
    (2023).
    """
    if query.dim() != 4 or query.shape[2] != 1:
        raise ShapeError(f"query has shape {list(query.shape)}; it needs [batch, num_heads, 1, head_dim]")
    rows = query.squeeze(2)
    checks.check_cache(rows, key_cache, value_cache, block_size)
    checks.check_rows(len(rows), block_table, context_lens, query.device)
    chosen = checks.checked_scale(scale, query.shape[-1]), checks.checked_window(sliding_window)
    longest = None
    if validate:
        longest = checks.check_values(key_cache, block_table, context_lens, None, chosen[1])
    context = PagedContext(key_cache, value_cache, block_table, context_lens, *chosen, longest)
    return _TORCH.decode(rows, context).unsqueeze(2)


def paged_attention_prefill(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    query_start_loc: torch.Tensor,
    block_size: int,
    *,
    scale: float | None = None,
    sliding_window: int | None = None,
    validate: bool = True,
) -> torch.Tensor:
    """Attend from any number of new queries a sequence, causally, to cached and new keys in the paged cache.

    Row r's queries are query[query_start_loc[r] : query_start_loc[r + 1]], the last positions of its context;
    their own keys and values are in the cache already. Rows may have any mix of lengths, 0 and 1 included.

    Args:
        query: [tokens, num_heads, head_dim]; tokens past query_start_loc[-1] are padding and get zeros.
        context_lens: [rows], this step's tokens included; 0 gives zeros for all of the row's queries.
        query_start_loc: [rows + 1] int32 or int64, from 0, not decreasing.
        key_cache, value_cache, block_table, block_size, scale, sliding_window, validate: as in
            `paged_attention_fwd`. A row reads the table entries that any of its queries sees.

    Returns:
        [tokens, num_heads, head_dim] in the query's dtype.

    Raises:
        ShapeError, DtypeError, DeviceError, InvalidArgumentError, ContextLengthError, BlockRangeError.
    """
    if query.dim() != 3:
        raise ShapeError(f"query has shape {list(query.shape)}; it needs [tokens, num_heads, head_dim]")
    checks.check_cache(query, key_cache, value_cache, block_size)
    checks.check_rows(len(context_lens), block_table, context_lens, query.device)
    checks.check_starts(len(context_lens), query_start_loc, query.device)
    chosen = checks.checked_scale(scale, query.shape[-1]), checks.checked_window(sliding_window)
    if validate:
        checks.check_start_values(query_start_loc, len(query))
        checks.check_values(key_cache, block_table, context_lens, query_start_loc.diff(), chosen[1])
    context = PagedContext(key_cache, value_cache, block_table, context_lens, *chosen)
    return _TORCH.prefill(query, query_start_loc, context)
