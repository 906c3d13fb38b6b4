"""Paged prefill on CUDA: by this package's kernel (`prefill_kernel.py`), or by a library.

For the library the keys that a row's queries see are gathered, then attended to densely: a gathered key is
written and read once more for all the queries of its row, which cost far more to multiply than it does to
move; the attention itself is PyTorch's FlashAttention over rows of different lengths.
Source: Dao, "FlashAttention-2" (2023).

A float8_e4m3fn cache is attended to in float16 whatever the query's dtype: rounding stored * scale to
bfloat16 would cost more than all the rest. What float16 cannot hold, beyond 65504, becomes infinite in plain
sight.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, cast

import torch

from nano_batch.attention.cache_ops import gather_kv
from nano_batch.attention.cuda.prefill_kernel import kernel_refusal, prefill_by_kernel
from nano_batch.attention.cuda.prefill_plan import PrefillPlan
from nano_batch.attention.fp8 import QUANTISED
from nano_batch.attention.rope import Rope
from nano_batch.cuda.launch import is_hopper
from nano_batch.cuda.vectors import SIXTEEN_BITS
from nano_batch.errors import InvalidArgumentError

LARGEST_HEAD_DIM = 256
LONG = 2048
"""Queries of a row beyond which the library is faster, other than on Hopper (docs/notes/attention.md)."""


def prefill_planned(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    plan: PrefillPlan,
    *,
    scale: float,
    rope: Rope | None = None,
    turned: int = 0,
    **kv_scales: float | torch.Tensor | None,
) -> torch.Tensor:
    """Attend by this package's kernel, or by a library (`prefill_by_library` has the arguments).

    Only where `library_refusal` finds no reason; with `rope` only where `is_by_kernel`.
    """
    if is_by_kernel(query, key_cache, value_cache, plan):
        return prefill_by_kernel(query, key_cache, value_cache, plan, scale, rope, turned)
    if rope is not None:
        raise InvalidArgumentError("rope is given, and the library that attends here turns no queries")
    return prefill_by_library(query, key_cache, value_cache, plan, scale=scale, **kv_scales)


def is_by_kernel(
    query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, plan: PrefillPlan
) -> bool:
    """Whether this package's kernel attends, which can turn queries, and not a library.

    It is made for prompts of ordinary length, of which a library's tiles waste much; on Hopper it is the
    faster one for all.
    """
    traced = torch.compiler.is_compiling()  # which knows no addresses, for the kernel to be refused
    takes = not traced and (plan.most_queries <= LONG or is_hopper(query.device))
    return takes and kernel_refusal(query, key_cache, value_cache) is None


def library_refusal(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> str | None:
    """The reason why the library does not take this case; None where it does."""
    head_dim = query.shape[-1]
    if _options() is None:
        return f"PyTorch {torch.__version__} has no attention over rows of different lengths with a window"
    if query.dtype not in SIXTEEN_BITS:
        return f"the library takes float16 and bfloat16, not {query.dtype}"
    if head_dim % 8 or head_dim > LARGEST_HEAD_DIM:
        return f"the library takes head dims that are multiples of 8 up to {LARGEST_HEAD_DIM}, not {head_dim}"
    if soft_cap is not None:
        return f"the library has no soft cap; it is {soft_cap}"
    if scale <= 0:
        return f"the library takes scales above 0, not {scale}"
    for tensor in (key_cache, value_cache):
        if tensor.stride(-1) != 1:
            return f"a cache has strides {tensor.stride()}; the last needs to be 1"
    return None


def prefill_by_library(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    plan: PrefillPlan,
    *,
    scale: float,
    key_scale: float | torch.Tensor | None = None,
    value_scale: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend as the plan says: see `AttentionBackend.prefill`; only where `library_refusal` finds no reason.

    A token that belongs to no row gets zeros, or in a plan of arrays anything. float8_e4m3fn caches have
    scales, other caches have none.
    """
    if plan.most_seen == 0:
        return torch.zeros_like(query, memory_format=torch.contiguous_format)
    quantised = key_cache.dtype == QUANTISED
    dtype = torch.float16 if quantised else query.dtype
    shape = (len(plan.slots), *key_cache.shape[2:])
    keys, values = (torch.empty(shape, dtype=dtype, device=query.device) for _ in range(2))
    scales = [_per_head(one, key_cache) if quantised else None for one in (key_scale, value_scale)]
    gather_kv(keys, values, key_cache, value_cache, plan.slots, *scales)
    window = -1 if plan.window is None else plan.window - 1
    attended = _varlen(
        query[: plan.tokens].to(dtype), keys, values, plan.starts, plan.seen_starts,
        plan.most_queries, plan.most_seen, scale=scale, window_size=(window, 0), **(_options() or {}),
    ).to(query.dtype)  # fmt: skip
    for first, end in plan.padding:
        attended[first:end] = 0
    rest = len(query) - plan.tokens
    return torch.cat([attended, attended.new_zeros(rest, *attended.shape[1:])]) if rest else attended


def _per_head(scale: float | torch.Tensor | None, cache: torch.Tensor) -> torch.Tensor:
    if isinstance(scale, torch.Tensor):
        return scale
    return torch.full(cache.shape[2:3], 1.0 if scale is None else scale, device=cache.device)


def _varlen(*args: Any, **options: Any) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    return cast(torch.Tensor, varlen_attn(*args, **options))


@cache
def _options() -> dict[str, Any] | None:
    """What this version's function must be told about grouped heads; None where it has no windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if "window_size" not in known or "scale" not in known:
        return None
    return {"enable_gqa": True} if "enable_gqa" in known else {}
