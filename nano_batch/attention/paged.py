"""Paged attention as the package's users call it: checks first, then a backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from nano_batch._choices import check_choice
from nano_batch.attention import checks
from nano_batch.attention.base import AttentionBackend, PagedContext
from nano_batch.attention.cpu_backend import CpuAttention, cpu_refusal
from nano_batch.attention.cuda.backend import CudaAttention, decode_refusal
from nano_batch.attention.cuda.decode import paged_decode_writing
from nano_batch.attention.cuda.plan import DecodePlan
from nano_batch.attention.cuda.prefill import library_refusal, prefill_planned
from nano_batch.attention.cuda.prefill_plan import PrefillPlan
from nano_batch.attention.new_tokens import NewTokens
from nano_batch.attention.rope import Rope
from nano_batch.attention.torch_backend import TorchAttention
from nano_batch.cuda.available import why_not
from nano_batch.cuda.loud import say_once
from nano_batch.errors import DtypeError, InvalidArgumentError, NanoBatchError, ShapeError

Backend = Literal["auto", "cpu", "cuda", "torch"]
_TORCH: AttentionBackend = TorchAttention()
_CPU: AttentionBackend = CpuAttention()
_CUDA = CudaAttention()


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
    soft_cap: float | None = None,
    key_scale: float | torch.Tensor | None = None,
    value_scale: float | torch.Tensor | None = None,
    backend: Backend = "auto",
    validate: bool = True,
    plan: DecodePlan | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend from one new query a sequence to its keys in the paged cache.

    Args:
        query: [batch, num_heads, 1, head_dim] float16, bfloat16, float32 or float64, at position
            context_lens - 1 of its sequence.
        key_cache, value_cache: [num_blocks, block_size, num_kv_heads, head_dim] in the query's dtype, or both
            float8_e4m3fn; any strides; num_kv_heads divides num_heads.
        block_table: [batch, max_blocks] int32 or int64; position j of a sequence lies in block
            block_table[row, j // block_size] at offset j % block_size. Entries outside the range that the
            query sees are never read: -1 will do.
        context_lens: [batch] int32 or int64, the keys attended to, the query's own included; 0 gives zeros.
        block_size: token slots in a block, at least 1.
        scale: the factor on q k; None means 1 / sqrt(head_dim).
        sliding_window: w lets the query at i see the keys at j with i - w < j <= i.
        soft_cap: c makes c * tanh(score / c) of every scaled score.
        key_scale, value_scale: for a float8_e4m3fn cache, what stored keys and values are multiplied by: a
            number, or float32 [num_kv_heads]; None means 1.
        backend: "cuda" runs the CUDA kernels or raises, "cpu" those of the core for a processor, "torch"
            plain PyTorch. "auto" takes kernels where it can and PyTorch otherwise, and tells the logger
            `nano_batch.cuda` once which and why (as a warning when PyTorch computes on a CUDA device).
        validate: check the values of `block_table` and `context_lens`, for which the host waits for the
            device; False leaves them unread, and an entry out of range is then undefined
            behaviour.
        plan: the shares of the CUDA kernels' work, which depend on `context_lens` only: a model makes one
            `DecodePlan`, updates it once a step, and every layer uses it. None plans this call alone.
        out: with a plan, where the result goes: contiguous, of the query's shape and dtype. A row whose
            length was -1 when the plan was updated is left there as it is.

    Returns:
        [batch, num_heads, 1, head_dim] in the query's dtype. Sums are in float32 (float64 for float64).

    Raises:
        ShapeError, DtypeError, DeviceError, InvalidArgumentError, ContextLengthError, BlockRangeError,
        UnknownOptionError; with backend="cuda" MissingExtraError.

    Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention"
    (2023).
    """
    if query.dim() != 4 or query.shape[2] != 1:
        raise ShapeError(f"query has shape {list(query.shape)}; it needs [batch, num_heads, 1, head_dim]")
    rows = query.squeeze(2)
    checks.check_cache(rows, key_cache, value_cache, block_size)
    checks.check_rows(len(rows), block_table, context_lens, query.device)
    check_choice("backend", backend, Backend)
    context = _context(
        query, key_cache, value_cache, block_table, context_lens, scale, sliding_window, soft_cap, key_scale,
        value_scale,
    )  # fmt: skip
    if validate:
        longest = checks.check_values(key_cache, block_table, context_lens, None, context.sliding_window)
        context = replace(context, longest=longest)
    if plan is None:
        if out is not None:
            raise InvalidArgumentError("out is given without a plan; only the CUDA kernels take one")
        return _chosen("decode", backend, rows, context).decode(rows, context).unsqueeze(2)
    if backend in ("cpu", "torch"):
        raise InvalidArgumentError(f"a plan is given with {backend=}; only the CUDA kernels take one")
    refusal = _refusal("cuda", "decode", rows, context)
    if refusal is not None:
        raise type(refusal)(f"a plan is given, and only the CUDA kernels take one: {refusal}")
    return _CUDA.decode(rows, context, plan, None if out is None else out.squeeze(2)).unsqueeze(2)


