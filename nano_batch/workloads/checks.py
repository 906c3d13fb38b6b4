"""The rules a workload's columns keep, checked once when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_batch.errors import WorkloadError
from nano_batch.workloads.lengths import MAX_TOKENS


def column(name: str, values: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """`values` as a read-only 1-D array; integers must be whole. The caller's own array stays writable.

    Raises:
        WorkloadError: it is not a column of numbers.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise WorkloadError(f"{name} has {array.ndim} dimensions; it must be a column (1)")
    if array.size and array.dtype.kind not in "iuf":
        raise WorkloadError(f"{name} is of type {array.dtype}; it must be numbers")
    if np.issubdtype(dtype, np.integer) and array.dtype.kind == "f":
        first_bad(name, array, np.isfinite(array) & (np.floor(array) == array), "a whole number")
    result = array.astype(dtype)
    result.flags.writeable = False
    return result


def first_bad(name: str, values: NDArray[Any], good: NDArray[np.bool_], limit: str) -> None:
    """Raise the error that names the first row where `good` does not hold."""
    if not good.all():
        row = int(np.argmin(good))
        raise WorkloadError(f"{name} of row {row} is {values[row]}; it must be {limit}")


def check_arrivals(arrival_s: NDArray[np.float64]) -> None:
    """Finite times first, not negative and ascending; NaN (closed loop) only after at least one of them."""
    waits = np.isnan(arrival_s)
    finite = int(np.argmax(waits)) if waits.any() else len(arrival_s)
    times = arrival_s[:finite]
    first_bad("arrival_s", times, np.isfinite(times) & (times >= 0), "finite and not negative")
    ascending = np.concatenate([[True], np.diff(times) >= 0])[:finite]
    first_bad("arrival_s", times, ascending, "at or after the row's before it")
    if finite < len(arrival_s):
        if finite == 0:
            raise WorkloadError("arrival_s is NaN from row 0 on; a closed loop needs a first arrival")
        if not waits[finite:].all():
            row = finite + int(np.argmin(waits[finite:]))
            raise WorkloadError(
                f"arrival_s of row {row} is {arrival_s[row]}; after a NaN (row {finite}) all must be NaN"
            )


def check_tokens(name: str, tokens: NDArray[np.int64]) -> None:
    """1 to 2³¹ − 1 tokens a request."""
    first_bad(name, tokens, (tokens >= 1) & (tokens <= MAX_TOKENS), f"from 1 to {MAX_TOKENS}")


def check_blocks(
    prompt_tokens: NDArray[np.int64], offsets: NDArray[np.int64], ids: NDArray[np.int32], size: int
) -> None:
    """One id per started block of each prompt, and every virtual token `id × size + offset` an int32."""
    if not 1 <= size <= MAX_TOKENS:
        raise WorkloadError(f"block_size is {size}; it must be from 1 to {MAX_TOKENS}")
    if len(offsets) != len(prompt_tokens) + 1 or offsets[0] != 0 or offsets[-1] != len(ids):
        raise WorkloadError(
            f"block_offsets has {len(offsets)} entries; "
            f"it must run from 0 to {len(ids)} in {len(prompt_tokens) + 1}"
        )
    counts, needed = np.diff(offsets), -(-prompt_tokens // size)
    if (counts != needed).any():
        row = int(np.argmax(counts != needed))
        raise WorkloadError(
            f"row {row} has {counts[row]} block ids; "
            f"its {prompt_tokens[row]} prompt tokens fill {needed[row]} of {size}"
        )
    limit = (MAX_TOKENS + 1) // size
    if len(ids) and (ids.min() < 0 or ids.max() >= limit):
        raise WorkloadError(
            f"block ids go from {ids.min()} to {ids.max()}; they must be from 0 to {limit - 1}"
        )
