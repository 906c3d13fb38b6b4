"""Rebuild the state of blocks and sequences from the event log: the plain reference of docs/records.md.

One method an event kind; the views' JavaScript follows the same table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from nano_batch.errors import ReplayError
from nano_batch.records.events import EventLog, State
from nano_batch.records.schema import Kind, SequenceState

_WAITING, _RUNNING, _ENDING = (int(state) for state in SequenceState)


def replay(log: EventLog, *, step: int | None = None, event: int | None = None) -> State:
    """The state after all events of steps up to `step`, or before event number `event`; by default at the
    end.

    Starts from the newest keyframe before it, so that at most 256 steps are replayed.

    Args:
        log: the events.
        step: a step's number; what `update` did after it is included.
        event: an event's index, counted from the run's start, that is not included any more.

    Raises:
        ReplayError: that moment is not in the log, or the log contradicts itself.
    """
    if step is not None and event is not None:
        raise ReplayError(f"a step ({step}) and an event ({event}) are given; it must be one of them")
    end = log.first_event + len(log)
    if step is not None:
        event = log.first_event + int(np.searchsorted(log.step, step, side="right"))
        if step < log.keyframes[0].step:
            raise ReplayError(f"step {step} is not in the log; it begins at step {log.keyframes[0].step}")
    target = end if event is None else event
    if not log.first_event <= target <= end:
        raise ReplayError(f"event {target} is not in the log; it holds {log.first_event} to {end}")
    start = max((frame for frame in log.keyframes if frame.event <= target), key=lambda frame: frame.event)
    replayer = Replayer(start)
    replayer.run(log, target)
    return replayer.state()


def walk(log: EventLog) -> Iterator[State]:
    """The state after each step that has events, in order, in one pass."""
    replayer = Replayer(log.keyframes[0])
    ends = np.flatnonzero(np.diff(log.step, append=log.step[-1:] + 1)) + 1 if len(log) else ()
    for end in ends:
        replayer.run(log, log.first_event + int(end))
        yield replayer.state()


@dataclass
class _Sequence:
    state: int = _WAITING
    stored: int = 0
    lane: int = -1
    table: list[int] = field(default_factory=list)


class Replayer:
    """A state that events are applied to."""

    def __init__(self, start: State) -> None:
        self.step = start.step
        self.event = start.event
        self._block_size = 1
        self._references: list[int] = start.block_references.tolist()
        self._cached: list[int] = start.block_cached.tolist()
        columns = (start.sequence.tolist(), start.state.tolist(), start.stored.tolist(), start.lane.tolist())
        self._sequences = {
            number: _Sequence(state, stored, lane, start.table(row).tolist())
            for row, (number, state, stored, lane) in enumerate(zip(*columns, strict=True))
        }

    def run(self, log: EventLog, target: int) -> None:
        """Apply the log's events from where this state stands up to event number `target`."""
        self._block_size = log.block_size
        part = slice(self.event - log.first_event, target - log.first_event)
        rows = zip(*(column[part].tolist() for _, column in log.items()), strict=True)
        for step, kind, sequence, block, argument in rows:
            self.step = step
            try:
                self._apply(kind, sequence, block, argument)
            except (KeyError, IndexError, ValueError) as error:
                raise ReplayError(
                    f"event {self.event} (step {step}, kind {kind}, sequence {sequence}, block {block}, "
                    f"argument {argument}) contradicts the log before it: {error}"
                ) from error
            self.event += 1

    def _apply(self, kind: int, sequence: int, block: int, argument: int) -> None:
        if kind == Kind.SCHEDULED:
            self._sequences[sequence].stored += argument
        elif kind in (Kind.ALLOCATED, Kind.SHARED):
            self._hold(sequence, block, argument, fresh=kind == Kind.ALLOCATED)
        elif kind == Kind.FREED:
            self._free(sequence, block, argument)
        elif kind in (Kind.CACHED, Kind.EVICTED):
            self._mark(block, kind)
        elif kind == Kind.COPIED:
            self._copy(sequence, block, argument)
        elif kind not in (Kind.SWAPPED_OUT, Kind.SWAPPED_IN):
            self._move(kind, sequence, block, argument)

    def _move(self, kind: int, sequence: int, lane: int, argument: int) -> None:
        """What changes a sequence's own state."""
        if kind in (Kind.ARRIVED, Kind.FORKED):
            if sequence in self._sequences:
                raise ValueError("the sequence exists already")
            self._sequences[sequence] = _Sequence()
        elif kind == Kind.ADMITTED:
            one = self._sequences[sequence]
            one.state, one.stored, one.lane = _RUNNING, argument, lane
            one.table = [-1] * -(-argument // self._block_size)
        elif kind == Kind.PREEMPTED:
            one = self._sequences[sequence]
            one.state, one.stored, one.lane, one.table = _WAITING, 0, -1, []
        elif kind == Kind.FINISHED:
            one = self._sequences[sequence]
            one.state, one.lane = _ENDING, -1
            self._drop_if_gone(sequence)
        else:
            raise ValueError("unknown kind")

    def _hold(self, sequence: int, block: int, index: int, fresh: bool) -> None:
        table = self._sequences[sequence].table
        if index == len(table):
            table.append(-1)
        if table[index] != -1:
            raise ValueError(f"entry {index} holds block {table[index]}")
        if fresh and self._references[block]:
            raise ValueError(f"the block has {self._references[block]} references")
        table[index] = block
        self._references[block] += 1

    def _free(self, sequence: int, block: int, index: int) -> None:
        table = self._sequences[sequence].table
        if table[index] != block:
            raise ValueError(f"entry {index} holds block {table[index]}")
        table[index] = -1
        self._release(block)
        self._drop_if_gone(sequence)

    def _copy(self, sequence: int, block: int, source: int) -> None:
        table = self._sequences[sequence].table
        table[table.index(source)] = block
        self._release(source)
        self._references[block] += 1

    def _release(self, block: int) -> None:
        if self._references[block] < 1:
            raise ValueError("the block has no reference")
        self._references[block] -= 1

    def _mark(self, block: int, kind: int) -> None:
        marked = kind == Kind.CACHED
        if self._cached[block] == marked:
            raise ValueError("the block is marked already" if marked else "the block is not marked")
        self._cached[block] = int(marked)

    def _drop_if_gone(self, number: int) -> None:
        one = self._sequences[number]
        if one.state == _ENDING and all(block < 0 for block in one.table):
            del self._sequences[number]

    def state(self) -> State:
        """A frozen copy, sequences in the order of their numbers."""
        numbers = sorted(self._sequences)
        ordered = [self._sequences[number] for number in numbers]
        return State(
            step=self.step,
            event=self.event,
            block_references=np.array(self._references, np.int32),
            block_cached=np.array(self._cached, np.uint8),
            sequence=np.array(numbers, np.uint32),
            state=np.array([one.state for one in ordered], np.uint8),
            stored=np.array([one.stored for one in ordered], np.int32),
            lane=np.array([one.lane for one in ordered], np.int32),
            table_offsets=np.cumsum([0, *(len(one.table) for one in ordered)]).astype(np.int32),
            tables=np.array([block for one in ordered for block in one.table], np.int32),
        )
