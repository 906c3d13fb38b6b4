"""The named exceptions. All derive from `NanoBatchError`; a bad argument is a `ValueError` too."""

from __future__ import annotations


class NanoBatchError(Exception):
    """Base of every error this package raises on purpose."""


class UnknownOptionError(NanoBatchError, ValueError):
    """A word that is not one of an option's choices; the message names the nearest."""


class MissingExtraError(NanoBatchError, ImportError):
    """An optional library is needed; the message tells which extra installs it."""


class WorkloadError(NanoBatchError, ValueError):
    """A workload cannot be made, or a value in it is out of range."""


class TraceFormatError(WorkloadError):
    """A file is none of the formats that `Workload.read` knows, or is damaged as a whole."""


class MalformedLineError(WorkloadError):
    """One line of a trace cannot be understood.

    Attributes:
        file: the file's name.
        line: the line's number, from 1.
    """

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}, line {line}: {reason}")
        self.file = file
        self.line = line


class RecordsError(NanoBatchError, ValueError):
    """Records that do not follow the schema of docs/records.md."""


class SchemaVersionError(RecordsError):
    """A file was written by a newer version of the schema."""


class ReplayError(RecordsError):
    """The event log holds no such step, or contradicts itself."""


class StalledError(NanoBatchError, RuntimeError):
    """The engine has unfinished requests and schedules none of them."""


class MetricsError(NanoBatchError, ValueError):
    """A metric is asked for with values for which it is not defined."""