def paged_attention_writing(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rope: Rope,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    plan: DecodePlan,
    *,
    scale: float | None = None,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """What `KVCache.write_kv` and `paged_attention_fwd` do for a step of decodes, in one kernel.

    The newest keys and values go from a model's product into the tiles that are attended to, and to the
    cache. No kernel is then between the two, and no value of a tensor is checked: where a table's entry is
    no block keys and values are zeros, and the newest, which are attended to, are not written; a length that
    the turns do not reach, or two rows with one newest slot are undefined behaviour.

    Args:
        query: [rows, num_heads, head_dim], not turned yet, and left so.
        keys, values: [rows, num_kv_heads, head_dim] of the newest tokens, which `context_lens` counts; keys
            are not turned yet. Each is written where the row's table has position context_lens - 1, at which
            it and the query are turned; of a row of length 0 or -1 nothing is.
        rope: the turn of every position; its positions are not read.
        plan: settled and updated; `plan.writes` says whether it can be taken here.
        key_cache, value_cache, block_table, context_lens, scale, sliding_window, soft_cap: as for
            `paged_attention_fwd`.

    Returns:
        [rows, num_heads, head_dim].

    Raises:
        ShapeError, DtypeError, DeviceError, InvalidArgumentError: nothing is written.
    """
    checks.check_cache(query, key_cache, value_cache, block_size=None)
    checks.check_rows(len(query), block_table, context_lens, query.device)
    if not plan.writes:
        raise InvalidArgumentError(
            "the plan writes no keys and values: it is not settled, or its tiles are not copied"
        )
    _, _, kv_heads, head_dim = key_cache.shape
    NewTokens(len(query), kv_heads, head_dim, key_cache.dtype, query.device).check(keys, values)
    rope.check(len(query), head_dim, query.device)
    context = _context(
        query, key_cache, value_cache, block_table, context_lens, scale, sliding_window, soft_cap, None, None
    )
    if refusal := _refusal("cuda", "decode", query, context):
        raise refusal
    return paged_decode_writing(query, keys, values, rope, context, plan)


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
    soft_cap: float | None = None,
    key_scale: float | torch.Tensor | None = None,
    value_scale: float | torch.Tensor | None = None,
    backend: Backend = "auto",
    validate: bool = True,
) -> torch.Tensor:
    """Attend from any number of new queries a sequence, causally, to cached and new keys in the paged cache.

    Row r's queries are query[query_start_loc[r] : query_start_loc[r + 1]], the last positions of its context;
    their own keys and values are in the cache already. Rows may have any mix of lengths, 0 and 1 included.

    Args:
        query: [tokens, num_heads, head_dim]; tokens past query_start_loc[-1] are padding and get zeros.
        context_lens: [rows], this step's tokens included; 0 gives zeros for all of the row's queries.
        query_start_loc: [rows + 1] int32 or int64, from 0, not decreasing.
        key_cache, value_cache, block_table, block_size, scale, sliding_window, soft_cap, key_scale,
            value_scale, validate: as in `paged_attention_fwd`. A row reads the table entries that any of its
            queries sees.
        backend: as in `paged_attention_fwd`; "cuda" takes a kernel, for what that does not take (other than
            on Hopper rows of more than 2,048 queries, too) a library over gathered keys, and for the rest
            plain PyTorch, with a warning.

    Returns:
        [tokens, num_heads, head_dim] in the query's dtype.

    Raises:
        As `paged_attention_fwd`.
    """
    if query.dim() != 3:
        raise ShapeError(f"query has shape {list(query.shape)}; it needs [tokens, num_heads, head_dim]")
    checks.check_cache(query, key_cache, value_cache, block_size)
    checks.check_rows(len(context_lens), block_table, context_lens, query.device)
    checks.check_starts(len(context_lens), query_start_loc, query.device)
    check_choice("backend", backend, Backend)
    context = _context(
        query, key_cache, value_cache, block_table, context_lens, scale, sliding_window, soft_cap, key_scale,
        value_scale,
    )  # fmt: skip
    if validate:
        checks.check_start_values(query_start_loc, len(query))
        lengths = query_start_loc.diff()
        checks.check_values(key_cache, block_table, context_lens, lengths, context.sliding_window)
    return _chosen("prefill", backend, query, context).prefill(query, query_start_loc, context)


