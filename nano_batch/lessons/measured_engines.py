"""What `nano-batch bench engine` measured, as columns: data of `engine_speed`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nano_batch._choices import unknown_option
from nano_batch.benchmarks.engines.rows import LIMIT, SUSTAINED, TWO_DEVICES
from nano_batch.benchmarks.report import Row
from nano_batch.errors import LabError
from nano_batch.lessons.small_step import DATA

MEASURED = DATA / "measured"
OURS, SINGLE = "nano_batch", "transformers_generate_single"
ENGINES = {
    OURS: ("nano_batch", "series-1"),
    "transformers_generate_batch": ("Transformers, continuous batching", "series-2"),
    "transformers_generate": ("Transformers, static batches", "series-3"),
    SINGLE: ("Transformers, one at a time", "series-4"),
    TWO_DEVICES: ("nano_batch on two devices", "series-5"),
    LIMIT: ("the device's limit", "bound"),
    SUSTAINED: ("the limit over seconds", "bound"),
}
"""What each is called in a picture, and its colour."""
LIMITS = (LIMIT, SUSTAINED)
WHEN = ("date", "commit")


@dataclass(frozen=True)
class MeasuredEngines:
    """A file of `nano-batch bench engine`, or what the benchmark has just returned."""

    name: str  # such as "h200"
    content: Mapping[str, Any]

    @property
    def what(self) -> str:
        """Device and model in words."""
        return f"{self.content['device']}, {self.content['model']} in {self.content['dtype']}"

    def when(self, *cases: str) -> str:
        """Dates and commits of what is drawn of the cases, in words."""
        drawn = {
            row["session"] for case in cases for name in self.engines(case) for row in self.rows(case, name)
        }
        sessions = [self.content["sessions"][at] for at in sorted(drawn)]
        dates, commits = (", ".join(dict.fromkeys(str(each[name]) for each in sessions)) for name in WHEN)
        return f"{dates}, commit {commits}"

    def source(self, *cases: str) -> str:
        """What was measured, and when."""
        return f"{self.what}, {self.when(*cases)}"

    def rows(self, case: str, engine: str) -> list[Row]:
        """The rows of an engine, by the rate of arrivals and the concurrency."""
        found = [each for each in self.content["rows"] if each["case"] == case and each["engine"] == engine]
        return sorted(found, key=lambda each: (each["rate_per_s"] or 0, each["concurrency"]))

    def engines(self, case: str) -> list[str]:
        """Those with rows of the case that are drawn, in the order of `ENGINES`: of limits the higher."""
        return [engine for engine in ENGINES if engine != SUSTAINED and self.rows(case, engine)]

    def one_at_once(self, engine: str) -> Row | None:
        """The offline row that an engine's scaling is counted from: its own at 1, else one at a time."""
        names = (LIMIT,) if engine == LIMIT else (engine, SINGLE)
        alone = [self.rows("offline", name) for name in names]
        return next((row for rows in alone for row in rows if row["concurrency"] == 1), None)


def measured_engines(device: str | None = None) -> MeasuredEngines:
    """The measurement of a device, such as "h200" or "cpu_tiny"; by default a GPU's, if there is one.

    Raises:
        LabError: there is none.
        UnknownOptionError: there is none of this device.
    """
    files = {path.stem.removeprefix("engine_"): path for path in sorted(MEASURED.glob("engine_*.json"))}
    if not files:
        raise LabError("no measurement in data/measured: nano-batch bench engine makes one")
    if device is not None and device not in files:
        raise unknown_option("device", device, tuple(files))
    name = device or min(files, key=lambda each: (each.startswith("cpu"), each))
    return _read(name, files[name])


@cache
def _read(name: str, path: Path) -> MeasuredEngines:
    return MeasuredEngines(name, json.loads(path.read_text(encoding="utf-8")))
