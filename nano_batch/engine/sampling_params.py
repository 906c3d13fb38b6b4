"""How a request's tokens are chosen, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nano_batch.display import Shown
from nano_batch.errors import InvalidArgumentError

MOST_LOGPROBS = 20
MOST_SEQUENCES = 2**16
_MOST = 1e6
"""Of temperatures and penalties: logits stay finite in float32 whatever is asked for."""


@dataclass(frozen=True, repr=False)
class SamplingParams(Shown):
    """What a request asks of its sampling; the fields' defaults sample from the model's own distribution.

    In this order: penalties, temperature, top-k, top-p over what top-k left, min-p.

    Args:
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; None or 0, all.
        top_p: only the likeliest tokens that together reach this probability (Holtzman et al., 2020).
        min_p: only tokens at least this share as likely as the likeliest (Nguyen et al., 2024).
        repetition_penalty: what positive logits of tokens in prompt or output are divided by, and negative
            ones multiplied with (CTRL; Keskar et al., 2019).
        presence_penalty, frequency_penalty: subtracted from the logits of tokens in the output, once, or once
            for each time.
        max_tokens: output tokens at most. min_tokens: as many before a stop token may be taken.
        n: sequences to sample from the prompt.
        seed: of the random numbers, with a sequence's index and a token's place; None, one is drawn.
        stop: strings that end the output, which is cut before them; a string or several.
        stop_token_ids: tokens that end the output, of which they are the last.
        ignore_eos: go on after the model's end-of-sequence tokens.
        logprobs: for each output token its log probability and those of so many likeliest; None, none.

    Raises:
        InvalidArgumentError: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 16
    min_tokens: int = 0
    n: int = 1
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Iterable[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        _number("temperature", self.temperature, 0, _MOST)
        _number("top_p", self.top_p, 0, 1, above=True)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, 1 / _MOST, _MOST)
        for name in ("presence_penalty", "frequency_penalty"):
            _number(name, getattr(self, name), -_MOST, _MOST)
        _whole("top_k", 0 if self.top_k is None else self.top_k, 0, 2**31 - 1)
        _whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _whole("min_tokens", self.min_tokens, 0, self.max_tokens)
        _whole("n", self.n, 1, MOST_SEQUENCES)
        _whole("seed", 0 if self.seed is None else self.seed, 0, 2**63 - 1)
        _whole("logprobs", 0 if self.logprobs is None else self.logprobs, 0, MOST_LOGPROBS)
        if not isinstance(self.ignore_eos, bool):
            raise InvalidArgumentError(f"ignore_eos={self.ignore_eos!r} is neither True nor False")
        stop = _several("stop", (self.stop,) if isinstance(self.stop, str) else self.stop)
        if not all(isinstance(word, str) and word for word in stop):
            raise InvalidArgumentError(f"stop={self.stop!r} needs strings that are not empty")
        tokens = _several("stop_token_ids", self.stop_token_ids)
        for token in tokens:
            _whole("a token of stop_token_ids", token, 0, 2**31 - 1)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tokens)

    def __repr__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, field in self.__dataclass_fields__.items()
            if getattr(self, name) != field.default
        ]
        return f"SamplingParams({', '.join(changed)})"

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens matter."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    @property
    def filtered(self) -> bool:
        """Whether some tokens cannot be drawn, whatever came before."""
        return bool(self.top_k) or self.top_p < 1 or self.min_p > 0

    @property
    def waits_to_stop(self) -> bool:
        """Whether stop tokens are out of reach at first."""
        return self.min_tokens > 0 and bool(self.stop_token_ids)

    @property
    def greedy(self) -> bool:
        """Whether the token is the likeliest of the model's own logits, and nothing else is asked for."""
        plain = not self.penalised and not self.waits_to_stop and self.logprobs is None
        return self.temperature == 0 and plain


def _number(name: str, value: Any, least: float, most: float, *, above: bool = False) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not real or not least <= value <= most or (above and value == least):
        limits = f"above {least}" if above else f"at least {least:g}"
        raise InvalidArgumentError(f"{name}={value!r} is not a number {limits} and at most {most:g}")


def _several(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, Iterable):
        raise InvalidArgumentError(f"{name}={values!r} is not a sequence")
    return tuple(values)


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidArgumentError(f"{name}={value!r} is not a whole number from {least} to {most}")
