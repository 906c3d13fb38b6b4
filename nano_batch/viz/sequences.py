"""The requests at a step as numbers: their logical tables, and the queues. The page shows the same texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.records import replay
from nano_batch.records.schema import SequenceState
from nano_batch.viz.selection import LETTERS
from nano_batch.viz.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nano_batch.records import EventLog, State

NAMES = ("waiting", "running", "ending")


def logical_tables(log: EventLog, step: int, requests: Sequence[str]) -> Table:
    """One row an entry of each request's logical table; a released entry has the block -1."""
    state = replay(log, step=step)
    rows: list[tuple[str, ...]] = []
    for letter, name in zip(LETTERS, requests, strict=False):
        row = _row_of(log, state, name)
        if row is None:
            continue
        stored = int(state.stored[row])
        for index, block in enumerate(state.table(row).tolist()):
            tokens = max(0, min(log.block_size, stored - index * log.block_size)) if block >= 0 else 0
            references = int(state.block_references[block]) if block >= 0 else 0
            rows.append((f"{letter} {name}", str(index), str(block), str(tokens), str(references)))
    columns = ("request", "index", "block", "tokens", "references")
    return Table(f"step {step}", columns, tuple(rows))


def queues(log: EventLog, step: int) -> Table:
    """One row a sequence that runs (by lane) or waits (in order of arrival)."""
    state = replay(log, step=step)
    rows = []
    for wanted in (SequenceState.RUNNING, SequenceState.WAITING):
        found = np.flatnonzero(state.state == wanted).tolist()
        found.sort(key=lambda row: (int(state.lane[row]), int(state.sequence[row])))
        rows += [
            (NAMES[wanted], _name(log, state, row), f"{state.stored[row]:,}", f"{_held(state, row):,}")
            for row in found
        ]
    return Table(f"step {step}", ("queue", "request", "tokens stored", "blocks held"), tuple(rows))


def describe_request(log: EventLog, step: int, requests: Sequence[str], place: int) -> str:
    """One selected request in a few words, as in the caption."""
    state = replay(log, step=step)
    row = _row_of(log, state, requests[place])
    head = f"{LETTERS[place]} {requests[place]}"
    if row is None:
        return f"{head} (not there)"
    tokens, held = int(state.stored[row]), _held(state, row)
    return f"{head} ({NAMES[int(state.state[row])]}, {tokens:,} tokens in {held:,} blocks)"


def _name(log: EventLog, state: State, row: int) -> str:
    number = int(state.sequence[row])
    return str(log.request_ids.get(number, number))


def _held(state: State, row: int) -> int:
    table: Any = state.table(row)
    return int((table >= 0).sum())


def _row_of(log: EventLog, state: State, name: str) -> int | None:
    return next((row for row in range(len(state.sequence)) if _name(log, state, row) == name), None)
