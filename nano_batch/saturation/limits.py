"""Which limit binds at a load: each is doubled alone, and what that gains in throughput decides.

Faster hardware shortens every step, so it gains at every load. Where a setting or the memory gains at least
half as much as the most, it is named instead: it keeps the hardware from being used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nano_batch.core import check_options
from nano_batch.display import Shown
from nano_batch.metrics import steady_window, throughput
from nano_batch.saturation.configuration import Configuration, each_of
from nano_batch.saturation.curve import LoadCurve, Over, as_met, load_workload
from nano_batch.simulator import simulate
from nano_batch.workloads import Workload

#: A gain below this binds nobody: the load itself is the limit.
LEAST_GAIN = 0.02
HARDWARE = ("compute", "bandwidth", "step time")
THROUGHPUT = "throughput_output_tokens_per_s"


@dataclass(frozen=True)
class Binding(Shown):
    """The limit that binds at a load.

    Attributes:
        limit: its name, or "load" where no limit doubled alone gains 2 % (see the module).
        gains: the share of throughput that each limit gains when it alone is doubled, on the same requests:
            the median over the seeds of the paired differences.
    """

    limit: str
    gains: dict[str, float]

    @property
    def words(self) -> str:
        """The limit and what doubling it gains."""
        if self.limit == "load":
            return "the load: no limit doubled alone gains 2 %"
        return f"{self.limit}: doubled alone +{100 * self.gains[self.limit]:.0f} %"


def binding_limits(curve: LoadCurve, seeds: Sequence[int] | None = None) -> list[Binding]:
    """What binds at each load of a curve.

    Args:
        curve: the points.
        seeds: those of the curve whose requests are served again; by default all.

    Raises:
        ValueError: a seed that is not one of the curve's.
    """
    columns = [curve.seeds.index(seed) for seed in (curve.seeds if seeds is None else seeds)]
    own = curve.values(THROUGHPUT)[:, columns]
    relaxed = curve.configuration.relaxed()
    jobs = [
        (name, point, place)
        for name in relaxed
        for point in range(len(own))
        if _may_bind(name, curve, point)
        for place in range(len(columns))
    ]

    def gain(job: tuple[str, int, int]) -> float:
        name, point, place = job
        load, seed = float(curve.loads[point]), curve.seeds[columns[place]]
        served = (curve.over, load, seed, curve.like, curve.requests[point])
        if curve.configuration.options:
            found = _throughput(relaxed[name], load_workload(*served))
        else:
            found = _known_throughput(as_met(relaxed[name], curve.over, load), *served)
        return found / float(own[point, place]) - 1

    gains = {name: np.zeros(own.shape) for name in relaxed}
    for (name, *at), found in zip(jobs, each_of(curve.configuration, gain, jobs), strict=True):
        gains[name][tuple(at)] = found
    medians = {name: np.median(values, axis=1).tolist() for name, values in gains.items()}
    return [_binding({name: values[point] for name, values in medians.items()}) for point in range(len(own))]


@lru_cache(maxsize=2048)
def _known_throughput(
    configuration: Configuration, over: Over, load: float, seed: int, like: str, requests: int
) -> float:
    return _throughput(configuration, load_workload(over, load, seed, like, requests))


def _throughput(configuration: Configuration, workload: Workload) -> float:
    """The throughput of a workload's simulation, as `summary` has it."""
    requests = simulate(workload, keep_steps=2, **configuration.arguments()).requests
    return throughput(requests, steady_window(requests)).output_tokens_per_s


def _may_bind(limit: str, curve: LoadCurve, point: int) -> bool:
    """Whether doubling the limit can change the schedule at all: what was never reached need not be run."""
    configuration = curve.configuration
    if limit == "max_num_seqs":
        return curve.over == "rate" or curve.loads[point] > configuration.max_num_seqs
    if limit == "token budget":
        # A closed loop's users cannot ask for more in one step than all of them at once.
        longest = int(max(curve.workload(point, seed).prompt_tokens.max() for seed in curve.seeds))
        most = longest * curve.loads[point]
        return curve.over == "rate" or bool(most > configuration.max_num_batched_tokens)
    if limit == "KV blocks":
        return _may_lack_blocks(curve, point)
    return True


def _may_lack_blocks(curve: LoadCurve, point: int) -> bool:
    """Whether a request may have waited for blocks: in some seed the longest prompt does not fit beside the
    most blocks ever held, or a sequence was preempted.
    """
    arguments = curve.configuration.arguments()
    total, size = int(arguments["num_blocks"]), int(arguments["block_size"])
    workloads = [curve.workload(point, seed) for seed in curve.seeds]
    longest = max(int(workload.prompt_tokens.max()) for workload in workloads)
    most = float(curve.values("kv_block_utilisation_max")[point].max()) * total
    kept_free = float(arguments.get("watermark", check_options()["watermark"])) * total
    ample = most + kept_free + longest // size + 2 <= total
    # Cached blocks may go before memory lacks, and a region may find no gap.
    others = "reservation" in arguments or any(asked.block_size is not None for asked in workloads)
    return others or not ample or bool(curve.values("preemptions")[point].any())


def _binding(gains: dict[str, float]) -> Binding:
    most = max(gains.values())
    if most < LEAST_GAIN:
        return Binding("load", gains)
    rivals = {name: gain for name, gain in gains.items() if gain >= most / 2}
    named = {name: gain for name, gain in rivals.items() if name not in HARDWARE} or rivals
    return Binding(max(named, key=lambda name: named[name]), gains)
