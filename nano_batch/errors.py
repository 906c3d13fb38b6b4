"""Every error of nano_batch by name. Messages carry the value and the limit it broke."""

from __future__ import annotations


class NanoBatchError(Exception):
    """Base of all errors of this package."""


class InvalidArgumentError(NanoBatchError, ValueError):
    """A value lies outside its range."""


class UnknownOptionError(NanoBatchError, ValueError):
    """An option's name or word is not one of the choices; the message names the nearest."""


class DuplicateRequestError(NanoBatchError, ValueError):
    """A request with this id is being served."""


class UnknownRequestError(NanoBatchError, ValueError):
    """No request with this id is being served."""


class ReservedRequestIdError(NanoBatchError, ValueError):
    """The id has the form ``name/number``, kept for the sequences of a request with n > 1."""


class EmptyPromptError(NanoBatchError, ValueError):
    """A prompt needs at least one token."""


class RequestTooLargeError(NanoBatchError, ValueError):
    """The request could never be served, however empty the engine is."""


class InvalidTokenError(NanoBatchError, ValueError):
    """A token id is negative or too large."""


class NotSampledError(NanoBatchError, ValueError):
    """A token was given for a request whose step did not end with one."""


class MissingTokensError(NanoBatchError, ValueError):
    """A sampled request got no token."""


class WrongTokenCountError(NanoBatchError, ValueError):
    """Not as many tokens as were sampled."""


class StepPendingError(NanoBatchError, RuntimeError):
    """A step was asked for while the tokens of earlier ones are awaited."""


class WrongStepError(NanoBatchError, ValueError):
    """Tokens were given for a step that is not the oldest outstanding one."""


class CannotForkError(NanoBatchError, ValueError):
    """The sequence cannot be forked now."""


class InvalidBufferError(NanoBatchError, ValueError):
    """An array given to ``Engine.bind`` does not fit."""


class NotBoundError(NanoBatchError, RuntimeError):
    """The array form was used before ``Engine.bind``."""


class EventLogOffError(NanoBatchError, RuntimeError):
    """The event log was asked for, but the engine keeps none."""


class CapacityError(NanoBatchError, OverflowError):
    """A 32-bit counter of the core is full."""


class StaleBuildError(NanoBatchError, ImportError):
    """The compiled core is of another version than the Python package."""


class ShapeError(NanoBatchError, ValueError):
    """A tensor has another shape than the call needs."""


class DtypeError(NanoBatchError, ValueError):
    """A tensor has another dtype than the call needs."""


class DeviceError(NanoBatchError, ValueError):
    """A device cannot be used, or a tensor lies on another device than the call needs."""


class SlotRangeError(NanoBatchError, ValueError):
    """A token slot lies outside the KV cache."""


class BlockRangeError(NanoBatchError, ValueError):
    """A block id lies outside its pool (the KV cache or its host blocks)."""


class BlockConflictError(NanoBatchError, ValueError):
    """Two copies of one call write the same block."""


class ContextLengthError(NanoBatchError, ValueError):
    """A context length does not fit its block table or its queries."""


class CacheAllocationError(NanoBatchError, MemoryError):
    """There is not enough memory for a KV cache of this size, or for prepared weights."""


class MissingExtraError(NanoBatchError, ImportError):
    """An optional library is needed; the message tells which extra installs it."""


class KernelCompileError(NanoBatchError, RuntimeError):
    """A CUDA source does not compile; the message holds the compiler's log."""


class KernelLaunchError(NanoBatchError, RuntimeError):
    """The CUDA driver refused to load or start a kernel; the message has its reason."""


class ParallelError(NanoBatchError, RuntimeError):
    """A rank of a tensor-parallel engine died, hangs or is asked for what another one does; it has ended."""


class CheckpointError(NanoBatchError, ValueError):
    """A folder is not a checkpoint that the model can load; the message lists all that is wrong with it."""


class WorkloadError(InvalidArgumentError):
    """A workload cannot be made, or a value in it is out of range."""


class TraceFormatError(WorkloadError):
    """A file is none of the formats that `Workload.read` knows, or is damaged as a whole."""


class MalformedLineError(WorkloadError):
    """One line of a trace cannot be understood; `file` and `line` (from 1) say which."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}, line {line}: {reason}")
        self.file = file
        self.line = line


class RecordsError(NanoBatchError, ValueError):
    """Records that do not follow the schema of docs/records.md."""


class SchemaVersionError(RecordsError):
    """A file was written by a newer version of the schema."""


class ReplayError(RecordsError):
    """The event log holds no such moment, or contradicts itself."""


class StalledError(NanoBatchError, RuntimeError):
    """The engine has unfinished requests and schedules none of them."""


class EngineClosedError(NanoBatchError, RuntimeError):
    """A request was given to an ``AsyncInferenceEngine`` after ``aclose``."""


class PolicyError(NanoBatchError, ValueError):
    """A reader's own policy gave no usable scores; the message has the step and the policy's line."""


class ProfileError(InvalidArgumentError):
    """A file is not a profile of a device, or a table of it is out of range."""


class SimulationStoppedError(NanoBatchError, RuntimeError):
    """Whoever watched a simulation ended it."""


class SweepError(NanoBatchError, ValueError):
    """A sweep cannot be run as described, or one of its points failed; the point is named."""


class MetricsError(InvalidArgumentError):
    """A metric is asked for with values for which it is not defined."""


class ViewError(NanoBatchError, ValueError):
    """A view cannot show what was asked for; the last good picture stays."""


class LabError(NanoBatchError, RuntimeError):
    """JupyterLab, the browser or the notebooks are not as a command needs them."""


class BenchmarkError(NanoBatchError, RuntimeError):
    """An engine under test did not do the work that is timed; the message says what is missing."""
