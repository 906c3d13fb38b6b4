"""What an engine under test takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from nano_batch.benchmarks.engines.work import Case, Request
from nano_batch.errors import BenchmarkError


@dataclass(frozen=True)
class Served:
    """What became of a request: seconds since the requests were handed over.

    Attributes:
        arrival_s: when it was due, not when the engine took it in.
        started_s: when its batch, or it itself where there are no batches, was first scheduled.
        token_times_s: when each of its tokens was there.
        token_ids: its tokens; empty where they are only reckoned.
    """

    arrival_s: float
    started_s: float
    token_times_s: list[float]
    token_ids: list[int] = field(default_factory=list)

    @property
    def first_token_s(self) -> float:
        """When its first token was there."""
        return self.token_times_s[0]

    @property
    def finish_s(self) -> float:
        """When its last token was there."""
        return self.token_times_s[-1]


Serve = Callable[[Sequence[Request]], list[Served]]
"""Serves requests to their ends and returns what became of each, in their order."""


class EngineUnderTest(Protocol):
    """One of the engines that are compared."""

    @property
    def name(self) -> str:
        """The row's `engine`."""

    @property
    def clocked(self) -> bool:
        """Whether its times are a clock's; False: they are reckoned, the same in every run."""

    @property
    def baseline(self) -> bool:
        """Whether a failure of it is told and the others are measured all the same."""

    def suits(self, case: Case) -> bool:
        """Whether the case is measured with it."""

    def opened(self, concurrency: int) -> AbstractContextManager[Serve]:
        """It with its memory, for at most `concurrency` requests at once."""


def check_served(name: str, requests: Sequence[Request], served: Sequence[Served], *, clocked: bool) -> None:
    """Raise `BenchmarkError` unless every request got exactly the tokens that it asked for, in time order."""
    if len(served) != len(requests):
        raise BenchmarkError(f"{name} served {len(served)} of {len(requests)} requests")
    for number, (request, one) in enumerate(zip(requests, served, strict=True)):
        given = len(one.token_ids) if clocked else len(one.token_times_s)
        if not given == len(one.token_times_s) == request.output_tokens:
            raise BenchmarkError(
                f"{name} gave request {number} {given} tokens at {len(one.token_times_s)} times; "
                f"it asked for {request.output_tokens}"
            )
        times = [one.arrival_s, one.started_s, *one.token_times_s]
        if times != sorted(times):
            raise BenchmarkError(f"{name} gave request {number} tokens at times that go back")
