"""A configuration under load: what a step takes, the memory, the engine's limits; and each limit doubled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nano_batch.display import Shown
from nano_batch.simulator import Constant, Roofline
from nano_batch.sweeps.grid import with_blocks
from nano_batch.threads import in_threads

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Configuration(Shown):
    """What serves the load.

    Attributes:
        cost: a roofline, whose arithmetic and bandwidth are limits of their own, or a constant step.
        memory_tokens: tokens that the KV memory holds; `block_size` cuts it into blocks.
        options: further options of `simulate` and of the engine.
    """

    name: str
    cost: Roofline | Constant
    memory_tokens: int
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    options: tuple[tuple[str, Any], ...] = field(default=())

    def arguments(self) -> dict[str, Any]:
        """Those of `simulate`.

        Raises:
            SweepError: the memory holds no such block.
        """
        names = ("memory_tokens", "block_size", "max_num_seqs", "max_num_batched_tokens")
        given = {name: getattr(self, name) for name in names}
        return {**with_blocks(given), "cost": self.cost, **dict(self.options)}

    def relaxed(self) -> dict[str, Configuration]:
        """The configuration with each limit doubled alone, by the limit's name."""
        return {
            **{name: replace(self, cost=cost) for name, cost in _faster(self.cost).items()},
            "KV blocks": replace(self, memory_tokens=2 * self.memory_tokens),
            "max_num_seqs": replace(self, max_num_seqs=2 * self.max_num_seqs),
            "token budget": replace(self, max_num_batched_tokens=2 * self.max_num_batched_tokens),
        }


def _faster(cost: Roofline | Constant) -> dict[str, Roofline | Constant]:
    if isinstance(cost, Constant):
        return {"step time": Constant(cost.device_s / 2, cost.host_s / 2)}
    return {
        "compute": replace(cost, flops_per_s=2 * cost.flops_per_s),
        "bandwidth": replace(cost, bytes_per_s=2 * cost.bytes_per_s),
    }


def each_of(configuration: Configuration, work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """`work` of each job in threads; in turn where a policy of the reader's own decides: it may remember."""
    own = not isinstance(dict(configuration.options).get("policy", ""), str)
    return [work(job) for job in jobs] if own else in_threads(work, jobs)
