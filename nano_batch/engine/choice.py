"""Choosing a token: the likeliest, or one drawn by weights that are whole numbers.

Probabilities become whole numbers because sums of these are exact in every order: what is drawn does not
depend on how a device adds, and a cumulative sum never falls.
"""

from __future__ import annotations

import torch

#: the weight of a row's likeliest token; a token less likely by more than this factor is never drawn
UNIT = 2**40
#: weights of so many tokens can be summed, and ordered with their ids, within 63 bits
MAX_VOCAB = 2**22
#: what stands for the token of a row that has none
NO_TOKEN = -1


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row, the smallest id of equals; −1 where there is none.

    Static shapes and no wait for the device: it may be part of a CUDA graph.

    Args:
        logits: [samples, vocab_size], of any float dtype. A row has no token where it holds NaN or +inf, or
            −inf alone: its largest logit is then not finite.

    Returns:
        int64 [samples].
    """
    return likeliest(logits)[1]


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's largest logit [samples], and what `greedy` returns."""
    largest, tokens = logits.max(dim=-1)
    return largest, torch.where(largest.isfinite(), tokens, NO_TOKEN)


def weights_of(logits: torch.Tensor, largest: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """The softmax of float32 logits [rows, vocab_size] at a temperature [rows], as whole numbers.

    Returns int64 [rows, vocab_size]: `UNIT` for the largest logit [rows], others in proportion, rounded
    down. Rows without a finite largest logit have weights without a meaning.
    """
    # The largest is subtracted first, so that no quotient overflows to +inf.
    exponents = (logits - largest[:, None]).div_(temperature[:, None])
    return exponents.exp_().mul_(UNIT).to(torch.int64)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """A token of each row with a probability in proportion to its weight: the cumulative sum is inverted.

    Args:
        weights: int64 [rows, vocab_size], 0 to `UNIT`.
        uniform: float64 [rows] in [0, 1).

    Returns:
        int64 [rows]; tokens of weight 0 are never drawn. A row without any weight yields `vocab_size`.
    """
    sums = weights.cumsum(dim=-1)
    totals = sums[:, -1]
    # Rounding never takes it up to the total: uniform is at most the float64 before 1.
    target = (uniform * totals.double()).to(torch.int64)
    return torch.searchsorted(sums, target[:, None], right=True).squeeze(1)
