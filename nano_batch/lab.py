"""What a notebook needs, under one name: ``from nano_batch import lab``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nano_batch.core import Engine
from nano_batch.errors import ViewError
from nano_batch.lessons import (
    DecodeStep,
    Hint,
    Verdict,
    allocators,
    block_sizes,
    blocks_read,
    check,
    engine_latency,
    engine_scaling,
    engine_throughput,
    evictions,
    gpu_memory,
    growth,
    hint,
    hit_rates,
    holes,
    kernel_speed,
    last_block,
    memory_split,
    preemptions,
    prefix_hits,
    question,
    sharing,
    tile_shares,
    warp_reads,
)
from nano_batch.lessons.told import expression, requests_line
from nano_batch.metrics import SLO
from nano_batch.picker import WorkloadPicker, pick_workload
from nano_batch.records import Run, drive
from nano_batch.saturation.view import saturation
from nano_batch.scenes import with_swap_space
from nano_batch.simulator import Roofline, simulate
from nano_batch.studies import Board, Mix, budget, gain, gantt, giving_way, race, serve_schemes
from nano_batch.viz import BlockTableView, GanttView, OpeningView
from nano_batch.viz.opening import SETTINGS
from nano_batch.workloads import Families, Uniform, Workload

__all__ = [
    "SLO",
    "BlockTableView",
    "Board",
    "DecodeStep",
    "Engine",
    "Families",
    "GanttView",
    "Hint",
    "Mix",
    "OpeningView",
    "Roofline",
    "Run",
    "Uniform",
    "Verdict",
    "ViewError",
    "Workload",
    "WorkloadPicker",
    "allocators",
    "block_sizes",
    "block_table",
    "blocks_read",
    "budget",
    "check",
    "drive",
    "engine_latency",
    "engine_scaling",
    "engine_throughput",
    "evictions",
    "gain",
    "gantt",
    "giving_way",
    "gpu_memory",
    "growth",
    "hint",
    "hit_rates",
    "holes",
    "kernel_speed",
    "last_block",
    "live",
    "memory_split",
    "opening",
    "pick_workload",
    "preemptions",
    "prefix_hits",
    "question",
    "race",
    "saturation",
    "serve",
    "serve_schemes",
    "sharing",
    "tile_shares",
    "warp_reads",
]


def serve(workload: Workload, *, memory_tokens: int, block_size: int = 16, **options: Any) -> Run:
    """Serve `workload` on a KV memory of `memory_tokens` tokens cut into blocks of `block_size`.

    The number of blocks follows from the memory, so that block sizes are compared on the same memory.
    `options` are those of `Engine`; preemption by swap has a host pool as large unless they say otherwise.
    The event log is on.

    Raises:
        ViewError: if the memory holds no such block.
        NanoBatchError: whatever the engine refuses, by name.
    """
    if not 1 <= block_size <= memory_tokens:
        limit = f"the memory's {memory_tokens:,} tokens"
        raise ViewError(f"block_size is {block_size}; it must be from 1 to {limit}")
    num_blocks = memory_tokens // block_size
    own = with_swap_space(options, num_blocks)
    return simulate(workload, num_blocks=num_blocks, block_size=block_size, event_log=True, **own)


def block_table(run: Engine | Run, workload: Workload, **options: Any) -> BlockTableView:
    """The live block table of `run`, with controls that serve `workload` again under other settings.

    `options` are those that the engine of `run` was made with, beside its memory: a rerun has the same,
    but for what a control says.
    """
    engine = run.settings["engine"] if isinstance(run, Run) else vars(run)
    memory = engine["num_blocks"] * engine["block_size"]
    own = {name: options.get(name, engine.get(name, value)) for name, value in SETTINGS.items()}

    def rerun(**settings: Any) -> Run:
        return serve(workload, memory_tokens=memory, **{**options, **settings})

    return BlockTableView(
        run,
        rerun=rerun,
        settings=own,
        about=requests_line(workload),
        recreate=f"lab.live({expression(workload)}, memory_tokens={memory}, ...)",
        made_with=options,
    )


def live(
    workload: Workload,
    *,
    memory_tokens: int,
    step: int | None = None,
    requests: Iterable[str] = (),
    **settings: Any,
) -> BlockTableView:
    """Serve `workload` and show its block table at `step`, `requests` selected: what is copied as code."""
    made_with = {name: value for name, value in settings.items() if name != "block_size"}
    view = block_table(serve(workload, memory_tokens=memory_tokens, **settings), workload, **made_with)
    if step is not None:
        view.step = step
    view.selected.requests = list(requests)
    return view


def opening(scene: int = 1, **changed: Any) -> OpeningView:
    """The block table that opens small: 24 blocks, three requests, six scenes to go to.

    `changed` are the controls' settings, `step` and `requests`, where they are not the scene's.
    """
    return OpeningView(scene, **changed)
