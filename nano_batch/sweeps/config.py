"""A sweep from a TOML file (docs/sweeps.md)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nano_batch._choices import unknown_option
from nano_batch.errors import SweepError
from nano_batch.metrics import SLO
from nano_batch.simulator.costs import Constant, Cost, CostLike, Roofline
from nano_batch.simulator.profiles import Profile
from nano_batch.sweeps.grid import WorkloadLike
from nano_batch.workloads import Workload

TABLES = ("workload", "grid", "engine", "simulator", "cost", "slo", "window")
COSTS = ("constant", "roofline", "profile")


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of `sweep` that a TOML file gives.

    Raises:
        SweepError: the file is not TOML, or a table or a name in it is not one of a sweep's; it is named.
        NanoBatchError: whatever the workload or the cost model refuses, by name.
    """
    config = _toml(Path(path))
    for name in config:
        if name not in TABLES:
            raise unknown_option(f"a table of {path}", name, TABLES)
    for name in ("workload", "grid"):
        if name not in config:
            raise SweepError(f"{path} has no table [{name}]")
    folder = Path(path).parent
    arguments = {**_table(config, "engine"), **_table(config, "simulator")}
    arguments["grid"] = _table(config, "grid")
    arguments["workload"] = _workload(_table(config, "workload"), folder)
    if "cost" in config:
        arguments["cost"] = cost_of(config["cost"], folder)
    if "slo" in config:
        arguments["slo"] = _called(SLO, _table(config, "slo"), "[slo]")
    if "window" in config:
        arguments["window"] = _window(config["window"])
    if "cost" in arguments["grid"]:
        arguments["grid"]["cost"] = [cost_of(cost, folder) for cost in arguments["grid"]["cost"]]
    return arguments


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        parsed: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return parsed
    except OSError as error:
        raise SweepError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SweepError(f"{path} is not TOML: {error}") from error


def _table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name, {})
    if not isinstance(table, dict):
        raise SweepError(f"{name} is {table!r}; it must be a table, [{name}]")
    return dict(table)


def _workload(table: dict[str, Any], folder: Path) -> WorkloadLike:
    """Keywords of `Workload.synthetic`, or a trace whose rate and number of requests a grid may set."""
    if "trace" not in table:
        return table
    whole = Workload.read(folder / table.pop("trace"), table.pop("on_error", "raise"))

    def trace(rate: float | None = None, num_requests: int | None = None) -> Workload:
        part = whole if num_requests is None else whole.head(num_requests)
        return part if rate is None else part.scaled(rate=rate)

    _called(trace, table, "[workload]")
    return partial(trace, **table)


def cost_of(described: Any, folder: Path = Path()) -> CostLike:
    """Seconds a step, or a table: its `kind` and that kind's numbers, cards or file (beside `folder`).

    Raises:
        SweepError: it is neither, or a number is missing or has another name.
        UnknownOptionError: there is no such kind or card; the nearest is named.
        ProfileError: the profile's file cannot be read.
    """
    if isinstance(described, int | float) and not isinstance(described, bool):
        return float(described)
    if not isinstance(described, dict):
        raise SweepError(f"cost is {described!r}; it must be seconds a step, or a table with a kind")
    numbers = dict(described)
    kind = numbers.pop("kind", None)
    if kind not in COSTS:
        raise unknown_option("kind of [cost]", kind, COSTS)
    made_by: Callable[..., Cost] = Constant if kind == "constant" else Roofline
    if kind == "roofline" and "hardware" in numbers:
        made_by = Roofline.of
    elif kind == "profile":
        made_by = Profile.load if "path" in numbers else Profile.of
        if "path" in numbers:
            numbers["path"] = folder / str(numbers["path"])
    cost: Cost = _called(made_by, numbers, "[cost]")
    return cost


def _called(made_by: Callable[..., Any], table: Mapping[str, Any], name: str) -> Any:
    try:
        return made_by(**table)
    except TypeError as error:
        reason = str(error).partition("() ")[2] or str(error)
        raise SweepError(f"{name}: {reason}") from error


def _window(window: Any) -> tuple[float, float]:
    ok = isinstance(window, list) and len(window) == 2
    if not ok or not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in window):
        raise SweepError(f"window is {window!r}; it must be [start, end] in seconds")
    return float(window[0]), float(window[1])
