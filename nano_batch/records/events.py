"""The table *events* of docs/records.md with its keyframes, and the state that a replay rebuilds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import Shown
from nano_batch.errors import RecordsError
from nano_batch.records.columns import Columns, same
from nano_batch.records.schema import SequenceState

_BLOCK_ARRAYS = {"block_references": np.int32, "block_cached": np.uint8}
_SEQUENCE_ARRAYS = {"sequence": np.uint32, "state": np.uint8, "stored": np.int32, "lane": np.int32}
_TABLE_ARRAYS = {"table_offsets": np.int32, "tables": np.int32}
STATE_ARRAYS: dict[str, Any] = {**_BLOCK_ARRAYS, **_SEQUENCE_ARRAYS, **_TABLE_ARRAYS}


@dataclass(frozen=True, eq=False, repr=False)
class State(Shown):
    """Blocks and sequences at one moment: what a keyframe holds and a replay gives.

    Attributes:
        step: steps planned so far.
        event: index of the first event that is not included, counted from the run's start.
        block_references: int32 [num_blocks].
        block_cached: uint8 [num_blocks], 1 where the prefix cache knows the content.
        sequence: uint32 [S].
        state: uint8 [S]: 0 waiting, 1 running, 2 ending.
        stored: int32 [S], written tokens.
        lane: int32 [S], −1 when not running.
        table_offsets: int32 [S + 1]; the table of sequence i is `tables[table_offsets[i]:table_offsets[i +
            1]]`.
        tables: int32, −1 where a block was released.
    """

    step: int
    event: int
    block_references: NDArray[np.int32]
    block_cached: NDArray[np.uint8]
    sequence: NDArray[np.uint32]
    state: NDArray[np.uint8]
    stored: NDArray[np.int32]
    lane: NDArray[np.int32]
    table_offsets: NDArray[np.int32]
    tables: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name, dtype in STATE_ARRAYS.items():
            array = np.array(getattr(self, name), dtype=dtype)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        sizes = {name: len(getattr(self, name)) for name in STATE_ARRAYS}
        if sizes["block_references"] != sizes["block_cached"]:
            raise RecordsError(f"a state's block arrays differ in length: {sizes}")
        if len({sizes[name] for name in _SEQUENCE_ARRAYS} | {sizes["table_offsets"] - 1}) != 1:
            raise RecordsError(f"a state's sequence arrays differ in length: {sizes}")

    @classmethod
    def adopt(cls, **values: Any) -> State:
        """A state of new arrays of the right types that nobody else holds: taken as they are."""
        state = object.__new__(cls)
        for name, value in values.items():
            if name in STATE_ARRAYS:
                value.flags.writeable = False
            object.__setattr__(state, name, value)
        return state

    @classmethod
    def of(cls, other: Any) -> State:
        """The state of any object with these attributes, such as `Engine.snapshot()` or a keyframe."""
        arrays = {name: getattr(other, name) for name in STATE_ARRAYS}
        return cls(step=int(other.step), event=int(other.event), **arrays)

    def table(self, row: int) -> NDArray[np.int32]:
        """The block table of the sequence in a row."""
        return self.tables[self.table_offsets[row] : self.table_offsets[row + 1]]

    @property
    def num_running(self) -> int:
        """Sequences that run."""
        return int((self.state == SequenceState.RUNNING).sum())

    @property
    def num_waiting(self) -> int:
        """Sequences that wait."""
        return int((self.state == SequenceState.WAITING).sum())

    @property
    def block_counts(self) -> tuple[int, int, int]:
        """Blocks used (referenced), cached (kept by the prefix cache alone) and free; they add up to all."""
        used = self.block_references > 0
        cached = ~used & (self.block_cached > 0)
        return int(used.sum()), int(cached.sum()), int((~used & ~cached).sum())

    def sorted(self) -> State:
        """The same state, its sequences in the order of their numbers."""
        order = np.argsort(self.sequence, kind="stable")
        tables = [self.table(int(row)) for row in order]
        offsets = np.cumsum([0, *map(len, tables)])
        columns = {name: getattr(self, name)[order] for name in _SEQUENCE_ARRAYS}
        blocks = {name: getattr(self, name) for name in _BLOCK_ARRAYS}
        flat = np.concatenate([*tables, np.empty(0, np.int32)])
        return State(self.step, self.event, **blocks, **columns, table_offsets=offsets, tables=flat)

    def differences(self, other: State) -> list[str]:
        """The names of the arrays that differ, sequences matched by number; empty if the states are the
        same.
        """
        a, b = self.sorted(), other.sorted()
        return [name for name in STATE_ARRAYS if not same(getattr(a, name), getattr(b, name))]

    def __eq__(self, other: object) -> bool:
        """No differences; step and event do not count."""
        return not self.differences(other) if isinstance(other, State) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        used, cached, free = self.block_counts
        return (
            f"State after step {self.step}: {self.num_running} running, {self.num_waiting} waiting, "
            f"blocks {used} used, {cached} cached, {free} free"
        )


@dataclass(frozen=True, eq=False, repr=False)
class EventLog(Columns):
    """What happened to sequences and blocks, in causal order, with a keyframe every 256 steps.

    `first_event` events of the run's start were dropped by the ring; the first keyframe is the state there.
    `request_ids` maps sequence numbers to ids.
    """

    step: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    sequence: NDArray[np.uint32]
    block: NDArray[np.int32]
    argument: NDArray[np.int64]
    keyframes: tuple[State, ...]
    first_event: int
    num_blocks: int
    block_size: int
    request_ids: Mapping[int, str] = field(default_factory=dict)

    DTYPES: ClassVar[dict[str, Any]] = {
        "step": np.uint32,
        "kind": np.uint8,
        "sequence": np.uint32,
        "block": np.int32,
        "argument": np.int64,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        frames: Iterable[Any] = self.keyframes
        frames = (frame if isinstance(frame, State) else State.of(frame) for frame in frames)
        object.__setattr__(self, "keyframes", tuple(frames))
        object.__setattr__(self, "request_ids", {int(k): str(v) for k, v in self.request_ids.items()})
        if not self.keyframes or self.keyframes[0].event != self.first_event:
            raise RecordsError(f"the event log has no keyframe at its first event ({self.first_event})")
        if (np.diff(self.step.astype(np.int64)) < 0).any():
            raise RecordsError("the events' steps must not descend")

    @classmethod
    def of_core(cls, columns: Mapping[str, Any], num_blocks: int, block_size: int) -> EventLog:
        """The log from the compiled core's columns, which nobody else holds."""
        keyframes = tuple(State.adopt(**keyframe) for keyframe in columns["keyframes"])
        own = {**columns, "keyframes": keyframes}
        return cls.adopt(**own, num_blocks=num_blocks, block_size=block_size)

    def __eq__(self, other: object) -> bool:
        """Equal events, keyframes and ids."""
        if not isinstance(other, EventLog):
            return NotImplemented
        own = (self.keyframes, self.first_event, self.num_blocks, self.block_size, self.request_ids)
        theirs = (other.keyframes, other.first_event, other.num_blocks, other.block_size, other.request_ids)
        return own == theirs and super().__eq__(other)

    __hash__ = None
