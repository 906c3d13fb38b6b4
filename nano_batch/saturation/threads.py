"""Many short simulations at once: the compiled core leaves Python's lock while it simulates."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from nano_batch.saturation.configuration import Configuration

Job = TypeVar("Job")
Result = TypeVar("Result")
#: With more the threads wait for Python's lock, which a quarter of the work needs.
MOST = 4


def each(work: Callable[[Job], Result], jobs: Sequence[Job], configuration: Configuration) -> list[Result]:
    """`work` of each job, in the jobs' order; one after the other where a policy of the reader's own, which
    may remember things, decides.
    """
    own = not isinstance(dict(configuration.options).get("policy", ""), str)
    return [work(job) for job in jobs] if own else list(_pool().map(work, jobs))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(MOST, os.cpu_count() or 1), "nano_batch")
