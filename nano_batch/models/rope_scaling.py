"""Rotary frequencies of models whose context was stretched after they had been trained.

Position p turns pair d of a head by p * f_d, where f_d = theta ** (-2 d / head_dim) radians. To reach
further, a pair is slowed to f_d / factor ("linear": all of them; Chen et al., "Extending Context Window of
Large Language Models via Positional Interpolation", 2023), or only as far as it turned too little within the
original length to tell positions apart ("yarn": Peng et al., "YaRN: Efficient Context Window Extension of
Large Language Models", 2023; "llama3": Grattafiori et al., "The Llama 3 Herd of Models", 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from nano_batch._choices import check_choice
from nano_batch.display import Shown
from nano_batch.errors import InvalidArgumentError

RopeType = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeScaling(Shown):
    """How the frequencies are changed; the names are those of `rope_parameters` in a config.json.

    Attributes:
        rope_type: "default" changes nothing.
        factor: by how much the context was stretched, above 0.
        original_max_position_embeddings: tokens of the context before; for "llama3" and "yarn".
        low_freq_factor, high_freq_factor: "llama3" slows a pair fully that turns fewer times than the first
            within the original context, and leaves one that turns more often than the second.
        beta_fast, beta_slow: "yarn" leaves a pair that turns more than `beta_fast` times within the original
            context, and slows one fully that turns less than `beta_slow` times.
        truncate: "yarn" rounds the two borders outwards to whole pairs.
        attention_factor: "yarn" multiplies cosines and sines with it; None derives it from `factor`,
            `mscale` and `mscale_all_dim`.

    Raises:
        UnknownOptionError, InvalidArgumentError: the type is unknown, or a number makes no frequencies.
    """

    rope_type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("rope_type", self.rope_type, RopeType)
        for name in ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidArgumentError(f"{name}={getattr(self, name)!r} of rope is not above 0")
        if not self.low_freq_factor < self.high_freq_factor:
            low, high = self.low_freq_factor, self.high_freq_factor
            raise InvalidArgumentError(f"low_freq_factor={low} is not below high_freq_factor={high}")

    def frequencies(self, head_dim: int, theta: float) -> torch.Tensor:
        """Return the radians that each pair turns a position: [head_dim / 2] float64."""
        plain = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        slowed = self._slowed(plain, head_dim, theta)
        return plain * (1 - slowed) + plain / self.factor * slowed

    def _slowed(self, plain: torch.Tensor, head_dim: int, theta: float) -> torch.Tensor:
        """Return how far each pair is slowed, from 0, not at all, to 1, by the whole factor."""
        if self.rope_type == "linear":
            return torch.ones_like(plain)
        if self.rope_type == "llama3":
            often = self.original_max_position_embeddings * plain / (2 * math.pi)
            span = self.high_freq_factor - self.low_freq_factor
            return ((self.high_freq_factor - often) / span).clamp(0, 1)
        if self.rope_type == "yarn":
            first = self._pair_that_turns(self.beta_fast, head_dim, theta)
            last = self._pair_that_turns(self.beta_slow, head_dim, theta)
            if self.truncate:
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, head_dim - 1)
            # Where both borders are one pair, the ramp is a step just after it.
            span = last - first if last != first else 0.001
            return ((torch.arange(len(plain), dtype=torch.float64) - first) / span).clamp(0, 1)
        return torch.zeros_like(plain)

    def _pair_that_turns(self, times: float, head_dim: int, theta: float) -> float:
        """Return the (fractional) pair that turns so many times within the original context."""
        length = self.original_max_position_embeddings
        return head_dim * math.log(length / (times * 2 * math.pi)) / (2 * math.log(theta))

    def magnitude(self) -> float:
        """Return the factor on cosines and sines."""
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)
        return self._temperature(1.0)

    def _temperature(self, scale: float) -> float:
        return 1.0 + 0.1 * scale * math.log(self.factor) if self.factor > 1 else 1.0
