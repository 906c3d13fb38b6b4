"""How a request's tokens are chosen, and when its output ends."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from nano_batch.display import Shown
from nano_batch.errors import InvalidArgumentError, InvalidTokenError

MAX_TOKENS = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_LOGPROBS = 20
#: below it a temperature is greedy in all but name, and logits / temperature leave float32
MIN_TEMPERATURE = 1e-3


@dataclass(frozen=True, repr=False)
class SamplingParams(Shown):
    """How the tokens of a request are chosen, in this order, and when its output ends.

    Stop tokens are barred while an output is shorter than `min_tokens`; penalties change the logits; these
    are divided by the temperature; top-k keeps the likeliest tokens, top-p the likeliest of these, min-p
    those that are likely enough beside the likeliest; one of what is left is drawn.

    Attributes:
        temperature: 0 takes the likeliest token, else 0.001 to 1000.
        top_k: how many of the likeliest tokens stay (Fan et al., 2018); 0 or None for all.
        top_p: the fewest likeliest tokens of at least this share of the probability stay (Holtzman et al.,
            2020); 1 for all.
        min_p: tokens stay that are at least this share as likely as the likeliest (Nguyen et al., 2024).
        repetition_penalty: divides the positive and multiplies the negative logits of tokens that the prompt
            or the output holds (Keskar et al., 2019); 0.01 to 100.
        presence_penalty: taken from the logits of tokens that the output holds; −2 to 2.
        frequency_penalty: the same, once for each time that the output holds the token; −2 to 2.
        max_tokens: the longest output, in tokens.
        min_tokens: the shortest output, in tokens, a stop token among them.
        n: sequences sampled from the prompt, each with random numbers of its own.
        seed: of the random numbers, 0 to 2⁶³ − 1; None for a fresh one.
        stop: texts that end the output, one or several.
        stop_token_ids: tokens that end it, beside the model's end token.
        ignore_eos: True: the model's end token does not end it.
        logprobs: how many of the likeliest tokens are told with their log-probabilities beside each output
            token, 0 to 20; None tells none, not even the token's own.

    Raises:
        InvalidArgumentError: a value is outside of its range, which the message tells.
        InvalidTokenError: a stop token is negative or too large.
    """

    temperature: float = 1.0
    top_k: int | None = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 16
    min_tokens: int = 0
    n: int = 1
    seed: int | None = None
    stop: str | Iterable[str] = ()
    stop_token_ids: Iterable[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_counts()
        self._set("stop", _texts(self.stop))
        self._set("stop_token_ids", _tokens(self.stop_token_ids))
        if not isinstance(self.ignore_eos, bool):
            raise InvalidArgumentError(f"ignore_eos is {self.ignore_eos!r}; it must be True or False")

    def __repr__(self) -> str:
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        return f"SamplingParams({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    def resolved(self, seed: int, end_tokens: Iterable[int]) -> SamplingParams:
        """These with a seed, and further tokens that end the output, both valid: nothing is checked."""
        made = copy(self)
        made._set("seed", seed)
        made._set("stop_token_ids", (*self.stop_token_ids, *end_tokens))
        return made

    @property
    def greedy(self) -> bool:
        """Whether the tokens are the likeliest of the raw logits, and nothing else is asked for."""
        return self.temperature == 0 and not self.adjusts_logits and self.logprobs is None

    @property
    def penalised(self) -> bool:
        """Whether the tokens so far change the logits."""
        neutral = self.repetition_penalty == 1 and self.presence_penalty == 0 and self.frequency_penalty == 0
        return not neutral

    @property
    def adjusts_logits(self) -> bool:
        """Whether the logits are changed before a token is chosen."""
        return self.penalised or self.min_tokens > 1

    def _check_numbers(self) -> None:
        self._number("temperature", 0.0, 1e3, f"0, or from {MIN_TEMPERATURE} to 1000")
        if self.temperature:
            self._number("temperature", MIN_TEMPERATURE, 1e3, f"0, or from {MIN_TEMPERATURE} to 1000")
        self._number("top_p", math.ulp(0.0), 1.0, "above 0 and at most 1")
        self._number("min_p", 0.0, 1.0, "from 0 to 1")
        self._number("repetition_penalty", 0.01, 100.0, "from 0.01 to 100")
        self._number("presence_penalty", -2.0, 2.0, "from -2 to 2")
        self._number("frequency_penalty", -2.0, 2.0, "from -2 to 2")

    def _check_counts(self) -> None:
        self._set("top_k", 0 if self.top_k is None else _whole("top_k", self.top_k, 0, MAX_TOKENS))
        self._set("max_tokens", _whole("max_tokens", self.max_tokens, 1, MAX_TOKENS))
        self._set("min_tokens", _whole("min_tokens", self.min_tokens, 0, self.max_tokens, "max_tokens = "))
        self._set("n", _whole("n", self.n, 1, MAX_TOKENS))
        if self.seed is not None:
            self._set("seed", _whole("seed", self.seed, 0, MAX_SEED))
        if self.logprobs is not None:
            self._set("logprobs", _whole("logprobs", self.logprobs, 0, MAX_LOGPROBS))

    def _number(self, name: str, low: float, high: float, limit: str) -> None:
        value = getattr(self, name)
        # NaN is in no range.
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not real or not low <= float(value) <= high:
            raise InvalidArgumentError(f"{name} is {value!r}; it must be {limit}")
        self._set(name, float(value))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen


def _whole(name: str, value: Any, low: int, high: int, what: str = "") -> int:
    whole = not isinstance(value, bool) and hasattr(value, "__index__")
    if not whole or not low <= operator.index(value) <= high:
        raise InvalidArgumentError(
            f"{name} is {value!r}; it must be a whole number from {low} to {what}{high}"
        )
    return operator.index(value)


def _texts(stop: Any) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else stop
    if not isinstance(texts, Iterable):
        raise InvalidArgumentError(f"stop is {stop!r}; it must be a text or several")
    texts = tuple(texts)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise InvalidArgumentError(f"stop holds {text!r}; it must hold texts of at least 1 character")
    return texts


def _tokens(ids: Any) -> tuple[int, ...]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InvalidArgumentError(f"stop_token_ids is {ids!r}; it must be token ids")
    tokens = tuple(ids)
    for token in tokens:
        if isinstance(token, bool) or not hasattr(token, "__index__"):
            raise InvalidArgumentError(f"stop_token_ids holds {token!r}; it must hold whole numbers")
        if not 0 <= operator.index(token) <= MAX_TOKENS:
            raise InvalidTokenError(f"stop_token_ids holds {token}; a token id is from 0 to {MAX_TOKENS}")
    return tuple(operator.index(token) for token in tokens)
