"""Log-probabilities of sampled tokens and of the likeliest ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nano_batch.display import Shown
from nano_batch.engine.outputs import TokenLogprobs
from nano_batch.engine.sampling_params import MAX_LOGPROBS


@dataclass(frozen=True, eq=False, repr=False)
class Logprobs(Shown):
    """What the model itself says, before penalties, temperature and filters; for the rows that ask.

    `top_ids` and `top` have min(20, vocab_size) columns, the likeliest first; a request that asks for fewer
    takes the first ones. Rows without a token have NaN.
    """

    rows: npt.NDArray[np.int64]  # [asking], on the host: which of the step's samples these are
    chosen: torch.Tensor  # [asking] float32, of the sampled token
    top_ids: torch.Tensor  # [asking, columns] int64
    top: torch.Tensor  # [asking, columns] float32

    def __repr__(self) -> str:
        return f"Logprobs: {len(self.rows)} rows, the likeliest {self.top.shape[1]} tokens of each"

    def to_host(self) -> Logprobs:
        """A copy in pinned memory, complete once the device's stream has come here."""
        parts = (part.to("cpu", non_blocking=True) for part in (self.chosen, self.top_ids, self.top))
        return Logprobs(self.rows, *parts)

    def of_sample(self, sample: int, count: int) -> TokenLogprobs:
        """What is told of one of the step's samples, with the `count` likeliest. Waits for the device."""
        row = int(np.searchsorted(self.rows, sample))
        ids, top = self.top_ids[row, :count].tolist(), self.top[row, :count].tolist()
        return TokenLogprobs(float(self.chosen[row]), ids, top)

    @classmethod
    def of(cls, rows: npt.NDArray[np.int64], logits: torch.Tensor, tokens: torch.Tensor) -> Logprobs:
        """Take the raw logits, float32 [asking, vocab_size], and tokens, int64 [asking], of these rows."""
        every = logits.log_softmax(dim=-1)
        chosen = every.gather(1, tokens.clamp(min=0)[:, None]).squeeze(1)
        # Always as many columns: of equal values, which are among the last may depend on their number.
        top = every.topk(min(MAX_LOGPROBS, logits.shape[1]), dim=-1)
        return cls(rows, chosen.masked_fill_(tokens < 0, torch.nan), top.indices, top.values)
