"""A run as it goes to the browser: its event log's columns and keyframes as buffers (docs/records.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nano_batch.records import EventLog, State

COLUMNS = {"step": "<u4", "kind": "u1", "sequence": "<u4", "block": "<i4", "argument": "<i8"}
KEYFRAME = {
    "block_references": "<i4",
    "block_cached": "u1",
    "sequence": "<u4",
    "state": "u1",
    "stored": "<i4",
    "lane": "<i4",
    "table_offsets": "<i4",
    "tables": "<i4",
}
# Keyframes only bound how far a scrub replays: of a long run on many blocks the browser gets every k-th.
KEYFRAME_BYTES = 32 << 20


def pack(log: EventLog, opening_step: int) -> dict[str, Any]:
    """The message that the browser replays: numbers and little-endian buffers, no frame of a picture."""
    keyframes = [_keyframe(keyframe) for keyframe in log.keyframes]
    size = sum(
        len(value) for keyframe in keyframes for value in keyframe.values() if isinstance(value, bytes)
    )
    stride = max(1, -(-size // KEYFRAME_BYTES))
    first, last = step_range(log)
    return {
        "version": 1,
        "num_blocks": log.num_blocks,
        "block_size": log.block_size,
        "first_event": log.first_event,
        "first_step": first,
        "last_step": last,
        "opening_step": opening_step,
        "request_ids": {str(number): name for number, name in log.request_ids.items()},
        "events": {name: _bytes(getattr(log, name), dtype) for name, dtype in COLUMNS.items()},
        "keyframes": keyframes[::stride],
    }


def step_range(log: EventLog) -> tuple[int, int]:
    """The first and the last step that the log can show."""
    if len(log.step) == 0:
        return int(log.keyframes[0].step), int(log.keyframes[-1].step)
    return int(log.step[0]), int(log.step[-1])


def _keyframe(keyframe: State) -> dict[str, Any]:
    arrays = {name: _bytes(getattr(keyframe, name), dtype) for name, dtype in KEYFRAME.items()}
    return {"step": int(keyframe.step), "event": int(keyframe.event), **arrays}


def _bytes(values: Any, dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype=dtype).tobytes()
