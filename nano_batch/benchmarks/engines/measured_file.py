"""A file of measured rows that several runs fill: each replaces its own rows and keeps the others.

`device`, `model` and `dtype` are the same for all rows. `sessions` has of each run that left rows its date,
commit, machine, versions and rates; a row's `session` is its place there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_batch.benchmarks.engines.rows import PLACE, with_limits
from nano_batch.benchmarks.report import Row

KEY = (*PLACE, "engine")


class MeasuredFile:
    """The file at `path`; what it holds of another device, model or dtype than `about` says is not kept."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, dict(about)
        self._sessions: list[dict[str, Any]] = []
        self._rows: list[Row] = []
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            if all(content.get(name) == value for name, value in self.about.items()):
                self._sessions, self._rows = content["sessions"], content["rows"]

    def merged(self, session: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
        """What is kept with the rows of this session in place of those of the same case and engine."""
        new = {key_of(each) for each in rows}
        kept = [each for each in self._rows if key_of(each) not in new]
        used = sorted({each["session"] for each in kept})
        sessions = [self._sessions[number] for number in used]
        moved = [{**each, "session": used.index(each["session"])} for each in kept]
        if rows:
            moved += [{**each, "session": len(sessions)} for each in rows]
            sessions.append(dict(session))
        return {
            "bench": "engine",
            **self.about,
            "sessions": sessions,
            "rows": with_limits(sorted(moved, key=_order)),
        }

    def write(self, content: Mapping[str, Any]) -> None:
        """Write it whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


def key_of(row: Row) -> tuple[Any, ...]:
    """Case and engine: a file has one row of each."""
    return tuple(row[name] for name in KEY)


def _order(row: Row) -> tuple[Any, ...]:
    return (row["case"], row["rate_per_s"] or 0.0, row["concurrency"], row["engine"])
