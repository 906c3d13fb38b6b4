"""What a worker does: simulate some points and keep each as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nano_batch.errors import NanoBatchError
from nano_batch.metrics import SLO, summary
from nano_batch.metrics.summary import Row
from nano_batch.simulator import simulate
from nano_batch.sweeps.cache import PointCache
from nano_batch.sweeps.grid import Point
from nano_batch.workloads import Workload

#: Requests that a task is worth sending for: about 0.2 s of work.
TASK_REQUESTS = 20_000
TASKS_A_WORKER = 8


@dataclass(frozen=True)
class Job:
    """A point without its workload, which a task carries once for all of its points."""

    number: int
    options: dict[str, Any]
    key: str | None
    depends: dict[str, Any] | None


@dataclass(frozen=True)
class Task:
    """Points of one workload."""

    workload: Workload
    jobs: tuple[Job, ...]
    slo: SLO | None
    window: tuple[float, float] | None
    cache: PointCache | None


@dataclass(frozen=True)
class Done:
    """A point's row, or the error that refused it, as text: an error may not travel between processes."""

    number: int
    row: Row
    error: str | None = None


def work(task: Task) -> list[Done]:
    """Simulate each point of a task."""
    return [_work(task, job) for job in task.jobs]


def _work(task: Task, job: Job) -> Done:
    try:
        run = simulate(task.workload, **job.options)
        row = summary(run, task.slo, task.window)
    except NanoBatchError as error:
        return Done(job.number, {}, f"{type(error).__name__}: {error}")
    if task.cache is not None and job.key is not None and job.depends is not None:
        task.cache.put(job.key, job.depends, row)
    return Done(job.number, row)


def tasks_of(
    missing: list[tuple[Point, Job]], workers: int, slo: SLO | None, window: Any, cache: PointCache | None
) -> Iterator[Task]:
    """The missing points in tasks: points of one workload together, and enough tasks to share out."""
    groups: dict[int, list[tuple[Point, Job]]] = {}
    for point, job in missing:
        groups.setdefault(id(point.workload), []).append((point, job))
    requests = sum(len(point.workload) for point, _ in missing)
    worth = max(TASK_REQUESTS, requests // (workers * TASKS_A_WORKER))
    for members in groups.values():
        workload = members[0][0].workload
        size = max(1, worth // max(len(workload), 1))
        jobs = [job for _, job in members]
        for start in range(0, len(jobs), size):
            yield Task(workload, tuple(jobs[start : start + size]), slo, window, cache)
