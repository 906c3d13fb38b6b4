"""Plain dense attention: the definition that every paged form is compared with."""

from __future__ import annotations

import torch


def dense_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    scale: float | None = None,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Attend causally in float64, one sequence, no cache: softmax(q k / sqrt(d)) v.

    Args:
        query: [queries, num_heads, head_dim], the last `queries` positions of the sequence.
        keys, values: [positions, num_kv_heads, head_dim]; head h reads key/value head h // (num_heads //
            num_kv_heads).
        scale: the factor on q k; None means 1 / sqrt(head_dim).
        sliding_window: w lets the query at i see the keys at j with i - w < j <= i; None, all j <= i.
        soft_cap: c makes c * tanh(score / c) of every scaled score; None leaves them.

    Returns:
        [queries, num_heads, head_dim] float64; zeros where there is no key.

    Source: Vaswani et al., "Attention Is All You Need" (2017), with the grouped heads of Ainslie et al.,
    "GQA" (2023); the soft cap is that of Gemma Team, "Gemma 2" (2024).
    """
    query, keys, values = query.double(), keys.double(), values.double()
    queries, num_heads, head_dim = query.shape
    positions, kv_heads, _ = keys.shape
    if positions == 0:
        return torch.zeros_like(query)
    keys = keys.repeat_interleave(num_heads // kv_heads, dim=1)
    values = values.repeat_interleave(num_heads // kv_heads, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query, keys) * (head_dim**-0.5 if scale is None else scale)
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    at_query = torch.arange(positions - queries, positions, device=query.device)[:, None]
    at_key = torch.arange(positions, device=query.device)[None]
    seen = at_key <= at_query
    if sliding_window is not None:
        seen &= at_key > at_query - sliding_window
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, values)
