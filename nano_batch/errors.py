"""Every exception that nano_batch raises by name. A bad argument is a `ValueError` too."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class NanoBatchError(Exception):
    """The base of all named errors of this package."""


class UnknownOptionError(NanoBatchError, ValueError):
    """An option is not among the known ones; the message names the nearest."""


class SizeError(NanoBatchError, ValueError):
    """A size (of a cache, a block, a window) is not a whole number in its range."""


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
    """There is not enough memory for a KV cache of this size."""


def unknown_option(name: str, value: object, choices: Iterable[str]) -> UnknownOptionError:
    """Return the error for the option `name` with a `value` that is none of `choices`."""
    known = list(choices)
    near = get_close_matches(str(value), known, n=1, cutoff=0.0)
    listed = ", ".join(repr(choice) for choice in known)
    return UnknownOptionError(f"{name}={value!r} is not one of {listed}; the nearest is {near[0]!r}")
