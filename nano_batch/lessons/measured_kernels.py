"""What was measured of the attention kernels, and what a GPU here measures: data of `kernel_speed`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nano_batch._choices import unknown_option
from nano_batch.benchmarks.on_gpu.cases import BLOCK_SIZE, Case, Times, row
from nano_batch.benchmarks.on_gpu.goals import copy_rate
from nano_batch.benchmarks.report import Row
from nano_batch.errors import LabError, NanoBatchError
from nano_batch.lessons.small_step import DATA

MEASURED = DATA / "measured"


@dataclass(frozen=True)
class Setting:
    """One shape of a decode step, and whether its cache was just read."""

    batch: int
    context: int
    block_size: int = BLOCK_SIZE
    dtype: str = "bf16"
    calls: str = "hot"

    @property
    def case(self) -> Case:
        """The same as a case of the bench."""
        return Case(self.calls, contexts=(self.context,) * self.batch, block_size=self.block_size,
                    dtype=self.dtype, cold=self.calls == "cold")  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A file of `nano-batch bench attention`."""

    name: str  # such as "h200"
    content: Mapping[str, Any]

    @property
    def source(self) -> str:
        """Device, date and commit in words."""
        found = self.content
        return f"recorded: {found['device']}, {found['date']}, commit {found['commit']}"

    @property
    def copy(self) -> float:
        """The copy bandwidth, TB/s."""
        rate = copy_rate(self.content["rows"])
        assert rate is not None
        return rate

    def rows(self, *, dtype: str, block_size: int, calls: str) -> list[Row]:
        """Rows of equal contexts, by the tokens in them."""
        names = ("cold",) if calls == "cold" else ("hot", "block_size", "fp16", "fp32", "fp8")
        wanted = {"dtype": dtype, "block_size": block_size}
        found: dict[tuple[int, int], Row] = {}
        for each in self.content["rows"]:
            if each["case"] in names and all(each[name] == value for name, value in wanted.items()):
                found.setdefault((each["batch"], each["context"]), each)
        return sorted(found.values(), key=lambda each: (each["batch"] * each["context"], each["batch"]))

    def over_block_sizes(self) -> list[Row]:
        """The rows of one shape at every block size."""
        return [each for each in self.content["rows"] if each["case"] == "block_size"]

    def of(self, setting: Setting) -> Row | None:
        """The row of a setting, if it was measured."""
        rows = self.rows(dtype=setting.dtype, block_size=setting.block_size, calls=setting.calls)
        shape = (setting.batch, setting.context)
        return next((each for each in rows if (each["batch"], each["context"]) == shape), None)


def measured(device: str | None = None) -> Measured:
    """The measurement of a device, such as "h200"; by default the first there is.

    Raises:
        LabError: there is none, for this is no checkout.
        UnknownOptionError: there is none of this device.
    """
    files = {path.stem.removeprefix("attention_"): path for path in sorted(MEASURED.glob("attention_*.json"))}
    if not files:
        raise LabError("no measurement in data/measured: nano-batch bench attention makes one, on a GPU")
    if device is not None and device not in files:
        raise unknown_option("device", device, tuple(files))
    name = device or next(iter(files))
    return _read(name, files[name])


@cache
def _read(name: str, path: Path) -> Measured:
    return Measured(name, json.loads(path.read_text(encoding="utf-8")))


class LiveDevice:
    """The GPU here: each setting is measured once."""

    def __init__(self, device: Any) -> None:
        """`device` measures cases, as `nano_batch.benchmarks.on_gpu.device.Device` does."""
        self._device = device
        self.name: str = device.about()["device"]
        self._known: dict[Case, Row] = {}

    def of(self, setting: Setting) -> Row:
        """The setting, measured here."""
        return self._row(setting.case)

    @property
    def copy(self) -> float:
        """The copy bandwidth here, TB/s."""
        return float(self._row(Case("copy", "copy"))["tb_per_s"])

    def _row(self, case: Case) -> Row:
        if case not in self._known:
            times: Times = self._device.measure(case)
            self._known[case] = row(case, times)
        return self._known[case]


def live_device() -> LiveDevice | None:
    """The GPU here; None where there is none that the kernels run on."""
    try:
        from nano_batch.benchmarks.on_gpu.device import Device

        return LiveDevice(Device())
    except (NanoBatchError, ImportError):
        return None


def values(rows: Sequence[Row], name: str) -> list[float]:
    """A column of rates in TB/s (`us`, `flashinfer_us`, `torch_us`); NaN where nothing was measured."""
    return [each["cache_bytes"] / each[name] / 1e6 if each[name] else float("nan") for each in rows]
