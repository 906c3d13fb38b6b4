"""Blocks held over a whole run, from its events: what a view says about the run and where it opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.records import Kind
from nano_batch.viz.wire import step_range

if TYPE_CHECKING:
    from nano_batch.records import EventLog


@dataclass(frozen=True)
class Usage:
    """One run in numbers: `steps`, `peak` blocks held at once (of `num_blocks`), evictions, preemptions."""

    steps: int
    peak: int
    num_blocks: int
    evictions: int
    preemptions: int
    opening_step: int


def usage(log: EventLog) -> Usage:
    """Count a run. It opens at its first preemption, else where most blocks are held."""
    first, last = step_range(log)
    held = blocks_held(log)
    preempted = log.step[log.kind == Kind.PREEMPTED]
    at_peak = first + int(held.argmax())
    return Usage(
        steps=last,
        peak=int(held.max()),
        num_blocks=log.num_blocks,
        evictions=int((log.kind == Kind.EVICTED).sum()),
        preemptions=len(preempted),
        opening_step=int(preempted[0]) if len(preempted) else at_peak,
    )


def blocks_held(log: EventLog) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Blocks with a reference count above 0 after each step, int64 [last step - first step + 1].

    Sorted by block, the running sum of an event column's +1 and -1 is the block's reference count; where it
    leaves or reaches 0 the number of blocks held changes.
    """
    first, last = step_range(log)
    start = np.asarray(log.keyframes[0].block_references, dtype=np.int64)
    step, block, change = _reference_changes(log)
    order = np.argsort(block, kind="stable")
    step, block, change = step[order], block[order], change[order]
    head = np.r_[True, block[1:] != block[:-1]] if len(block) else np.zeros(0, dtype=bool)
    total = np.cumsum(change)
    before_block = np.repeat((total - change)[head], np.diff(np.r_[np.flatnonzero(head), len(block)]))
    count = total - before_block + start[block]
    delta = (count > 0).astype(np.int64) - (count - change > 0)
    per_step = np.bincount(step - first, weights=delta, minlength=last - first + 1)
    return np.cumsum(per_step).astype(np.int64) + int((start > 0).sum())


def _reference_changes(log: EventLog) -> tuple[Any, Any, Any]:
    kind = np.asarray(log.kind)
    touched = np.flatnonzero((kind >= Kind.ALLOCATED) & (kind <= Kind.FREED))
    step = np.asarray(log.step, dtype=np.int64)[touched]
    block = np.asarray(log.block, dtype=np.int64)[touched]
    change = np.where(kind[touched] == Kind.FREED, -1, 1)
    copies = np.flatnonzero(kind[touched] == Kind.COPIED)  # a copy also gives up its source
    source = np.asarray(log.argument, dtype=np.int64)[touched][copies]
    step = np.insert(step, copies, step[copies])
    block = np.insert(block, copies, source)
    change = np.insert(change, copies, -1)
    return step, block, change
