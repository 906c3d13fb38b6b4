"""Records: what a run leaves behind, in the one schema of docs/records.md, and how it is replayed."""

from nano_batch.records.driver import drive
from nano_batch.records.events import EventLog, State
from nano_batch.records.replayer import replay, walk
from nano_batch.records.run import Run
from nano_batch.records.schema import SCHEMA_VERSION, Kind, SequenceState
from nano_batch.records.spans import Phase, Schedule, Spans, Work
from nano_batch.records.tables import Requests, Steps

__all__ = [
    "SCHEMA_VERSION",
    "EventLog",
    "Kind",
    "Phase",
    "Requests",
    "Run",
    "Schedule",
    "SequenceState",
    "Spans",
    "State",
    "Steps",
    "Work",
    "drive",
    "replay",
    "walk",
]
