"""Waste: what every physical slot of the KV cache is doing (docs/metrics.md, "Waste")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nano_batch.display import Shown
from nano_batch.errors import MetricsError
from nano_batch.records import Requests, Run, State, walk


@dataclass(frozen=True)
class Waste(Shown):
    """Physical token slots at one moment, each counted once.

    total = used + reserved + internal + cached + free. `reserved` and `internal` are None while final
    lengths are unknown; `unfilled` is their sum. `external` is a part of `free`; `sharing` is no part of
    the sum: slots that would be needed on top if nothing were shared.
    """

    total: int
    used: int
    unfilled: int
    cached: int
    free: int
    reserved: int | None = None
    internal: int | None = None
    external: int = 0
    sharing: int = 0

    @property
    def utilisation(self) -> float:
        """KV utilisation in slots, used / total, from 0 to 1."""
        return self.used / self.total if self.total else 0.0


def waste(state: State, block_size: int, final_tokens: Mapping[int, int] | None = None) -> Waste:
    """The split of a paged cache at one moment.

    Under paging any free block serves the next request, so `external` is 0.

    Args:
        state: a `State` of a replay, a keyframe, or `Engine.snapshot()`.
        block_size: slots a block.
        final_tokens: f of each sequence that holds blocks, by its number (`final_stored_tokens`), or None
            while they are unknown.

    Raises:
        MetricsError: `final_tokens` lacks a sequence that holds blocks.
    """
    held, block, row = _held_entries(state)
    start = held * block_size
    written = np.clip(state.stored[row] - start, 0, block_size)
    num_blocks = len(state.block_references)
    # A shared slot counts once: for its block the fullest owner decides.
    used = np.zeros(num_blocks, np.int64)
    np.maximum.at(used, block, written)
    in_use = np.zeros(num_blocks, bool)
    in_use[block] = True
    filled = int(used.sum())
    unfilled = int(in_use.sum()) * block_size - filled
    _, cached, free = (count * block_size for count in state.block_counts)
    reserved = internal = None
    if final_tokens is not None:
        ends = _final(state, row, final_tokens)
        below = used.copy()
        np.maximum.at(below, block, np.clip(ends - start, 0, block_size))
        reserved = int(below.sum()) - filled
        internal = unfilled - reserved
    return Waste(
        total=num_blocks * block_size,
        used=filled,
        unfilled=unfilled,
        cached=cached,
        free=free,
        reserved=reserved,
        internal=internal,
        sharing=int(written.sum()) - filled,
    )


def _held_entries(state: State) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """For each table entry that holds a block: its logical index, the block, the sequence's row."""
    counts = np.diff(state.table_offsets)
    row = np.repeat(np.arange(len(counts)), counts)
    index = np.arange(len(state.tables)) - np.repeat(state.table_offsets[:-1], counts)
    held = state.tables >= 0
    return index[held].astype(np.int64), state.tables[held], row[held]


def _final(state: State, row: NDArray[Any], final_tokens: Mapping[int, int]) -> NDArray[np.int64]:
    ends = np.full(len(state.sequence), -1, np.int64)
    for holder in np.unique(row).tolist():
        number = int(state.sequence[holder])
        if number not in final_tokens:
            raise MetricsError(
                f"final_tokens lacks sequence {number}, which holds blocks at step {state.step}"
            )
        ends[holder] = final_tokens[number]
    of_entries: NDArray[np.int64] = ends[row]
    return of_entries


def external_slots(gaps: ArrayLike, reservation: int | None) -> int:
    """External fragmentation of a contiguous allocator: free slots in gaps too small for a reservation.

    Args:
        gaps: lengths of the free gaps, in slots.
        reservation: slots that the first waiting request reserves, or None where none waits: then 0.
    """
    lengths = np.asarray(gaps, np.int64)
    return 0 if reservation is None else int(lengths[lengths < reservation].sum())


def final_stored_tokens(requests: Requests) -> dict[int, int]:
    """f of each ended sequence by its number: prompt + output − 1 (the last token is never stored)."""
    ended = np.flatnonzero(np.isfinite(requests.finish_s))
    stored = requests.prompt_tokens[ended] + np.maximum(requests.output_tokens[ended], 1) - 1
    return dict(zip(requests.sequence[ended].tolist(), stored.tolist(), strict=True))


def waste_over_time(run: Run, final_tokens: Mapping[int, int] | None = None) -> Iterator[tuple[int, Waste]]:
    """(step, waste after it) for each step that has events, in one pass over the log.

    Raises:
        MetricsError: the run has no event log, or `final_tokens` lacks a sequence.
    """
    if run.events is None:
        raise MetricsError("waste over time needs a run's event log; make the engine with event_log=True")
    size = run.events.block_size
    return ((state.step, waste(state, size, final_tokens)) for state in walk(run.events))
