"""A configuration over concurrency or arrival rate: five seeds a point, median and range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nano_batch._choices import check_choice
from nano_batch.errors import MetricsError
from nano_batch.metrics import SLO, goodput_per_s, saturation_knee, summary
from nano_batch.metrics.steady import MIN_BEYOND
from nano_batch.metrics.summary import Row
from nano_batch.records import Requests, Run
from nano_batch.saturation.configuration import Configuration, each_of
from nano_batch.simulator import simulate
from nano_batch.workloads import Workload

if TYPE_CHECKING:
    import pandas as pd

Over = Literal["users", "rate"]
Floats = NDArray[np.float64]
SEEDS = (0, 1, 2, 3, 4)
#: Requests of a point: enough that a closed loop turns over several times and an open one settles.
LEAST_REQUESTS, TURNS = 20, 5


@lru_cache(maxsize=512)
def load_workload(over: Over, load: float, seed: int, like: str, requests: int) -> Workload:
    """The requests of a point: `load` users in a closed loop, or Poisson arrivals at `load` a second.

    The lengths of a seed are the same at every load, so that loads and configurations are compared on the
    same requests.
    """
    arrivals: dict[str, Any] = (
        {"arrivals": "closed_loop", "users": int(load)} if over == "users" else {"rate": load}
    )
    return Workload.synthetic(requests, like=like, seed=seed, **arrivals)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, repr=False)
class LoadCurve:
    """The points of a configuration.

    Attributes:
        loads: ascending users or requests per second.
        rows: `metrics.summary` of each seed of each load.
        served: the requests of each, from which the goodput under any objectives follows.
        like: the trace whose lengths are drawn.
        requests: how many a point has.
    """

    configuration: Configuration
    over: Over
    loads: Floats
    seeds: tuple[int, ...]
    rows: tuple[tuple[Row, ...], ...]
    served: tuple[tuple[Requests, ...], ...]
    like: str
    requests: tuple[int, ...]

    def values(self, name: str) -> Floats:
        """A number of `summary`, float64 [loads, seeds]."""
        return self._values[name]

    @cached_property
    def _values(self) -> dict[str, Floats]:
        # Looked at many times for one picture, as are the spreads.
        shape = (len(self.loads), len(self.seeds))
        rows = [row for point in self.rows for row in point]
        return {name: np.array([float(row[name]) for row in rows]).reshape(shape) for name in rows[0]}

    @cached_property
    def _spreads(self) -> dict[str, tuple[Floats, Floats, Floats]]:
        return {}

    @cached_property
    def unstable(self) -> NDArray[np.bool_]:
        """Loads at which the backlog grows for most seeds: they have no steady values."""
        growing: NDArray[np.bool_] = self.values("unstable").mean(axis=1) > 0.5
        return growing

    def spread(self, name: str) -> tuple[Floats, Floats, Floats]:
        """Median, least and most of the seeds, float64 [loads] each; NaN where unstable."""
        if name not in self._spreads:
            self._spreads[name] = self._spread(self.values(name))
        return self._spreads[name]

    def goodput(self, slo: SLO) -> tuple[Floats, Floats, Floats]:
        """Requests per second that meet the objectives: median, least and most, as `spread` gives them."""
        return self._spread(_goodputs(self, slo))

    def _spread(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        stable = np.where(self.unstable[:, None], np.nan, values)
        return np.median(stable, axis=1), stable.min(axis=1), stable.max(axis=1)

    def hollow(self, latency: str) -> NDArray[np.bool_]:
        """Loads whose p99 of "ttft", "tpot" or "end_to_end" has fewer than ten samples beyond it."""
        few: NDArray[np.bool_] = self.values(f"{latency}_beyond_p99").min(axis=1) < MIN_BEYOND
        return few

    @property
    def knee(self) -> float | None:
        """The smallest measured concurrency from which each doubling gains less than 10 %."""
        throughputs, _, _ = self.spread("throughput_output_tokens_per_s")
        known = ~np.isnan(throughputs)
        if self.over != "users" or not known.any():
            return None
        return saturation_knee(self.loads[known], throughputs[known])

    def within(self, slo: SLO) -> NDArray[np.bool_]:
        """Loads whose median p99 meets each objective that is set."""
        good: NDArray[np.bool_] = ~self.unstable
        for name in ("ttft", "tpot", "end_to_end"):
            limit = getattr(slo, f"{name}_s")
            if limit is not None:
                with np.errstate(invalid="ignore"):
                    good &= self.spread(f"{name}_p99_s")[0] <= limit
        return good

    def best(self, slo: SLO) -> int | None:
        """The point of the highest throughput among those within the objectives; None where there is none."""
        throughputs = np.where(self.within(slo), self.spread("throughput_output_tokens_per_s")[0], -np.inf)
        return int(np.argmax(throughputs)) if np.isfinite(throughputs).any() else None

    def run(self, point: int, seed: int = 0, **options: Any) -> Run:
        """The simulation behind a point, with further options of `simulate`, such as `event_log`."""
        workload = self.workload(point, seed)
        return simulate(workload, **{**self.configuration.arguments(), **options})

    def workload(self, point: int, seed: int = 0) -> Workload:
        """The requests of a point."""
        return load_workload(self.over, float(self.loads[point]), seed, self.like, self.requests[point])

    def to_frame(self) -> pd.DataFrame:
        """A pandas table of every seed of every load, units in the names of the columns."""
        import pandas as pd

        load = "users" if self.over == "users" else "rate_per_s"
        rows = [
            {"configuration": self.configuration.name, load: at, "seed": seed, **row}
            for at, point in zip(self.loads.tolist(), self.rows, strict=True)
            for seed, row in zip(self.seeds, point, strict=True)
        ]
        table: pd.DataFrame = pd.DataFrame(rows)
        return table

    def __repr__(self) -> str:
        return (
            f"LoadCurve of {self.configuration.name} over {self.over} {self.loads[0]:g} to "
            f"{self.loads[-1]:g}: {len(self.loads)} points of {len(self.seeds)} seeds"
        )


def load_curve(
    configuration: Configuration,
    loads: Sequence[float],
    *,
    over: Over = "users",
    like: str = "azure_conv",
    seeds: Sequence[int] = SEEDS,
    requests: int | None = None,
) -> LoadCurve:
    """Simulate the configuration at each load, with each seed.

    Args:
        loads: users (whole numbers) or requests per second, ascending.
        over: "users": a closed loop; "rate": Poisson arrivals.
        like: the trace whose lengths are drawn.
        seeds: of the lengths and arrivals.
        requests: of each point; by default five for each user, at least 20.

    Raises:
        MetricsError: no loads or seeds, or loads that do not ascend from above 0.
        NanoBatchError: whatever refuses a point, by name.
    """
    check_choice("over", over, Over)
    at = np.asarray(loads, np.float64)
    if at.ndim != 1 or not len(at) or not (at[0] > 0 and (np.diff(at) > 0).all()) or not len(seeds):
        raise MetricsError(f"loads are {list(loads)} for seeds {list(seeds)}; they must ascend from above 0")
    counts = tuple(requests or _requests(over, load) for load in at.tolist())
    jobs = [
        (over, load, seed, like, count)
        for load, count in zip(at.tolist(), counts, strict=True)
        for seed in seeds
    ]

    def point(job: tuple[Over, float, int, str, int]) -> tuple[Row, Requests]:
        if configuration.options:
            return serve(configuration, load_workload(*job))
        return _served(as_met(configuration, over, job[1]), *job)

    done = each_of(configuration, point, jobs)
    starts = range(0, len(done), len(seeds))
    rows = tuple(tuple(row for row, _ in done[start : start + len(seeds)]) for start in starts)
    served = tuple(tuple(requests for _, requests in done[start : start + len(seeds)]) for start in starts)
    return LoadCurve(configuration, over, at, tuple(seeds), rows, served, like, counts)


def as_met(configuration: Configuration, over: Over, load: float) -> Configuration:
    """What of a configuration decides a point: so many users never fill more slots than they are.

    So a slider from 32 to 16 sequences at once asks for no simulation of 1 to 16 users.
    """
    slots = configuration.max_num_seqs
    return replace(configuration, name="", max_num_seqs=min(slots, int(load)) if over == "users" else slots)


@lru_cache(maxsize=2048)
def _served(
    configuration: Configuration, over: Over, load: float, seed: int, like: str, requests: int
) -> tuple[Row, Requests]:
    return serve(configuration, load_workload(over, load, seed, like, requests))


def serve(configuration: Configuration, workload: Workload) -> tuple[Row, Requests]:
    """Summary and requests of a workload's simulation."""
    run = simulate(workload, **configuration.arguments())
    return summary(run), run.requests


@lru_cache(maxsize=128)
def _goodputs(curve: LoadCurve, slo: SLO) -> Floats:
    values = [
        [goodput_per_s(requests, slo, _window(row)) for requests, row in zip(point, rows, strict=True)]
        for point, rows in zip(curve.served, curve.rows, strict=True)
    ]
    return np.array(values)


def _window(row: Row) -> tuple[float, float]:
    return float(row["window_start_s"]), float(row["window_end_s"])


def _requests(over: Over, load: float) -> int:
    return LEAST_REQUESTS + int(TURNS * load) if over == "users" else 12 * LEAST_REQUESTS
