"""One step of a run as it is drawn: a state and the written token slots of every physical block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.records import Kind, replay
from nano_batch.viz.palette import CACHED, COMPUTED, FREE, IN_USE, SHARED, STATES
from nano_batch.viz.table import Table, percent

if TYPE_CHECKING:
    from nano_batch.records import EventLog, State


@dataclass(frozen=True)
class Frame:
    """What the block table shows at a step.

    Attributes:
        step: the step; its events are all included.
        state: uint8 [num_blocks], the numbers of `palette.STATES`.
        fill: int32 [num_blocks], token slots written in the block, each physical slot once.
    """

    step: int
    state: np.ndarray[Any, np.dtype[np.uint8]]
    fill: np.ndarray[Any, np.dtype[np.int32]]

    def table(self) -> Table:
        """Blocks and tokens by state, in the legend's order, with a total."""
        total = len(self.state)
        blocks = np.bincount(self.state, minlength=len(STATES))
        tokens = np.bincount(self.state, weights=self.fill, minlength=len(STATES)).astype(np.int64)
        rows = [
            _row(state.label, int(blocks[state.number]), total, int(tokens[state.number])) for state in STATES
        ]
        rows.append(_row("total", total, total, int(tokens.sum())))
        return Table(f"step {self.step}", ("state", "blocks", "% of blocks", "tokens stored"), tuple(rows))


def _row(label: str, blocks: int, total: int, tokens: int) -> tuple[str, ...]:
    return label, f"{blocks:,}", percent(blocks, total), f"{tokens:,}"


def frame_at(log: EventLog, step: int) -> Frame:
    """The frame after every event of `step`."""
    return frame_of(log, replay(log, step=step), step)


def frame_of(log: EventLog, state: State, step: int) -> Frame:
    """The frame of a replayed `state`, which holds every event of `step`."""
    references = state.block_references
    blocks = np.where(references > 1, SHARED, np.where(references == 1, IN_USE, FREE)).astype(np.uint8)
    blocks[(references == 0) & (state.block_cached != 0)] = CACHED
    fill = np.where(blocks == CACHED, log.block_size, 0).astype(np.int32)
    computed = _computed(log, step)
    for row, (sequence, stored) in enumerate(
        zip(state.sequence.tolist(), state.stored.tolist(), strict=True)
    ):
        table = state.table(row)
        held = np.flatnonzero(table >= 0)
        first_slot = held * log.block_size
        written = np.clip(stored - first_slot, 0, log.block_size).astype(np.int32)
        np.maximum.at(fill, table[held], written)
        since = stored - computed.get(sequence, 0)
        new = (first_slot + log.block_size > since) & (first_slot < stored) & (since < stored)
        blocks[table[held[new]]] = COMPUTED
    return Frame(step, blocks, fill)


def _computed(log: EventLog, step: int) -> dict[int, int]:
    """Tokens that each sequence computed in `step` and still holds after it."""
    tokens: dict[int, int] = {}
    first, last = np.searchsorted(log.step, [step, step + 1])
    for i in range(int(first), int(last)):
        kind, sequence = int(log.kind[i]), int(log.sequence[i])
        if kind == Kind.SCHEDULED:
            tokens[sequence] = tokens.get(sequence, 0) + int(log.argument[i])
        elif kind in (Kind.PREEMPTED, Kind.FINISHED):
            tokens.pop(sequence, None)
    return tokens
