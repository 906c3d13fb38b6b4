"""Workloads from tables and to tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nano_batch.errors import WorkloadError
from nano_batch.workloads import checks
from nano_batch.workloads.synthetic import Columns

if TYPE_CHECKING:
    import pandas as pd

    from nano_batch.workloads.workload import Workload


def from_frame(df: Any, arrival: str | None, prompt: str, output: str) -> Columns:
    """The three columns, sorted by arrival (stable), the first arrival at 0."""
    prompt_tokens = checks.column(prompt, _find(df, prompt), np.int64)
    output_tokens = checks.column(output, _find(df, output), np.int64)
    checks.check_tokens(prompt, prompt_tokens)
    checks.check_tokens(output, output_tokens)
    if arrival is None:
        return Columns(np.zeros(len(prompt_tokens)), prompt_tokens, output_tokens)
    seconds = _seconds(arrival, _find(df, arrival))
    if not len(seconds) == len(prompt_tokens) == len(output_tokens):
        raise WorkloadError(
            f"{arrival}, {prompt} and {output} have "
            f"{len(seconds)}, {len(prompt_tokens)} and {len(output_tokens)} rows"
        )
    order = np.argsort(seconds, kind="stable")
    return Columns(seconds[order], prompt_tokens[order], output_tokens[order])


def _find(df: Any, name: str) -> Any:
    try:
        return df[name]
    except Exception as error:  # each kind of table has its own error for a missing column
        columns = ", ".join(str(column) for column in getattr(df, "columns", df))
        raise WorkloadError(f"the table has no column {name!r}; it has: {columns}") from error


def _seconds(name: str, values: Any) -> NDArray[np.float64]:
    """Seconds since the first of the times, which are numbers or datetimes."""
    array = np.asarray(values)
    if array.dtype.kind in "OMUT":
        array = _datetimes(name, values, array)
        checks.first_bad(name, array, ~np.isnat(array), "a time")
        ticks = array.astype("datetime64[ns]").astype(np.int64)
        return np.asarray((ticks - ticks.min(initial=ticks[0] if len(ticks) else 0)) / 1e9)
    seconds = checks.column(name, array, np.float64)
    checks.first_bad(name, seconds, np.isfinite(seconds), "a finite number of seconds, or a datetime")
    return np.asarray(seconds - (seconds.min() if len(seconds) else 0.0))


def _datetimes(name: str, values: Any, array: NDArray[Any]) -> NDArray[Any]:
    """Datetimes of any kind as datetime64; those with a time zone as UTC."""
    if array.dtype.kind == "M":
        return array
    try:
        return np.array([_naive_utc(value) for value in array], dtype="datetime64[ns]")
    except (TypeError, ValueError, OverflowError) as error:
        raise WorkloadError(f"{name} holds {str(error)!r}; it must be seconds or datetimes") from error


def _naive_utc(value: Any) -> Any:
    from datetime import timezone

    if getattr(value, "tzinfo", None) is not None:
        value = value.astimezone(timezone.utc).replace(tzinfo=None)
    to_datetime64 = getattr(value, "to_datetime64", None)
    return np.datetime64(value) if to_datetime64 is None else to_datetime64()


def to_frame(workload: Workload) -> pd.DataFrame:
    """Columns with units in their names."""
    import pandas as pd

    columns: dict[str, Any] = {
        "arrival_s": workload.arrival_s,
        "prompt_tokens": workload.prompt_tokens,
        "output_tokens": workload.output_tokens,
    }
    if workload.block_ids is not None:
        columns["block_ids"] = [workload.block_ids_of(row) for row in range(len(workload))]
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def to_csv(workload: Workload, path: str) -> None:
    """One row a request. Floats are written so that they are read back exactly; a NaN arrival is empty."""
    content = "\n".join([_header(workload), *_lines(workload)]) + "\n"
    data = content.encode("ascii")
    if path.endswith(".gz"):
        import gzip

        data = gzip.compress(data, mtime=0)
    with open(path, "wb") as file:
        file.write(data)


def _header(workload: Workload) -> str:
    header = "arrival_s,prompt_tokens,output_tokens"
    return header if workload.block_size is None else f"{header},block_ids_of_{workload.block_size}"


def _lines(workload: Workload) -> list[str]:
    rows = zip(
        workload.arrival_s.tolist(),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        strict=True,
    )
    lines = [f"{'' if time != time else repr(time)},{prompt},{output}" for time, prompt, output in rows]
    if workload.block_ids is None:
        return lines
    return [f"{line},{' '.join(map(str, workload.block_ids_of(row)))}" for row, line in enumerate(lines)]
