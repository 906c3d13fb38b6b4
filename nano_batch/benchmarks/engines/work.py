"""The requests that every engine is given, and the cases that they are given in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from nano_batch._choices import unknown_option
from nano_batch.errors import BenchmarkError

CaseName = Literal["offline", "steady", "poisson"]
ALL_REQUESTS, ALL_OUTPUT_TOKENS = 256, 37_897
PROMPT_LENGTHS, OUTPUT_LENGTHS = (64, 512), (32, 256)
FIRST_ID, DRAWN_VOCABULARY = 3, 32_000
STEADY_PROMPT, STEADY_OUTPUT = 300, 200
BUDGET = 8192
"""Tokens of a step, by our engine's own default."""
LONGEST = PROMPT_LENGTHS[1] + OUTPUT_LENGTHS[1]
"""Tokens of the longest sequence that any case can have."""


@dataclass(frozen=True)
class Request:
    """Token ids, how many tokens come of them, and when it is due, in seconds from the start."""

    prompt: list[int]
    output_tokens: int
    arrival_s: float = 0.0


@dataclass(frozen=True)
class Case:
    """One load: the first `requests` of the work, at most `concurrency` of them at once.

    "offline": all at t = 0. "steady": each with 300 prompt tokens and 200 outputs, all at once, for the time
    of a decode step. "poisson": `rate_per_s` arrivals a second.
    """

    name: CaseName
    concurrency: int
    requests: int
    rate_per_s: float | None = None

    @property
    def label(self) -> str:
        """Its name and what sets it apart: the rate of arrivals or the concurrency."""
        return f"{self.name}-{self.concurrency if self.rate_per_s is None else f'{self.rate_per_s:g}'}"


def _offline(*sizes: tuple[int, int]) -> list[Case]:
    return [Case("offline", concurrency, requests) for concurrency, requests in sizes]


def _steady(*sizes: int) -> list[Case]:
    return [Case("steady", concurrency, concurrency) for concurrency in sizes]


def _poisson(concurrency: int, *rates: tuple[float, int]) -> list[Case]:
    return [Case("poisson", concurrency, requests, rate) for rate, requests in rates]


CUDA_CASES = [
    *_offline((256, 256), (128, 128), (64, 128), (32, 64), (8, 32), (1, 8)),
    *_steady(1, 8, 32, 64, 128, 256),
    *_poisson(256, (2, 32), (4, 64), (8, 128), (16, 256), (32, 256)),
]
CPU_CASES = [*_offline((1, 1), (4, 8), (8, 16)), *_steady(1, 4), *_poisson(8, (8, 8))]
"""Few enough that a small model takes under two minutes with every engine."""


def requests_of(case: Case, vocab_size: int) -> list[Request]:
    """The requests of a case, in order of arrival; the same ones in every run and for every engine.

    With fewer words than 32,000 the ids are folded into the vocabulary: the lengths stay.
    """
    if case.name == "steady":
        source = random.Random(1)
        drawn = [(_ids(source, STEADY_PROMPT), STEADY_OUTPUT) for _ in range(case.requests)]
    else:
        drawn = _all_drawn()[: case.requests]
    fold = vocab_size - FIRST_ID
    prompts = [[FIRST_ID + (token - FIRST_ID) % fold for token in prompt] for prompt, _ in drawn]
    arrivals = _arrivals(case)
    return [Request(*each) for each in zip(prompts, (length for _, length in drawn), arrivals, strict=True)]


@cache
def _all_drawn() -> list[tuple[list[int], int]]:
    """Prompt and output length of all 256: of each its prompt's length is drawn, its ids, and its output's.

    The generator is that of `random.seed(0)`, without touching the one that others share.
    """
    source = random.Random(0)
    drawn = [
        (_ids(source, source.randint(*PROMPT_LENGTHS)), source.randint(*OUTPUT_LENGTHS))
        for _ in range(ALL_REQUESTS)
    ]
    total = sum(output for _, output in drawn)
    if total != ALL_OUTPUT_TOKENS:
        raise BenchmarkError(f"the requests ask for {total:,} tokens; they are {ALL_OUTPUT_TOKENS:,}")
    return drawn


def _ids(source: random.Random, count: int) -> list[int]:
    return [source.randrange(FIRST_ID, DRAWN_VOCABULARY) for _ in range(count)]


def _arrivals(case: Case) -> list[float]:
    """All at 0, or with exponential gaps; the first comes at 0."""
    if case.rate_per_s is None:
        return [0.0] * case.requests
    source, times = random.Random(2), [0.0]
    while len(times) < case.requests:
        times.append(times[-1] + source.expovariate(case.rate_per_s))
    return times


def selected(cases: Sequence[Case], only: str) -> list[Case]:
    """The cases of the names ("offline") and labels ("offline-64") in `only`, parted by commas; all if empty.

    Raises:
        UnknownOptionError: there is no such name or label.
    """
    wanted = names_in(only, [name for case in cases for name in (case.name, case.label)], "case")
    return [case for case in cases if not wanted or {case.name, case.label} & set(wanted)]


def names_in(only: str, known: Sequence[str], what: str) -> list[str]:
    """The names in a list parted by commas. Raises `UnknownOptionError` for one that is not `known`."""
    choices = tuple(dict.fromkeys(known))
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted:
        if name not in choices:
            raise unknown_option(what, name, choices)
    return wanted
