"""What happened in a run, told from its event log: who took blocks, which were evicted, who was preempted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nano_batch.errors import UnknownRequestError
from nano_batch.records import EventLog, Kind, State
from nano_batch.records.replayer import Replayer
from nano_batch.viz.run_view import event_log
from nano_batch.viz.table import Table


def growth(run: Any, request_id: str) -> Table:
    """Each block that a request took for itself, and how many of its tokens were stored before that step.

    Args:
        run: an engine with its event log on, a `Run` with one, or the log.
        request_id: the request's id.

    Raises:
        UnknownRequestError: if the run has no such request.
    """
    log = event_log(run)
    number = _number(log, request_id)
    rows = []
    for at, before in _before(log, Kind.ALLOCATED):
        if log.sequence[at] == number:
            rows.append(_growth_row(log, at, before))
    header = (
        "step",
        "tokens before",
        f"tokens before % {log.block_size}",
        "tokens written",
        "logical block",
        "block",
    )
    return Table(f"blocks that {request_id} took, of {log.block_size} tokens", header, tuple(rows))


def _growth_row(log: EventLog, at: int, before: State) -> tuple[str, ...]:
    stored = int(before.stored[_row(before, int(log.sequence[at]))])
    mine = (log.step == log.step[at]) & (log.sequence == log.sequence[at]) & (log.kind == Kind.SCHEDULED)
    written = int(log.argument[mine].sum())
    if mine[:at].any():  # the tokens of this step count already
        stored -= written
    cells = (log.step[at], stored, stored % log.block_size, written, log.argument[at], log.block[at])
    return tuple(f"{int(cell):,}" for cell in cells)


def evictions(run: Any) -> Table:
    """The cached blocks that were taken for something else, in order: whose they had been, and which of its.

    "logical block" is the block's place in the table of the sequence that let go of it last.
    """
    log = event_log(run)
    last: dict[int, tuple[int, int]] = {}
    rows = []
    events = zip(*(column.tolist() for _, column in log.items()), strict=True)
    for step, kind, sequence, block, argument in events:
        if kind == Kind.FREED:
            last[block] = (sequence, argument)
        elif kind == Kind.EVICTED:
            owner, index = last.get(block, (None, None))
            rows.append((f"{step:,}", _name(log, sequence), f"{block:,}", _name(log, owner), _text(index)))
    header = ("step", "taken by", "block", "last held by", "logical block")
    return Table(f"cached blocks evicted: {len(rows):,}", header, tuple(rows))


def preemptions(run: Any) -> Table:
    """Who was preempted, what it had stored, what it had when it came back and what was computed again.

    "from cache" counts what it found in the prefix cache, "swapped in" what was copied back from the host.
    A request that has not come back has "–" there.
    """
    log = event_log(run)
    rows = []
    for at, before in _before(log, Kind.PREEMPTED):
        sequence = int(log.sequence[at])
        stored = int(before.stored[_row(before, sequence)])
        rows.append(
            (f"{int(log.step[at]):,}", _name(log, sequence), f"{stored:,}", *_return(log, at, stored))
        )
    header = (
        "step",
        "request",
        "tokens stored",
        "back at step",
        "tokens from cache",
        "tokens swapped in",
        "tokens computed again",
    )
    return Table(f"preemptions: {len(rows):,}", header, tuple(rows))


def _return(log: EventLog, at: int, stored: int) -> tuple[str, ...]:
    """How the sequence that event `at` preempts comes back."""
    mine = log.sequence == log.sequence[at]
    later = np.arange(len(log.step)) > at
    admitted = np.flatnonzero(mine & later & (log.kind == Kind.ADMITTED))
    if not len(admitted):
        return "–", "–", "–", "–"
    step, tokens = log.step[admitted[0]], int(log.argument[admitted[0]])
    swaps = mine & later & (log.kind == Kind.SWAPPED_IN) & (log.step == step)
    shares = mine & later & (log.kind == Kind.SHARED) & (log.step == step)
    cached = min(int(shares.sum()) * log.block_size, tokens) if swaps.any() else tokens
    return f"{int(step):,}", f"{cached:,}", f"{tokens - cached:,}", f"{stored - tokens:,}"


def _before(log: EventLog, kind: Kind) -> Iterator[tuple[int, State]]:
    """(place in the log, state before it) of each event of a kind, in one pass."""
    replayer = Replayer(log.keyframes[0])
    for at in np.flatnonzero(log.kind == kind).tolist():
        replayer.run(log, log.first_event + at)
        yield at, replayer.state()


def _row(state: State, sequence: int) -> int:
    return int(np.flatnonzero(state.sequence == sequence)[0])


def _number(log: EventLog, request_id: str) -> int:
    for number, name in log.request_ids.items():
        if name == request_id:
            return number
    known = ", ".join(list(log.request_ids.values())[:8])
    raise UnknownRequestError(f"the run has no request {request_id!r}; it has: {known}")


def _name(log: EventLog, sequence: int | None) -> str:
    return "–" if sequence is None else log.request_ids.get(sequence, "–")


def _text(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
