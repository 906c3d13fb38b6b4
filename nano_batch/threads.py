"""Many short calls of the compiled core at once: it leaves Python's lock while it works."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
#: With more the threads wait for Python's lock, which a quarter of the work needs.
MOST = 4


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """`work` of each job, in the jobs' order."""
    return list(_pool().map(work, jobs))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(MOST, os.cpu_count() or 1), "nano_batch")
