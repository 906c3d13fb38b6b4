"""What may be drawn: top-k, top-p and min-p on weights that are whole numbers."""

from __future__ import annotations

import torch

from nano_batch.engine.choice import MAX_VOCAB, UNIT

ID_BITS = MAX_VOCAB.bit_length() - 1


def keep_top(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, widest: int) -> torch.Tensor:
    """Set the weight of all but the likeliest tokens to 0; of equally likely ones the smallest ids stay.

    The `top_k` likeliest stay, and of these the fewest that have at least the share `top_p` of their
    weight: a token stays where those before it have less.

    Args:
        weights: int64 [rows, vocab_size].
        top_k: int64 [rows], 1 to vocab_size (all).
        top_p: float64 [rows], above 0 and at most 1 (all).
        widest: the largest top_k, known on the host: so many are put in order.

    Returns:
        int64 [rows, vocab_size].
    """
    keys = _ordered_keys(weights)
    whole = widest >= weights.shape[1]
    ordered = keys.sort(dim=-1, descending=True).values if whole else keys.topk(widest, dim=-1).values
    ranks = torch.arange(ordered.shape[1], device=ordered.device)
    likely = (ordered >> ID_BITS).masked_fill_(ranks >= top_k[:, None], 0)
    sums = likely.cumsum(dim=-1)
    enough = (sums - likely).double() < top_p[:, None] * sums[:, -1:].double()
    # At top_p = 1 rounding to float64 must not cost a token. What is ranked past top_k has no weight.
    kept = ((enough | (top_p[:, None] >= 1)) & (likely > 0)).sum(dim=-1, keepdim=True)
    # What stays is the beginning of the order, so the last key of it bounds it.
    bound = ordered.gather(1, (kept - 1).clamp_(min=0))
    return weights.masked_fill(keys < bound, 0)


def keep_min_p(weights: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Set weights (int64 [rows, vocab_size]) below the share `min_p` (float64 [rows]) of the largest to 0."""
    return weights.masked_fill(weights < (min_p * UNIT).ceil().to(torch.int64)[:, None], 0)


def _ordered_keys(weights: torch.Tensor) -> torch.Tensor:
    """Weight and id in one number: no two are equal, so that every way of sorting gives one order."""
    ids = torch.arange(weights.shape[1], device=weights.device)
    return (weights << ID_BITS) | (MAX_VOCAB - 1 - ids)
