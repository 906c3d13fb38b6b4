"""How many tokens prompts and outputs have: the distributions that synthetic workloads draw from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nano_batch import _core
from nano_batch.display import Shown, number
from nano_batch.errors import WorkloadError
from nano_batch.workloads.tables import TraceName, table

MAX_TOKENS = 2**31 - 1
Side = Literal["prompt", "output"]


@dataclass(frozen=True)
class Fixed(Shown):
    """Always `tokens`."""

    tokens: int

    def sample(self, count: int, seed: int, side: Side) -> NDArray[np.int64]:
        """`count` lengths, int64 [count]."""
        if not 1 <= self.tokens <= MAX_TOKENS:
            raise WorkloadError(f"{side} tokens is {self.tokens}; it must be from 1 to {MAX_TOKENS}")
        return np.full(count, self.tokens, np.int64)


@dataclass(frozen=True)
class Uniform(Shown):
    """Every whole number from `low` to `high`, both included, alike."""

    low: int
    high: int

    def sample(self, count: int, seed: int, side: Side) -> NDArray[np.int64]:
        """`count` lengths, int64 [count]."""
        return _core.uniform_lengths(count, low=self.low, high=self.high, seed=seed, outputs=side == "output")


@dataclass(frozen=True)
class LogNormal(Shown):
    """exp(`mu` + `sigma` Z) with a standard normal Z, rounded, then clipped to [`low`, `high`]."""

    mu: float
    sigma: float
    low: int = 1
    high: int = MAX_TOKENS

    def sample(self, count: int, seed: int, side: Side) -> NDArray[np.int64]:
        """`count` lengths, int64 [count]."""
        return _core.log_normal_lengths(
            count,
            mu=self.mu,
            sigma=self.sigma,
            low=self.low,
            high=self.high,
            seed=seed,
            outputs=side == "output",
        )


@dataclass(frozen=True)
class Quantiles(Shown):
    """The quantile function that is linear between (`probabilities[i]`, `tokens[i]`), rounded to whole
    tokens.

    Probabilities ascend strictly from 0 to 1; tokens ascend.
    """

    probabilities: tuple[float, ...]
    tokens: tuple[float, ...]

    def __repr__(self) -> str:
        low, high = number(min(self.tokens)), number(max(self.tokens))
        return f"Quantiles({len(self.tokens)} points from {low} to {high} tokens)"

    @classmethod
    def of_trace(cls, name: TraceName, side: Side) -> Quantiles:
        """The fitted table of a real trace (see `nano_batch.workloads.tables`)."""
        content = table(name)[side]
        return cls(tuple(content["probabilities"]), tuple(content["tokens"]))

    def sample(self, count: int, seed: int, side: Side) -> NDArray[np.int64]:
        """`count` lengths, int64 [count]."""
        return _core.quantile_lengths(
            count,
            probabilities=list(self.probabilities),
            tokens=list(self.tokens),
            seed=seed,
            outputs=side == "output",
        )


@dataclass(frozen=True)
class Families(Shown):
    """Shared-prefix families: the members of a family begin with the same `prefix_tokens` tokens.

    The lengths drawn for prompts are a member's own part: the prefix comes on top. Content is block ids of
    `block_size` tokens, so `prefix_tokens` is a multiple of it. `share` is the probability of belonging to
    a family at all; `skew` is Zipf's exponent over the families (0: all alike).
    """

    count: int
    prefix_tokens: int
    block_size: int = 16
    share: float = 1.0
    skew: float = 0.0

    def sample(
        self, own_tokens: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        """Family int32 [n] (−1: none), prompt tokens int64 [n], offsets int64 [n + 1] and block ids int32."""
        for name in ("count", "prefix_tokens", "block_size"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_TOKENS:
                raise WorkloadError(f"families: {name} is {value}; it must be from 1 to {MAX_TOKENS}")
        blocks, rest = divmod(self.prefix_tokens, self.block_size)
        if rest:
            raise WorkloadError(
                "families: prefix_tokens must be a multiple of block_size; "
                f"they are {self.prefix_tokens} and {self.block_size}"
            )
        return _core.family_prompts(
            own_tokens,
            count=self.count,
            prefix_blocks=blocks,
            block_size=self.block_size,
            share=self.share,
            skew=self.skew,
            seed=seed,
        )


Lengths = Fixed | Uniform | LogNormal | Quantiles
_KINDS: Mapping[str, type[Lengths]] = {
    "fixed": Fixed,
    "uniform": Uniform,
    "log_normal": LogNormal,
    "quantiles": Quantiles,
}


def resolve(lengths: int | TraceName | Lengths, side: Side) -> Lengths:
    """A number stands for `Fixed`, a trace's name for its table.

    Raises:
        WorkloadError: it is none of the kinds.
        UnknownOptionError: a misspelt trace.
    """
    if isinstance(lengths, str):
        return Quantiles.of_trace(lengths, side)
    if isinstance(lengths, int | np.integer) and not isinstance(lengths, bool):
        return Fixed(int(lengths))
    if isinstance(lengths, Fixed | Uniform | LogNormal | Quantiles):
        return lengths
    raise WorkloadError(
        f"{side}s is {lengths!r}; it must be a number of tokens, a trace's name, or one of "
        "Fixed, Uniform, LogNormal, Quantiles"
    )


def to_spec(lengths: int | str | Lengths) -> Any:
    """The lengths as JSON values."""
    for kind, cls in _KINDS.items():
        if isinstance(lengths, cls):
            return {"kind": kind, **plain(asdict(lengths))}
    return lengths if isinstance(lengths, str) else int(lengths)  # type: ignore[arg-type]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON has them: lists for tuples, Python's numbers for NumPy's."""
    lists = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in lists.items()}


def from_spec(spec: Any) -> Any:
    """The inverse of `to_spec`."""
    if not isinstance(spec, Mapping):
        return spec
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in spec.items() if name != "kind"}
    kind: Any = _KINDS[spec["kind"]]
    return kind(**values)
