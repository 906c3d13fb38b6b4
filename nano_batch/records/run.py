"""A run: the three tables that an engine or a simulator leaves behind, and its settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nano_batch.display import html_table, number
from nano_batch.errors import RecordsError
from nano_batch.records.events import EventLog
from nano_batch.records.tables import Requests, Steps
from nano_batch.workloads import Workload

_PLAIN = {str, int, float, bool, type(None)}


@dataclass(frozen=True, repr=False)
class Run:
    """Records of one run; see docs/records.md.

    Attributes:
        requests: one row a sequence; none where they were not kept (`simulate(keep_requests=False)`).
        steps: one row a step.
        events: the event log, or None where it was off.
        settings: JSON values: what ran (engine, workload, step time …).
    """

    requests: Requests
    steps: Steps
    events: EventLog | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "settings", _as_json(dict(self.settings)))
        except (TypeError, ValueError) as error:
            raise RecordsError(f"the settings are not JSON values: {error}") from error

    @property
    def span_s(self) -> float:
        """From the run's start to the end of its last step, in seconds."""
        return float(self.steps.start_s[-1] + self.steps.duration_s[-1]) if len(self.steps) else 0.0

    @property
    def keeps_requests(self) -> bool:
        """Whether `requests` has them; else only totals are left, and `served` refuses."""
        return bool(self.settings.get("simulator", {}).get("keep_requests", True))

    def served(self) -> Requests:
        """`requests`, for what cannot do without.

        Raises:
            RecordsError: they were not kept.
        """
        if not self.keeps_requests:
            raise RecordsError("the run kept totals and no requests; simulate it without keep_requests=False")
        return self.requests

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one `.npz` file, or, for any other name, a folder of parquet files (requests, steps, events
        …).

        Raises:
            MissingExtraError: parquet needs pyarrow; the message tells which extra installs it.
        """
        from nano_batch.records import storage

        storage.save(self, os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Run:
        """Read what `save` wrote.

        Raises:
            SchemaVersionError: it was written by a newer version.
            RecordsError: a table or column is missing or has another type.
            MissingExtraError: parquet needs pyarrow.
        """
        from nano_batch.records import storage

        return storage.load(os.fspath(path))

    def to_workload(self) -> Workload:
        """The requests that gave at least one token, as a workload: lengths as they came, prompts as
        lengths.

        Raises:
            RecordsError: the run kept no requests.
        """
        requests = self.served()
        rows = np.flatnonzero(requests.output_tokens > 0)
        rows = rows[np.argsort(requests.arrival_s[rows], kind="stable")]
        return Workload(
            requests.arrival_s[rows],
            requests.prompt_tokens[rows],
            requests.output_tokens[rows],
            name=self.name,
            spec={"source": "run", "name": self.name},
        )

    @property
    def name(self) -> str:
        """The workload's name, or `run`."""
        return str(self.settings.get("workload", {}).get("name", "run"))

    def _facts(self) -> list[tuple[str, str]]:
        requests, finished, outputs, preemptions = self._counts()
        kept = "" if self.keeps_requests else ", not kept"
        events = "off" if self.events is None else number(float(len(self.events)))
        return [
            ("requests", f"{requests:,} ({finished:,} finished{kept})"),
            ("steps", f"{len(self.steps):,} over {number(self.span_s)} s"),
            ("output tokens", number(float(outputs))),
            ("preemptions", number(float(preemptions))),
            ("events", events),
        ]

    def _counts(self) -> tuple[int, int, int, int]:
        """Requests, how many finished, their output tokens and preemptions."""
        if not self.keeps_requests:
            totals = self.settings["totals"]
            return totals["requests"], totals["finished"], totals["output_tokens"], totals["preemptions"]
        columns = self.requests
        finished = int(np.isfinite(columns.finish_s).sum())
        return len(columns), finished, int(columns.output_tokens.sum()), int(columns.preemptions.sum())

    def __repr__(self) -> str:
        facts = [f"{name} {value}" for name, value in self._facts()]
        return f"Run of {self.name}: {', '.join(facts[:2])}\n  {', '.join(facts[2:])}"

    def _repr_html_(self) -> str:
        return html_table(f"Run of {self.name}", ["", ""], self._facts())


def _as_json(value: Any) -> Any:
    """What comes back from JSON, so that a saved run equals the one it was saved from."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict and all(type(key) is str for key in value):
        return {key: _as_json(each) for key, each in value.items()}
    if kind is list or kind is tuple:
        return [_as_json(each) for each in value]
    return json.loads(json.dumps(value))
