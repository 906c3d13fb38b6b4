"""What the tokens so far do to the logits: penalties, and stop tokens barred from short outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

Tokens = Sequence[int] | npt.NDArray[np.integer]


class TokenHistory:
    """Which tokens each lane's prompt and output hold, on the device."""

    def __init__(self, lanes: int, vocab_size: int, device: torch.device) -> None:
        """Allocate 5 bytes a lane and token of the vocabulary."""
        self._in_prompt = torch.zeros(lanes, vocab_size, dtype=torch.bool, device=device)
        self._counts = torch.zeros(lanes, vocab_size, dtype=torch.int32, device=device)

    def admit(self, lane: int, prompt: Tokens, output: Tokens) -> None:
        """Replace what is known of a lane by these tokens."""
        mark(self._in_prompt[lane], prompt)
        counts, ids = self._counts[lane].zero_(), on_device(output, self._counts.device)
        counts.index_add_(0, ids, torch.ones_like(ids, dtype=torch.int32))

    def add(self, lanes: torch.Tensor, tokens: torch.Tensor) -> None:
        """Count `tokens` of `lanes`, both int64 [rows], no lane twice; −1 counts for nothing."""
        counts = self._counts[lanes, tokens.clamp(min=0)]
        self._counts[lanes, tokens.clamp(min=0)] = counts + (tokens >= 0).int()

    def penalise(
        self,
        logits: torch.Tensor,
        lanes: torch.Tensor,
        repetition: torch.Tensor,
        presence: torch.Tensor,
        frequency: torch.Tensor,
    ) -> torch.Tensor:
        """Penalise tokens of the prompt or the output (repetition) and of the output (the others).

        Args:
            logits: float32 [rows, vocab_size].
            lanes: int64 [rows]; the penalties are float32 [rows].

        Returns:
            float32 [rows, vocab_size], new.
        """
        counts = self._counts[lanes]
        held = counts > 0
        factor = repetition[:, None]
        repeated = torch.where(logits > 0, logits / factor, logits * factor)
        logits = torch.where(held | self._in_prompt[lanes], repeated, logits)
        return logits - held * presence[:, None] - counts * frequency[:, None]


class StopTokens:
    """The tokens that would end each lane's output, on the device."""

    def __init__(self, lanes: int, vocab_size: int, device: torch.device) -> None:
        """Allocate a byte a lane and token of the vocabulary."""
        self._stops = torch.zeros(lanes, vocab_size, dtype=torch.bool, device=device)

    def admit(self, lane: int, tokens: Tokens) -> None:
        """Replace a lane's stop tokens."""
        mark(self._stops[lane], tokens)

    def bar(self, logits: torch.Tensor, lanes: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
        """Give −inf to the stop tokens of `lanes` (int64 [rows]) where an output is `short` (bool [rows]).

        A stop token may be the last of `min_tokens`, as the scheduler counts them.
        """
        return logits.masked_fill(self._stops[lanes] & short[:, None], -torch.inf)


def mark(row: torch.Tensor, tokens: Tokens) -> None:
    """Make a row of flags [vocab_size] True at the tokens and False elsewhere."""
    row.zero_().index_fill_(0, on_device(tokens, row.device), True)


def on_device(values: Tokens, device: torch.device) -> torch.Tensor:
    """Whole numbers as int64 on the device, without a wait for it."""
    return torch.from_numpy(np.array(values, dtype=np.int64)).to(device, non_blocking=True)
