"""What a point's numbers depend on, and its digest: the name it is kept under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nano_batch
from nano_batch import _core
from nano_batch._version import VERSION
from nano_batch.core import check_options
from nano_batch.metrics import SLO
from nano_batch.simulator.costs import as_cost
from nano_batch.sweeps.grid import SIMULATOR, Point

_ROOMS = ("metrics", "records", "simulator", "sweeps")


def dependencies(point: Point, slo: SLO | None, window: Any) -> dict[str, Any] | None:
    """JSON values that decide the point's numbers; None where they cannot be told.

    What a Python function or a policy of the reader's own does is not known from outside.
    """
    own = {name: value for name, value in point.options.items() if name in SIMULATOR and name != "cost"}
    engine = {name: value for name, value in point.options.items() if name not in SIMULATOR}
    cost = as_cost(point.options["cost"])
    if not (is_dataclass(cost) and type(cost).__module__.startswith("nano_batch.")):
        return None
    depends = {
        "code": code_digest(),
        "workload": point.workload.digest,
        "engine": check_options(**engine),
        "simulator": own,
        "cost": {"model": type(cost).__name__, **asdict(cost)},
        "slo": None if slo is None else asdict(slo),
        "window": window,
    }
    return depends if _is_json(depends) else None


def key_of(depends: Mapping[str, Any]) -> str:
    """SHA-256 of the dependencies."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 over the version, the compiled core and the Python that numbers come from.

    The version alone would keep the numbers of code that has changed since.
    """
    sha = hashlib.sha256(VERSION.encode())
    package = Path(nano_batch.__file__).parent
    sources = [package / "core.py", *(path for room in _ROOMS for path in (package / room).glob("*.py"))]
    for path in [Path(str(_core.__file__)), *sorted(sources)]:
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()


def _is_json(values: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(values)) is not None)
    except TypeError:
        return False
