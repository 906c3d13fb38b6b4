"""A workload: which requests come, when, how long they are and which prefixes they share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nano_batch.errors import WorkloadError
from nano_batch.workloads import checks, frames, show, synthetic
from nano_batch.workloads.lengths import Families, Lengths
from nano_batch.workloads.tables import TraceName

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Workload:
    """Requests as read-only columns, in order of arrival.

    Attributes:
        arrival_s: float64 [n], seconds since the run's start, ascending. NaN from some row on means a
            closed loop: the end of any request releases the next such row, at that moment.
        prompt_tokens: int64 [n], at least 1.
        output_tokens: int64 [n], at least 1.
        block_offsets: int64 [n + 1] or None; request i has the ids from `block_offsets[i]` up to
            `block_offsets[i + 1]`.
        block_ids: int32 or None; equal ids are equal content, the last block of a prompt may be partial.
        block_size: tokens a block id stands for, or None.
        name: what the workload is called in captions.
        spec: JSON values that recreate it (`Workload.from_spec`).
        skipped_lines: lines of the file that were left out.

    Raises:
        WorkloadError: a column breaks one of these rules; the row, the value and the limit are named.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    block_offsets: NDArray[np.int64] | None = None
    block_ids: NDArray[np.int32] | None = None
    block_size: int | None = None
    name: str = "workload"
    spec: Mapping[str, Any] = field(default_factory=lambda: {"source": "columns"})
    skipped_lines: int = 0

    def __post_init__(self) -> None:
        for name, dtype in (
            ("arrival_s", np.float64),
            ("prompt_tokens", np.int64),
            ("output_tokens", np.int64),
        ):
            object.__setattr__(self, name, checks.column(name, getattr(self, name), dtype))
        sizes = {len(self.arrival_s), len(self.prompt_tokens), len(self.output_tokens)}
        if len(sizes) > 1:
            raise WorkloadError(f"the columns have {sorted(sizes)} rows; they must have the same number")
        checks.check_arrivals(self.arrival_s)
        checks.check_tokens("prompt_tokens", self.prompt_tokens)
        checks.check_tokens("output_tokens", self.output_tokens)
        self._check_content()

    def _check_content(self) -> None:
        given = [part is not None for part in (self.block_offsets, self.block_ids, self.block_size)]
        if any(given) != all(given):
            raise WorkloadError("block_offsets, block_ids and block_size must be given together")
        if self.block_size is None:
            return
        for name, dtype in (("block_offsets", np.int64), ("block_ids", np.int32)):
            object.__setattr__(self, name, checks.column(name, getattr(self, name), dtype))
        assert self.block_offsets is not None
        assert self.block_ids is not None
        checks.check_blocks(self.prompt_tokens, self.block_offsets, self.block_ids, self.block_size)

    # --- made from ----------------------------------------------------------------------------------------

    @classmethod
    def synthetic(
        cls,
        num_requests: int = 1000,
        *,
        like: TraceName = "azure_conv",
        seed: int = 0,
        arrivals: Literal["poisson", "bursty", "closed_loop", "at_once"] = "poisson",
        rate: float | None = None,
        cv: float | None = None,
        users: int | None = None,
        prompts: int | TraceName | Lengths | None = None,
        outputs: int | TraceName | Lengths | None = None,
        families: Families | None = None,
        name: str | None = None,
    ) -> Workload:
        """Draw a workload; a seed gives the same requests on every system.

        Arrivals, prompts, outputs and families have random streams of their own: changing one of them does
        not redraw the others. What is not said comes from the fitted table of the trace `like`.

        Args:
            num_requests: rows.
            like: the trace whose rate, CV and lengths are the defaults.
            seed: from 0 to 2⁶⁴ − 1.
            arrivals: `poisson`; `bursty` (Gamma-distributed gaps with coefficient of variation `cv`);
                `closed_loop` (`users` requests at 0, then one more whenever one ends); `at_once` (all at 0).
            rate: requests per second (poisson, bursty).
            cv: coefficient of variation of the gaps (bursty).
            users: concurrency of the closed loop.
            prompts: a number of tokens, a trace's name, or `Fixed`, `Uniform`, `LogNormal`, `Quantiles`.
            outputs: likewise.
            families: shared prefixes, put before the prompts drawn.
            name: default: `like`'s.

        Raises:
            UnknownOptionError: a misspelt word; the nearest is named.
            InvalidArgumentError: a number is out of range, or has no meaning with these arrivals.
            CapacityError: more distinct blocks than 32-bit token ids can name.
        """
        given = {"rate": rate, "cv": cv, "users": users}
        spec = synthetic.specify(num_requests, seed, like, arrivals, given, prompts, outputs, families)
        return cls(*synthetic.build(spec), name=name or like, spec={**spec, "name": name or like})

    @classmethod
    def read(cls, path: str | os.PathLike[str], on_error: Literal["raise", "skip"] = "raise") -> Workload:
        """Read a trace, plain or gzip; its format is recognised by its first line.

        Known are Azure LLM inference traces (CSV), Mooncake (JSONL with prefix block ids of 512 tokens),
        BurstGPT (CSV; rows without response tokens are its failed requests: left out and counted) and what
        `to_csv` writes.
        Times start at the first arrival, except in the last.

        Args:
            path: the file.
            on_error: `raise` at the first malformed line, or `skip` such lines and count them in
                `skipped_lines`.

        Raises:
            MalformedLineError: names the file and the line.
            TraceFormatError: an unknown format, a damaged file, or no request in it.
        """
        from nano_batch.workloads.reader import read  # csv, gzip and json are only needed to read

        return cls(**read(os.fspath(path), on_error))

    @classmethod
    def from_frame(
        cls, df: Any, *, arrival: str | None, prompt: str, output: str, name: str = "table"
    ) -> Workload:
        """Take any table whose columns are found by name: a pandas or polars frame, or a mapping of arrays.

        Args:
            df: the table.
            arrival: its column of seconds or datetimes (any order; the first becomes 0), or None: all at
                once.
            prompt: its column of prompt tokens.
            output: its column of output tokens.
            name: what the workload is called.

        Raises:
            WorkloadError: a column is missing or holds a bad value; the row is named.
        """
        return cls(
            *frames.from_frame(df, arrival, prompt, output), name=name, spec={"source": "frame", "name": name}
        )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> Workload:
        """Recreate the workload a `spec` describes; one that was read needs the `path` of its file.

        Raises:
            WorkloadError: the spec is of another generator, or of a table that only its owner has.
        """
        if spec["source"] == "synthetic":
            base = {key: value for key, value in spec.items() if key != "then"}
            workload = cls(*synthetic.build(spec), name=spec["name"], spec=base)
        elif spec["source"] == "file" and path is not None:
            workload = cls.read(path, spec["on_error"])
        else:
            raise WorkloadError(
                f"a workload of source {spec['source']!r} cannot be recreated without its data"
            )
        for step in spec.get("then", ()):
            workload = getattr(workload, f"_{step[0]}")(*step[1:])
        return workload

    # --- parts and changes --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __getitem__(self, rows: slice) -> Workload:
        """The rows of a slice with a positive step. Times stay; a closed loop keeps its number of users."""
        if not isinstance(rows, slice):
            raise TypeError(f"a workload is sliced, such as workload[:10], not indexed with {rows!r}")
        start, stop, step = rows.indices(len(self))
        if step < 1:
            raise WorkloadError(f"the slice's step is {step}; it must be at least 1")
        return self._slice(start, stop, step)

    def head(self, n: int) -> Workload:
        """The first `n` rows."""
        if n < 0:
            raise WorkloadError(f"n is {n}; it must not be negative")
        return self[:n]

    def scaled(self, *, rate: float) -> Workload:
        """The same requests, their times stretched so that `rate` of them come per second.

        Raises:
            WorkloadError: the rate is not a finite number above 0, or the workload has none (closed loop,
                at once).
        """
        if not (np.isfinite(rate) and rate > 0):
            raise WorkloadError(f"rate is {rate}; it must be a finite number above 0")
        return self._scaled(float(rate))

    def shifted(self, start_s: float = 0.0) -> Workload:
        """The same requests, the first arriving at `start_s`."""
        if not (np.isfinite(start_s) and start_s >= 0):
            raise WorkloadError(f"start_s is {start_s}; it must be finite and not negative")
        return self._shifted(float(start_s))

    def _slice(self, start: int, stop: int, step: int) -> Workload:
        rows = np.arange(start, stop, step)
        arrival_s = self.arrival_s[rows]
        if self.users is not None:
            arrival_s = synthetic.closed_loop(len(rows), self.users)
        changes: dict[str, Any] = {}
        if self.block_offsets is not None and self.block_ids is not None:
            counts = np.diff(self.block_offsets)[rows]
            offsets = np.concatenate([[0], np.cumsum(counts)])
            origin = np.repeat(self.block_offsets[rows] - offsets[:-1], counts)
            changes = {"block_offsets": offsets, "block_ids": self.block_ids[origin + np.arange(offsets[-1])]}
        prompt_tokens, output_tokens = self.prompt_tokens[rows], self.output_tokens[rows]
        spec = self._then("slice", start, stop, step)
        return replace(
            self,
            arrival_s=arrival_s,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            spec=spec,
            **changes,
        )

    def _scaled(self, rate: float) -> Workload:
        if not np.isfinite(self.rate_per_s):
            raise WorkloadError(
                "the workload has no rate to scale: its requests come at once or in a closed loop"
            )
        return replace(
            self, arrival_s=self.arrival_s * (self.rate_per_s / rate), spec=self._then("scaled", rate)
        )

    def _shifted(self, start_s: float) -> Workload:
        first = self.arrival_s[0] if len(self) else 0.0
        return replace(self, arrival_s=self.arrival_s - first + start_s, spec=self._then("shifted", start_s))

    def _then(self, *step: Any) -> dict[str, Any]:
        return {**self.spec, "then": [*self.spec.get("then", ()), list(step)]}

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def users(self) -> int | None:
        """The users of a closed loop, or None for an open one."""
        waits = np.isnan(self.arrival_s)
        return int(np.argmax(waits)) if waits.any() else None

    @property
    def span_s(self) -> float:
        """From the first arrival to the last, in seconds; NaN for a closed loop."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else float("nan")

    @property
    def rate_per_s(self) -> float:
        """Gaps per second of span, in requests per second; NaN where there is no span."""
        return (len(self) - 1) / self.span_s if self.span_s > 0 else float("nan")

    @property
    def arrival_cv(self) -> float:
        """Deviation over mean of the gaps between arrivals; NaN where there is no span."""
        return float(np.diff(self.arrival_s).std() * self.rate_per_s) if self.span_s > 0 else float("nan")

    @property
    def digest(self) -> str:
        """SHA-256 over the columns, the same on every system."""
        sha = hashlib.sha256(f"{len(self)} {self.block_size}".encode())
        columns = (self.arrival_s, self.prompt_tokens, self.output_tokens, self.block_offsets, self.block_ids)
        for values in columns:
            if values is not None:
                sha.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        """Equal columns; the name and where they came from do not count."""
        return self.digest == other.digest if isinstance(other, Workload) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    # --- given to -----------------------------------------------------------------------------------------

    def request(self, row: int, arrival_s: float | None = None) -> dict[str, Any]:
        """The keyword arguments of `engine.add_request` for a row; its id is `r<row>`.

        The output length is exact: `max_tokens` with `ignore_eos`. A row that waits for a user has no
        arrival of its own (NaN, which an engine refuses): give `arrival_s`.
        """
        request: dict[str, Any] = {
            "request_id": f"r{row}",
            "num_prompt_tokens": int(self.prompt_tokens[row]),
            "max_tokens": int(self.output_tokens[row]),
            "arrival_time": float(self.arrival_s[row]) if arrival_s is None else float(arrival_s),
            "ignore_eos": True,
        }
        if self.block_offsets is not None and self.block_ids is not None:
            ids = self.block_ids[self.block_offsets[row] : self.block_offsets[row + 1]]
            request |= {"prompt_block_ids": ids.tolist(), "prompt_block_size": self.block_size}
        return request

    def requests(self) -> Iterator[dict[str, Any]]:
        """`request(row)` of every row, in order."""
        return (self.request(row) for row in range(len(self)))

    def to_frame(self) -> pd.DataFrame:
        """A pandas table: arrival_s, prompt_tokens, output_tokens, and block_ids (lists) if there are any."""
        return frames.to_frame(self)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns so that `read` gives them back exactly; gzip if the path ends in `.gz`."""
        frames.to_csv(self, os.fspath(path))

    def block_ids_of(self, row: int) -> Sequence[int]:
        """The block ids of a row's prompt; empty where only its length is known."""
        ids: list[int] = self.request(row).get("prompt_block_ids", [])
        return ids

    def __repr__(self) -> str:
        return show.text(self)

    def _repr_html_(self) -> str:
        return show.html(self)