def paged_attention_planned(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    plan: PrefillPlan,
    *,
    scale: float | None = None,
    key_scale: float | torch.Tensor | None = None,
    value_scale: float | torch.Tensor | None = None,
    rope: Rope | None = None,
    turned: int = 0,
) -> torch.Tensor:
    """Do what `paged_attention_prefill` does on CUDA, from a plan that all layers of a step share.

    Nothing waits for the device; of a `PrefillPlan.of_arrays`, a CUDA graph can hold it.

    Args:
        query: [tokens, num_heads, head_dim] float16 or bfloat16.
        plan: made for these queries.
        key_cache, value_cache, scale, key_scale, value_scale: as for `paged_attention_fwd`.
        rope: turns the queries that are not turned yet where they are read, and leaves them as they are in
            the tensor; only where `cuda.prefill.is_by_kernel`. None: all queries are turned.
        turned: with `rope`, how many tokens at the start have queries that are turned.

    Returns:
        [tokens, num_heads, head_dim] in the query's dtype; for tokens of no row zeros, or anything where the
        plan is one of arrays; those before the first row are not written.

    Raises:
        ShapeError, DtypeError, DeviceError, InvalidArgumentError; DtypeError, too, where the library that
        attends does not take the case.
    """
    checks.check_cache(query, key_cache, value_cache, key_cache.shape[1])
    if rope is not None:
        rope.check(len(query), query.shape[-1], query.device)
        if not 0 <= turned <= len(query):
            raise InvalidArgumentError(f"turned={turned}; there are {len(query)} tokens")
    scale = checks.checked_scale(scale, query.shape[-1])
    cache = key_cache.dtype, key_cache.shape[2], query.device
    if refusal := library_refusal(query, key_cache, value_cache, scale):
        raise DtypeError(refusal)
    return prefill_planned(
        query, key_cache, value_cache, plan, scale=scale, rope=rope, turned=turned,
        key_scale=checks.checked_kv_scale("key_scale", key_scale, *cache),
        value_scale=checks.checked_kv_scale("value_scale", value_scale, *cache),
    )  # fmt: skip


def _context(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float | None,
    sliding_window: int | None,
    soft_cap: float | None,
    key_scale: float | torch.Tensor | None,
    value_scale: float | torch.Tensor | None,
) -> PagedContext:
    """What rows of queries attend to, its options checked and resolved."""
    cache = key_cache.dtype, key_cache.shape[2], query.device
    return PagedContext(
        key_cache, value_cache, block_table, context_lens,
        scale=checks.checked_scale(scale, query.shape[-1]),
        sliding_window=checks.checked_window(sliding_window),
        soft_cap=checks.checked_soft_cap(soft_cap),
        key_scale=checks.checked_kv_scale("key_scale", key_scale, *cache),
        value_scale=checks.checked_kv_scale("value_scale", value_scale, *cache),
    )  # fmt: skip


def _chosen(
    what: Literal["decode", "prefill"], backend: Backend, query: torch.Tensor, context: PagedContext
) -> AttentionBackend:
    """The backend asked for, or for "auto" that of the device unless there is a refusal; says which."""
    wanted: Backend = backend
    if backend == "auto":
        wanted = "cuda" if query.device.type != "cpu" else "cpu"
    if wanted == "torch":
        return _TORCH
    refusal = _refusal(wanted, what, query, context)
    if refusal is None:
        say_once(f"paged attention ({what}) runs in kernels on {query.device}", warn=False)
        return _CPU if wanted == "cpu" else _CUDA
    if backend != "auto":
        raise type(refusal)(f"{backend=}: {refusal}")
    say_once(f"paged attention ({what}) runs in plain PyTorch: {refusal}", warn=query.is_cuda)
    return _TORCH


def _refusal(
    backend: Backend, what: Literal["decode", "prefill"], query: torch.Tensor, context: PagedContext
) -> NanoBatchError | None:
    """Why kernels do not take a case; None where they do."""
    if backend == "cpu":
        return cpu_refusal(query, context)
    refusal = why_not(query.device)
    if refusal is None and what == "decode":
        return decode_refusal(query, context.key_cache, context.value_cache)
    return refusal
