"""Six moments worth looking at, each in a run of the real scheduler: what the opening view's buttons show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from nano_batch.errors import UnknownOptionError
from nano_batch.records import EventLog, Kind, Run
from nano_batch.simulator import simulate
from nano_batch.workloads import Families, Workload


@dataclass(frozen=True)
class Stage:
    """Requests, a KV memory in tokens, and the engine's settings."""

    name: str
    make: Callable[[], Workload]
    memory_tokens: int
    block_size: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    __hash__ = object.__hash__  # one stage is itself: its workload and run are kept

    @lru_cache(maxsize=4)  # noqa: B019  the stages live as long as the module
    def workload(self) -> Workload:
        """Its requests."""
        return self.make()

    @lru_cache(maxsize=4)  # noqa: B019
    def run(self) -> Run:
        """Its run at its own settings, served once."""
        return self.serve(block_size=self.block_size)

    def serve(self, *, block_size: int, **settings: Any) -> Run:
        """The same requests on the same memory under other settings."""
        num_blocks = self.memory_tokens // max(1, block_size)
        own = with_swap_space({**self.settings, **settings}, num_blocks)
        return simulate(self.workload(), num_blocks=num_blocks, block_size=block_size, event_log=True, **own)


@dataclass(frozen=True)
class Scene:
    """A moment of a stage's run: its number, its button, what to look at, and how the step is found."""

    number: int
    label: str
    sentence: str
    stage: Stage
    moment: Callable[[EventLog], int]


def with_swap_space(options: Mapping[str, Any], num_blocks: int) -> dict[str, Any]:
    """`options` of an engine; preemption by swap gets a host pool as large unless one is given."""
    given = dict(options)
    if given.get("preemption") == "swap":
        given.setdefault("num_swap_blocks", num_blocks)
    return given


def _three_requests() -> Workload:
    """Two requests that begin with the same 64 tokens, and a long one beside them."""
    prompts, outputs = (90, 100, 170), (70, 60, 40)
    ids, offsets, fresh = [], [0], 4
    for tokens, shared in zip(prompts, (4, 4, 0), strict=True):
        own = -(-tokens // 16) - shared
        ids += [*range(shared), *range(fresh, fresh + own)]
        fresh += own
        offsets.append(len(ids))
    return Workload(
        np.zeros(3),
        np.array(prompts),
        np.array(outputs),
        block_offsets=np.array(offsets),
        block_ids=np.array(ids, np.int32),
        block_size=16,
        name="three requests",
    )


def _crowd() -> Workload:
    families = Families(count=2, prefix_tokens=256, share=0.5)
    return Workload.synthetic(120, like="azure_conv", seed=1, arrivals="at_once", families=families)


def _hour() -> Workload:
    families = Families(count=8, prefix_tokens=2048, share=0.5)
    return Workload.synthetic(
        160, like="mooncake_conversation", seed=1, arrivals="at_once", families=families
    )


OPENING = Stage("small", _three_requests, 24 * 16, 16, {"max_num_batched_tokens": 64, "watermark": 0.0})
CROWD = Stage(
    "crowd", _crowd, 4096 * 16, 16, {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "watermark": 0.0}
)
HOUR = Stage("hour", _hour, 65_536 * 16, 16, {"max_num_seqs": 64, "max_num_batched_tokens": 8192})


def first_step(log: EventLog, kind: Kind) -> int:
    """The first step with an event of `kind`.

    Raises:
        UnknownOptionError: the run has none.
    """
    steps = log.step[log.kind == kind]
    if not len(steps):
        raise UnknownOptionError(f"the run has no event {kind.name.lower()!r}")
    return int(steps[0])


def first_growth(log: EventLog) -> int:
    """The first step in which an answer, not a prompt, needs a new block."""
    arrived = log.kind == Kind.ARRIVED
    prompts = dict(zip(log.sequence[arrived].tolist(), log.argument[arrived].tolist(), strict=True))
    taken = log.kind == Kind.ALLOCATED
    rows = zip(*(column[taken].tolist() for column in (log.step, log.sequence, log.argument)), strict=True)
    return int(next(step for step, name, index in rows if index * log.block_size >= prompts[name]))


def peak(log: EventLog) -> int:
    """The step after which most blocks are held."""
    from nano_batch.viz.usage import blocks_held
    from nano_batch.viz.wire import step_range

    return step_range(log)[0] + int(blocks_held(log).argmax())


SCENES = (
    Scene(
        1,
        "a request grows",
        "A new token found its request's last block full: "
        "one new block is taken, and one of its slots is written.",
        OPENING,
        first_growth,
    ),
    Scene(
        2,
        "a prefix is shared",
        "Two requests begin with the same 64 tokens: the second points at the first one's blocks "
        "(corner mark, ×2) and computes nothing for them.",
        OPENING,
        lambda log: first_step(log, Kind.SHARED),
    ),
    Scene(
        3,
        "a request is preempted",
        "A running request needs a block and none is left: the request that came last "
        "loses all of its blocks and goes back to the queue.",
        OPENING,
        lambda log: first_step(log, Kind.PREEMPTED),
    ),
    Scene(
        4,
        "a cached block is evicted",
        "Blocks nobody holds are kept for their prefix until memory runs short: "
        "the one unused for longest is taken (×).",
        OPENING,
        lambda log: first_step(log, Kind.EVICTED),
    ),
    Scene(
        5,
        "memory runs out",
        "120 chat requests on 4,096 blocks: at the first preemption hardly a block is free; "
        "the waiting queue stands still until a request ends.",
        CROWD,
        lambda log: first_step(log, Kind.PREEMPTED),
    ),
    Scene(
        6,
        "a production hour",
        "65,536 blocks, at the step that holds most of them: 160 requests as long as those of one hour of a "
        "production service. Point at a block for the lens.",
        HOUR,
        peak,
    ),
)
