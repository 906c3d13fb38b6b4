"""nano_batch: the laboratory for LLM serving.

Names are loaded when first used, so that ``import nano_batch`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nano_batch._version import VERSION as __version__

if TYPE_CHECKING:
    from nano_batch.core import (
        BlockCache,
        Engine,
        EventLog,
        SchedulerOutput,
        Snapshot,
        StepCounts,
    )
    from nano_batch.errors import NanoBatchError
    from nano_batch.records import Run, drive
    from nano_batch.workloads import Workload

_HOMES = {
    "BlockCache": "nano_batch.core",
    "Engine": "nano_batch.core",
    "EventLog": "nano_batch.core",
    "NanoBatchError": "nano_batch.errors",
    "Run": "nano_batch.records",
    "SchedulerOutput": "nano_batch.core",
    "Snapshot": "nano_batch.core",
    "StepCounts": "nano_batch.core",
    "Workload": "nano_batch.workloads",
    "drive": "nano_batch.records",
}

__all__ = [
    "BlockCache",
    "Engine",
    "EventLog",
    "NanoBatchError",
    "Run",
    "SchedulerOutput",
    "Snapshot",
    "StepCounts",
    "Workload",
    "__version__",
    "drive",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
