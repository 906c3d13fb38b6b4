"""`sweep`: the product of lists of parameters, simulated in parallel, as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nano_batch._choices import check_choice
from nano_batch.errors import SweepError
from nano_batch.metrics import SLO
from nano_batch.simulator.costs import CostLike
from nano_batch.sweeps.cache import PointCache, default_folder
from nano_batch.sweeps.grid import Point, WorkloadLike, points_of
from nano_batch.sweeps.keys import dependencies, key_of
from nano_batch.sweeps.work import Done, Job, Task, tasks_of, work

if TYPE_CHECKING:
    import pandas as pd

OnError = Literal["raise", "keep"]
#: Below this many requests in all, workers take longer to start than the work takes here.
WORTH_WORKERS = 60_000


def sweep(
    grid: Mapping[str, Sequence[Any] | Mapping[str, Any]],
    workload: WorkloadLike,
    *,
    cost: CostLike | None = None,
    slo: SLO | None = None,
    window: tuple[float, float] | None = None,
    n_jobs: int | None = None,
    cache: bool | str | os.PathLike[str] = True,
    on_error: OnError = "raise",
    progress: bool = False,
    **fixed: Any,
) -> pd.DataFrame:
    """Simulate every combination of the grid's values, and give a row of numbers for each.

    The points run in parallel through joblib: in processes of this machine (loky), or on whatever backend
    `joblib.parallel_config` names around the call, such as Dask or Ray (docs/sweeps.md). Each point is kept
    on disk as soon as it is done, so that a sweep that was killed goes on where it stood, and one that is
    asked for again is read.

    Args:
        grid: name -> values. Options of the engine (`block_size`, `policy`, …; `memory_tokens` derives
            `num_blocks`) and of the simulator (`cost`, `steps_in_flight`, …); other names are parameters of
            the workload. A mapping label -> value names values in the table.
        workload: a `Workload`; or keywords of `Workload.synthetic`; or a function of the grid's workload
            parameters. The last two are drawn for each combination of their parameters (`seed`, `rate`,
            `users`, …).
        cost: what a step takes, as in `simulate`, unless the grid says.
        slo: the objectives of `goodput_requests_per_s`.
        window: seconds, for rates, latencies and means; by default each run's `metrics.steady_window`.
        n_jobs: workers; by default joblib's setting, else one a core, and none for a small sweep.
        cache: the folder of finished points; True: the user's cache folder; False: keep nothing. A point
            whose cost is a Python function is never kept: what the function does cannot be known.
        on_error: "raise", or "keep" a point that is refused as a row with its `error`.
        progress: show a progress bar (tqdm).
        fixed: options of the engine and the simulator, the same for all points.

    Returns:
        A table with the grid's names first, then the columns of `metrics.summary` (units in their names)
        and, with `on_error="keep"`, `error`; rows in the grid's order, the last name changing fastest.

    Raises:
        SweepError: a grid that cannot be used, or a point that was refused, by its parameters.
        UnknownOptionError: a misspelt name; the nearest is named.
    """
    check_choice("on_error", on_error, OnError)
    if "cost" not in grid:
        fixed["cost"] = 0.02 if cost is None else cost
    elif cost is not None:
        raise SweepError(f"cost is both in the grid and fixed to {cost!r}")
    points = points_of(grid, workload, fixed)
    kept = _cache(cache)
    jobs = [_job(point, slo, window) for point in points]
    done = {job.number: Done(job.number, row) for job in jobs if (row := _known(kept, job)) is not None}
    missing = [(point, job) for point, job in zip(points, jobs, strict=True) if job.number not in done]
    with _bar(progress, len(points), len(done)) as bar:
        for result in _run(missing, n_jobs, slo, window, kept):
            if result.error is not None and on_error == "raise":
                raise SweepError(f"the point {points[result.number].shown} was refused: {result.error}")
            _keep_here(kept, jobs[result.number], result)
            done[result.number] = result
            bar.update()
    return _table(points, done, with_errors=on_error == "keep")


def _cache(cache: bool | str | os.PathLike[str]) -> PointCache | None:
    if cache is False:
        return None
    return PointCache(default_folder() if cache is True else Path(cache).absolute())


def _job(point: Point, slo: SLO | None, window: Any) -> Job:
    depends = dependencies(point, slo, window)
    return Job(point.number, point.options, None if depends is None else key_of(depends), depends)


def _known(cache: PointCache | None, job: Job) -> dict[str, Any] | None:
    return None if cache is None or job.key is None else cache.get(job.key)


def _keep_here(cache: PointCache | None, job: Job, done: Done) -> None:
    """Keep a point that a worker on another machine kept over there."""
    if cache is None or job.key is None or job.depends is None or done.error is not None:
        return
    if not cache.path(job.key).exists():
        cache.put(job.key, job.depends, done.row)


def _run(
    missing: list[tuple[Point, Job]],
    n_jobs: int | None,
    slo: SLO | None,
    window: Any,
    cache: PointCache | None,
) -> Iterator[Done]:
    """Results as they come, in any order."""
    if not missing:
        return
    from joblib import Parallel, delayed, effective_n_jobs
    from joblib.parallel import get_active_backend

    backend, configured = get_active_backend()
    if n_jobs is None and configured is None and _is_default(backend):
        small = sum(len(point.workload) for point, _ in missing) < WORTH_WORKERS
        n_jobs = 1 if small else -1
    tasks: list[Task] = list(tasks_of(missing, effective_n_jobs(n_jobs or configured), slo, window, cache))
    streams = getattr(backend, "supports_return_generator", False)
    parallel = Parallel(
        n_jobs=n_jobs or configured,
        batch_size=1,
        return_as="generator_unordered" if streams else "list",
    )
    for results in parallel(delayed(work)(task) for task in tasks):
        yield from results


def _is_default(backend: Any) -> bool:
    from joblib.parallel import BACKENDS, DEFAULT_BACKEND

    return isinstance(backend, BACKENDS[DEFAULT_BACKEND])


def _bar(shown: bool, total: int, known: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=known, unit=" points", desc="sweep", disable=not shown)


def _table(points: list[Point], done: Mapping[int, Done], *, with_errors: bool) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for point in points:
        result = done[point.number]
        errors = {"error": result.error or ""} if with_errors else {}
        rows.append({**point.shown, **result.row, **errors})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table
