"""What a notebook needs, under one name: ``from nano_batch import lab``."""

from __future__ import annotations

from functools import partial
from typing import Any

from nano_batch.core import Engine
from nano_batch.errors import ViewError
from nano_batch.lessons import (
    Hint,
    Verdict,
    check,
    evictions,
    growth,
    hint,
    last_block,
    preemptions,
    sharing,
)
from nano_batch.picker import WorkloadPicker, pick_workload
from nano_batch.records import Run, drive
from nano_batch.viz import BlockTableView
from nano_batch.workloads import Families, Uniform, Workload

__all__ = [
    "BlockTableView",
    "Engine",
    "Families",
    "Hint",
    "Run",
    "Uniform",
    "Verdict",
    "ViewError",
    "Workload",
    "WorkloadPicker",
    "block_table",
    "check",
    "drive",
    "evictions",
    "growth",
    "hint",
    "last_block",
    "pick_workload",
    "preemptions",
    "serve",
    "sharing",
]


def serve(workload: Workload, *, memory_tokens: int, block_size: int = 16, **options: Any) -> Run:
    """Serve `workload` on a KV memory of `memory_tokens` tokens cut into blocks of `block_size`.

    The number of blocks follows from the memory, so that block sizes are compared on the same memory.
    `options` are those of `Engine`. The event log is on.

    Raises:
        ViewError: if the memory holds no such block.
        NanoBatchError: whatever the engine refuses, by name.
    """
    if not 1 <= block_size <= memory_tokens:
        limit = f"the memory's {memory_tokens:,} tokens"
        raise ViewError(f"block_size is {block_size}; it must be from 1 to {limit}")
    engine = Engine(memory_tokens // block_size, block_size, event_log=True, **options)
    return drive(engine, workload)


def block_table(run: Engine | Run, workload: Workload, **options: Any) -> BlockTableView:
    """The live block table of `run`, with a slider that serves `workload` again at another block size.

    `options` are those that the engine of `run` was made with, beside its memory: a rerun has the same.
    """
    engine = run.settings["engine"] if isinstance(run, Run) else vars(run)
    memory = engine["num_blocks"] * engine["block_size"]
    batch = f"{engine['max_num_seqs']} sequences at once, {engine['max_num_batched_tokens']:,} tokens a step"
    return BlockTableView(
        run,
        rerun=partial(serve, workload, memory_tokens=memory, **options),
        about=f"{_requests(workload)}; policy {engine['policy']}, {batch}",
    )


def _requests(workload: Workload) -> str:
    seed = workload.spec.get("seed")
    return f"{len(workload):,} requests of {workload.name}" + ("" if seed is None else f", seed {seed}")
