"""What a preemption costs: computing again, or moving blocks to the host and back, by block size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nano_batch.records import Kind, Run
from nano_batch.simulator import Roofline, simulate
from nano_batch.simulator.cards import ModelName
from nano_batch.studies.batching import Mix
from nano_batch.studies.seeds import ABOUT, SEEDS, drawn, spread
from nano_batch.viz.chart import Axis, Chart, Panel, Rule
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control, control
from nano_batch.viz.table import Table

BLOCK_SIZES = (1, 4, 16, 64, 256)
WAYS = ("recompute", "swap")
COLOURS = {"recompute": "series-2", "swap": "series-1"}
MODEL: ModelName = "mistral-7b-v0.1"
MEMORY = Control(
    "memory_tokens",
    "KV memory",
    "tokens",
    tuple(1 << i for i in range(12, 18)),
    1 << 13,
    "less: more requests give way",
)


def giving_way(mix: Mix, *, memory_tokens: int = 1 << 13, hardware: Any = "h100") -> ChartView:
    """A chart over block sizes: the makespan against one with ample memory, and what was done twice or moved.

    Memory, requests and seeds are the same at every block size and for both ways; there is no prefix cache,
    so that nothing lost is found again. A click opens the run of the first seed.
    """

    def serve(way: str, size: int, seed: int, tokens: int, rate: float, **options: Any) -> Run:
        blocks = tokens // size
        own = {"num_swap_blocks": 4 * blocks} if way == "swap" else {}
        return simulate(
            replace(mix, seed=seed, rate=rate).workload(),
            cost=Roofline.of(hardware, MODEL, block_size=size),
            num_blocks=blocks,
            block_size=size,
            preemption=way,
            enable_prefix_caching=False,
            max_num_seqs=64,
            max_num_batched_tokens=1024,
            **{"event_log": True, **own, **options},
        )

    def make(memory_tokens: int, rate: float) -> Chart:
        shape = (len(BLOCK_SIZES), len(SEEDS))
        found = {way: {name: np.zeros(shape) for name in ("end", "again", "moved", "times")} for way in WAYS}
        ample = [serve("recompute", 16, seed, 1 << 20, rate, event_log=False).span_s for seed in SEEDS]
        for way in WAYS:
            for at, size in enumerate(BLOCK_SIZES):
                for place, seed in enumerate(SEEDS):
                    run = serve(way, size, seed, memory_tokens, rate)
                    values = found[way]
                    values["end"][at, place] = run.span_s / ample[place]
                    values["again"][at, place] = computed_again(run)
                    values["moved"][at, place] = size * blocks_moved(run)
                    values["times"][at, place] = run.requests.preemptions.sum()
        return _chart(found, mix.requests, memory_tokens)

    def opens(panel: str, series: str, index: int) -> Run:
        way = "swap" if series.startswith("swap") else "recompute"
        return serve(way, BLOCK_SIZES[index], SEEDS[0], view.memory_tokens, view.rate)

    view = ChartView(
        make,
        [replace(MEMORY, default=memory_tokens), control("rate", mix.rate)],
        opens=opens,
        source="simulated",
        about=ABOUT,
    )
    return view


def computed_again(run: Run) -> int:
    """Tokens computed beyond the p + m − 1 that each request stores once (without a prefix cache)."""
    requests, steps = run.requests, run.steps
    once = requests.prompt_tokens + np.maximum(requests.output_tokens - 1, 0)
    return int(steps.prefill_tokens.sum() + steps.decode_tokens.sum() - once.sum())


def blocks_moved(run: Run) -> int:
    """Blocks copied to the host and back."""
    assert run.events is not None
    return int(np.isin(run.events.kind, [Kind.SWAPPED_OUT, Kind.SWAPPED_IN]).sum())


def _chart(found: dict[str, dict[str, np.ndarray]], requests: int, memory: int) -> Chart:
    x = Axis("block size", "tokens", scale="log2", ticks=BLOCK_SIZES)
    parts = (
        ("Makespan over that with ample memory", Axis("ratio", "", low=0.0), "end"),
        ("Preemptions", Axis("preemptions", "", low=0.0), "times"),
        ("Tokens computed again", Axis("tokens", "", low=0.0), "again"),
        ("Token slots moved to the host and back", Axis("slots", "", low=0.0), "moved"),
    )
    panels = [
        Panel(
            title,
            x,
            axis,
            [part for way in WAYS for part in drawn(way, BLOCK_SIZES, found[way][name], COLOURS[way])],
            (Rule("y", 1.0),) if name == "end" else (),
        )
        for title, axis, name in parts
    ]
    rows = tuple(
        (
            f"{way}, {size}",
            spread(values["end"][at], ".3f"),
            *(f"{np.median(values[name][at]):,.0f}" for name in ("times", "again", "moved")),
        )
        for way, values in found.items()
        for at, size in enumerate(BLOCK_SIZES)
    )
    columns = ("way, block size (tokens)", "makespan ratio", "preemptions", "computed again", "slots moved")
    at = BLOCK_SIZES.index(16)
    ends = {way: float(np.median(found[way]["end"][at])) for way in WAYS}
    return Chart(
        panels,
        "What giving way costs",
        columns=2,
        settings=f"{requests} requests, {memory:,} tokens of KV memory",
        says=(
            f"On blocks of 16 the run takes {ends['recompute']:.3f} times as long as with ample memory by "
            f"recompute, {ends['swap']:.3f} times by swap.",
        ),
        numbers={f"makespan by {way} over ample": end for way, end in ends.items()},
        table=Table("medians of the seeds (least to most)", columns, rows),
    )
