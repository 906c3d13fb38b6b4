"""What requests hold after each step of a run: which tokens are stored, and in which blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nano_batch.records import EventLog, Kind


@dataclass(frozen=True)
class Held:
    """A request after a step, its end included: then `table` says what it held last.

    Attributes:
        stored: tokens whose keys and values are written.
        computed: how many of them, the last ones, were computed in the step.
        found: how many, the first ones, were in the prefix cache when it was admitted.
        table: the block of each logical index.
        ended: whether it has given its blocks back.
    """

    stored: int
    computed: int
    found: int
    table: Mapping[int, int]
    ended: bool


def held_at(log: EventLog, request: int, step: int) -> Held:
    """What the sequence of this number holds after `step`, by its own events.

    A replay forgets a request that has ended; here its table stays, so that its blocks can still be named.
    """
    stored = computed = found = 0
    table: dict[int, int] = {}
    ended = False
    mine = (log.sequence == request) & (log.step <= step)
    columns = (log.step, log.kind, log.block, log.argument)
    for when, kind, block, argument in zip(*(each[mine].tolist() for each in columns), strict=True):
        if kind == Kind.ADMITTED:
            stored = found = argument
        elif kind == Kind.SCHEDULED:
            stored, computed = stored + argument, argument if when == step else 0
        elif kind in (Kind.ALLOCATED, Kind.SHARED):
            table[argument] = block
        elif kind == Kind.COPIED:
            table = {index: block if held == argument else held for index, held in table.items()}
        elif kind == Kind.PREEMPTED:
            stored, computed, table = 0, 0, {}
        ended = ended or kind == Kind.FINISHED
    return Held(stored, computed, found, table, ended)
