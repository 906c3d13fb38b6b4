"""Read a trace file line by line into columns, naming the line where something is wrong."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nano_batch._choices import check_choice
from nano_batch.errors import MalformedLineError, TraceFormatError
from nano_batch.workloads.formats import Format, Row, recognise
from nano_batch.workloads.lengths import MAX_TOKENS

OnError = Literal["raise", "skip"]


def read(path: str, on_error: OnError) -> dict[str, Any]:
    """The fields of a `Workload`."""
    check_choice("on_error", on_error, OnError)
    file = os.path.basename(path)
    lines = _lines(path, file)
    first = next(lines, (0, ""))
    layout = recognise(first[1])
    if layout is None:
        raise TraceFormatError(
            f"{file} begins with {first[1][:80]!r}; known are Azure LLM inference traces and BurstGPT "
            "(CSV with their header), Mooncake (JSONL) and what Workload.to_csv writes"
        )
    rows, skipped = _parse(file, layout, lines if layout.header_lines else _with(first, lines), on_error)
    if not rows:
        raise TraceFormatError(f"{file} holds no request ({skipped} lines skipped)")
    spec = {"source": "file", "file": file, "format": layout.name, "on_error": on_error}
    name = file.split(".")[0]
    return {**_columns(rows, layout), "name": name, "spec": {**spec, "name": name}, "skipped_lines": skipped}


def _with(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _lines(path: str, file: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank, plain or gzip."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        # Bytes that are not UTF-8 become marks that no parser takes: their line is reported as malformed.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")
        try:
            for number, line in enumerate(text, 1):
                if stripped := line.strip():
                    yield number, stripped
        except (OSError, EOFError, zlib.error) as error:
            raise TraceFormatError(f"{file} cannot be read to its end: {error}") from error


def _parse(
    file: str, layout: Format, lines: Iterator[tuple[int, str]], on_error: OnError
) -> tuple[list[Row], int]:
    rows, skipped, parse = [], 0, layout.parse
    for number, line in lines:
        try:
            row = parse(line)
        except ValueError as error:
            if on_error == "raise":
                raise MalformedLineError(file, number, f"{error} in {line[:80]!r}") from None
            row = None
        if row is None:
            skipped += 1
        else:
            rows.append(row)
    return rows, skipped


def _columns(rows: list[Row], layout: Format) -> dict[str, Any]:
    # Sorting whole rows, stably, keeps a closed loop's NaN rows where they are: at the end.
    ticks = np.array([row.ticks for row in rows])
    if (np.diff(ticks) < 0).any():
        rows = [rows[i] for i in np.argsort(ticks, kind="stable")]
        ticks = np.array([row.ticks for row in rows])
    if layout.from_zero:
        ticks = ticks - ticks[0]
    columns: dict[str, Any] = {
        "arrival_s": ticks / layout.ticks_per_s,
        "prompt_tokens": np.array([row.prompt for row in rows], np.int64),
        "output_tokens": np.array([row.output for row in rows], np.int64),
    }
    if layout.block_size is None:
        return columns
    counts = [len(row.ids or ()) for row in rows]
    ids = np.fromiter((block for row in rows for block in row.ids or ()), np.int64, sum(counts))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return {
        **columns,
        "block_offsets": offsets,
        "block_ids": _as_int32(ids, layout.block_size),
        "block_size": layout.block_size,
    }


def _as_int32(ids: NDArray[np.int64], block_size: int) -> NDArray[np.int32]:
    """The ids as they are, or renumbered where `id × block_size` would not fit: only their equality
    matters.
    """
    if len(ids) and int(ids.max()) >= (MAX_TOKENS + 1) // block_size:
        ids = np.unique(ids, return_inverse=True)[1].reshape(-1)
    return ids.astype(np.int32)
