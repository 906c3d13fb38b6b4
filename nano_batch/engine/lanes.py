"""The sampling parameters of each lane: numbers on the device, and on the host who uses what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from nano_batch.engine.random_numbers import stream_of
from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.errors import InvalidArgumentError

Rows = npt.NDArray[np.int64]

# The columns of the numbers on the device, one row a lane.
TEMPERATURE, TOP_P, MIN_P, REPETITION, PRESENCE, FREQUENCY = range(6)
STREAM, PLACE, TOP_K, MIN_TOKENS = range(4)
# The columns of the flags on the host.
TAKEN, GREEDY, DRAWS, USES_MIN_P, PENALISED, BARRED, USES_TOP, LOGPROBS = range(8)


class LaneParameters:
    """Written when a lane is taken. What to compute is decided on the host, which never reads the device."""

    def __init__(self, lanes: int, vocab_size: int, device: torch.device) -> None:
        """Begin with lanes that nobody has taken."""
        self.params: list[SamplingParams | None] = [None] * lanes
        self._vocab_size = vocab_size
        self._flags = np.zeros((lanes, 8), dtype=bool)
        self._top_k = np.zeros(lanes, dtype=np.int64)
        # float64, for a top_p of float32 would be another one.
        self._numbers = torch.zeros(lanes, 6, dtype=torch.float64, device=device)
        self._counts = torch.zeros(lanes, 4, dtype=torch.int64, device=device)

    def admit(self, lane: int, params: SamplingParams, sequence_index: int, place: int) -> None:
        """Write a lane's parameters; the next token is the one at `place` of the output."""
        top_k = min(params.top_k or self._vocab_size, self._vocab_size)
        self.params[lane], self._top_k[lane] = params, top_k
        self._flags[lane] = (
            True, params.greedy, params.temperature > 0, params.min_p > 0, params.penalised,
            params.min_tokens > 1, top_k < self._vocab_size or params.top_p < 1, params.logprobs is not None,
        )  # fmt: skip
        numbers = (
            params.temperature, params.top_p, params.min_p,
            params.repetition_penalty, params.presence_penalty, params.frequency_penalty,
        )  # fmt: skip
        counts = stream_of(params.seed or 0, sequence_index), place, top_k, params.min_tokens
        self._numbers[lane].copy_(torch.tensor(numbers, dtype=torch.float64), non_blocking=True)
        self._counts[lane].copy_(torch.tensor(counts, dtype=torch.int64), non_blocking=True)

    def of(self, lanes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers, float64 [6, rows], and counts, int64 [4, rows], of `lanes` (int64 [rows])."""
        return self._numbers[lanes].T, self._counts[lanes].T

    def advance(self, lanes: torch.Tensor) -> None:
        """Move `lanes` (int64 [rows], no lane twice) to the next place of their outputs."""
        self._counts[:, PLACE].index_add_(0, lanes, torch.ones_like(lanes))

    def users(self, lanes: Rows) -> Users:
        """Who of a step uses what. Raises `InvalidArgumentError` where nobody has taken a lane."""
        flags = self._flags.take(lanes, axis=0, mode="clip")
        known = (lanes >= 0) & (lanes < len(self.params)) & flags[:, TAKEN]
        if not known.all():
            lane = lanes[np.argmin(known)]
            raise InvalidArgumentError(f"lane {lane} of {len(self.params)} was given to nobody")
        return Users(flags, self._top_k[lanes])


class Users:
    """Which rows of a step use which part of sampling, int64 [rows] on the host."""

    def __init__(self, flags: npt.NDArray[np.bool_], top_k: npt.NDArray[np.int64]) -> None:
        """Take the flags [rows, 8] of each row, and its top_k in tokens."""
        self.draws, self.min_p = bool(flags[:, DRAWS].any()), bool(flags[:, USES_MIN_P].any())
        self.all_greedy = bool(flags[:, GREEDY].all())
        self.penalised = np.flatnonzero(flags[:, PENALISED])
        self.barred = np.flatnonzero(flags[:, BARRED])
        self.top = np.flatnonzero(flags[:, USES_TOP])
        self.logprobs = np.flatnonzero(flags[:, LOGPROBS])
        self.widest = int(top_k[self.top].max(initial=1))
