"""A reader's own policy: a class whose `score` ranks all requests before every step."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nano_batch.errors import PolicyError

MAX_CALL_S = 0.05


@runtime_checkable
class OwnPolicy(Protocol):
    """What `simulate(policy=...)` takes beside the built-in words."""

    def score(self, requests: PolicyColumns) -> Any:
        """One number a request; the smallest is served first, the largest preempted first."""


@dataclass(frozen=True, repr=False)
class PolicyColumns:
    """The waiting requests, then the running ones, as read-only columns of one length.

    Attributes:
        sequence: int64, its number, in the order in which requests joined the queue.
        running: bool.
        arrival_s: float64.
        waited_s: float64, since its arrival.
        priority: int64.
        prompt_tokens: int64.
        computed_tokens: int64, whose KV is there; 0 while it waits.
        output_tokens: int64, produced so far.
        max_tokens: int64, the most it may produce (in a simulation its output length, unless
            `simulate(max_tokens=...)` hides that).
        preemptions: int64, so far.
        blocks: int64, entries of its block table.
        now_s: float, the virtual time.
    """

    sequence: NDArray[np.int64]
    running: NDArray[np.bool_]
    arrival_s: NDArray[np.float64]
    waited_s: NDArray[np.float64]
    priority: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    computed_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    max_tokens: NDArray[np.int64]
    preemptions: NDArray[np.int64]
    blocks: NDArray[np.int64]
    now_s: float

    def __len__(self) -> int:
        return len(self.sequence)

    def __repr__(self) -> str:
        return (
            f"PolicyColumns({len(self)} requests, {int(self.running.sum())} running, at {self.now_s:.3g} s)"
        )


def policy_name(policy: Any) -> str:
    """What a policy is called in settings: a built-in word, or the class's name."""
    return policy if isinstance(policy, str) else type(policy).__name__


def scorer(policy: OwnPolicy) -> Callable[[float, Mapping[str, NDArray[Any]]], NDArray[np.float64]]:
    """The function that the core calls before each step; what is wrong with a score is said by name."""
    calls = 0

    def score(now_s: float, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        requests = PolicyColumns(**columns, waited_s=now_s - columns["arrival_s"], now_s=now_s)
        for column in (*columns.values(), requests.waited_s):
            column.flags.writeable = False
        start = time.thread_time()
        scores = policy.score(requests)
        seconds = time.thread_time() - start
        if seconds > MAX_CALL_S:
            limit = f"the limit is {1e3 * MAX_CALL_S:.0f} ms a step"
            raise PolicyError(_of(policy, calls, f"took {1e3 * seconds:.0f} ms; {limit}"))
        return _checked(scores, len(requests), lambda problem: _of(policy, calls, problem))

    return score


def _checked(scores: Any, count: int, says: Callable[[str], str]) -> NDArray[np.float64]:
    try:
        result = np.ascontiguousarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise PolicyError(says(f"returned {type(scores).__name__}, not numbers ({error})")) from error
    if result.shape != (count,):
        raise PolicyError(says(f"returned shape {result.shape}; it must be ({count},), one number a request"))
    if np.isnan(result).any():
        raise PolicyError(says(f"returned NaN for request {int(np.isnan(result).argmax())} of {count}"))
    return result


def _of(policy: Any, step: int, problem: str) -> str:
    """The problem, with the step and the reader's own line."""
    name = f"{type(policy).__name__}.score"
    try:
        lines, first = inspect.getsourcelines(type(policy).score)
        where = f", line {first}: {lines[0].strip()}"
    except (OSError, TypeError):
        where = ""
    return f"{name} at step {step} {problem}{where}"
