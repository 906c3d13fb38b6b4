"""Each lane's newest token, which stays on the device: a step begins with it, and leaves the next.

Of the place after the last lane, which is that of lane -1: padding reads and writes it.
"""

from __future__ import annotations

import torch

from nano_batch.cuda.available import why_not
from nano_batch.cuda.operator import operator
from nano_batch.cuda.vectors import KERNEL_DTYPES
from nano_batch.engine.choice import greedy
from nano_batch.engine.cuda import newest as on_cuda


def _fake_begin(given: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(given, dtype=torch.int64), torch.empty_like(given, dtype=torch.int64)


def _fake_tokens(logits: torch.Tensor, *_: object) -> torch.Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


@operator(_fake_begin)
def begin_step(
    given: torch.Tensor, lanes: torch.Tensor, positions: torch.Tensor, newest: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A step's tokens, those that the host does not know among them, and their positions as int64.

    Args:
        given: [tokens] int32, -1 for one that is its lane's newest.
        lanes: [tokens] int32, -1 for padding.
        positions: [tokens] int32.
        newest: [lanes + 1] int64; -1 where a lane's logits were no numbers, for which any token will do.

    Returns:
        Tokens and positions, int64 [tokens] each.
    """
    arrays = given, lanes, positions
    if given.is_cuda and why_not(given.device) is None and all(array.is_contiguous() for array in arrays):
        return on_cuda.begin_step(*arrays, newest)
    return torch.where(given < 0, newest[lanes.long()].clamp(min=0), given.long()), positions.long()


@operator(_fake_tokens, "newest")
def take_likeliest(logits: torch.Tensor, lanes: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row, as `choice.greedy` says it, which becomes its lane's newest.

    Args:
        logits: [samples, vocab_size], of any float dtype.
        lanes: [samples] int32, -1 for padding.
        newest: [lanes + 1] int64.

    Returns:
        int64 [samples].
    """
    known = logits.dtype in KERNEL_DTYPES and logits.stride(-1) == 1 and lanes.is_contiguous()
    if logits.is_cuda and why_not(logits.device) is None and known:
        return on_cuda.take_likeliest(logits, lanes, newest)
    tokens = greedy(logits)
    newest[lanes.long()] = tokens
    return tokens
