"""nano_batch: the laboratory for LLM serving.

Names are loaded when first used, so that ``import nano_batch`` stays quick. The KV cache, attention
and the models need torch, the extra `engine`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nano_batch._version import VERSION as __version__

if TYPE_CHECKING:
    from nano_batch.attention import paged_attention_fwd, paged_attention_prefill
    from nano_batch.core import BlockCache, Engine, EventLog, SchedulerOutput, Snapshot, StepCounts
    from nano_batch.engine import InferenceEngine, SamplingParams
    from nano_batch.errors import NanoBatchError
    from nano_batch.kv_cache import KVCache
    from nano_batch.records import Run, drive
    from nano_batch.simulator import Constant, Fleet, Profile, Roofline, simulate, simulate_fleet
    from nano_batch.workloads import Workload

__all__ = [
    "BlockCache",
    "Constant",
    "Engine",
    "EventLog",
    "Fleet",
    "InferenceEngine",
    "KVCache",
    "NanoBatchError",
    "Profile",
    "Roofline",
    "Run",
    "SamplingParams",
    "SchedulerOutput",
    "Snapshot",
    "StepCounts",
    "Workload",
    "__version__",
    "drive",
    "paged_attention_fwd",
    "paged_attention_prefill",
    "simulate",
    "simulate_fleet",
]

_NAMES = {
    "attention": ["paged_attention_fwd", "paged_attention_prefill"],
    "core": ["BlockCache", "Engine", "EventLog", "SchedulerOutput", "Snapshot", "StepCounts"],
    "engine": ["InferenceEngine", "SamplingParams"],
    "errors": ["NanoBatchError"],
    "kv_cache": ["KVCache"],
    "records": ["Run", "drive"],
    "simulator": ["Constant", "Fleet", "Profile", "Roofline", "simulate", "simulate_fleet"],
    "workloads": ["Workload"],
}
_HOMES = {name: f"nano_batch.{home}" for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
