"""The schema of docs/records.md in code: its version, the kinds of events, the states of sequences."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from nano_batch.errors import RecordsError, SchemaVersionError

SCHEMA_VERSION = 2
NO_SEQUENCE = 2**32 - 1
KEYFRAME_STEPS = 256


class Kind(IntEnum):
    """Kinds of events, as the column `kind` holds them."""

    ARRIVED = 0
    FORKED = 1
    ADMITTED = 2
    SCHEDULED = 3
    ALLOCATED = 4
    SHARED = 5
    COPIED = 6
    FREED = 7
    CACHED = 8
    EVICTED = 9
    SWAPPED_OUT = 10
    SWAPPED_IN = 11
    PREEMPTED = 12
    FINISHED = 13


class SequenceState(IntEnum):
    """States of a sequence, as a keyframe's column `state` holds them."""

    WAITING = 0
    RUNNING = 1
    ENDING = 2


def check_version(version: Any, what: str) -> None:
    """Refuse records of another schema.

    Raises:
        SchemaVersionError: the version is newer than this package's.
        RecordsError: it is not a version at all, or one whose tables lack columns of this one.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RecordsError(f"{what} has schema version {version!r}; it must be a whole number from 1")
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{what} has schema version {version}; this package reads {SCHEMA_VERSION}: update nano-batch"
        )
    if version < SCHEMA_VERSION:
        raise RecordsError(
            f"{what} has schema version {version}, without what {SCHEMA_VERSION} added; make the run again"
        )
