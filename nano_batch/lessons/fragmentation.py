"""Pictures of `02_fragmentation`: where the KV memory goes, by allocator and over time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from nano_batch.lessons.allocators import ALLOCATORS, CONTIGUOUS, PARTS, Memory, gib
from nano_batch.lessons.told import expression, requests_line
from nano_batch.records import Run
from nano_batch.viz.block_table import MODEL
from nano_batch.viz.chart import Area, Axis, Bars, Chart, Line, Panel, Series, Shade, thin
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control, control, powers_of_two
from nano_batch.viz.table import Table
from nano_batch.workloads import Workload

MOST_POINTS = 300
PAPER = (20.4, 38.2)  # % of KV memory that held tokens: Kwon et al., SOSP 2023, §1 and figure 2
SIZES = powers_of_two(1, 512)
UNIT = Control("unit", "Counted in", "", ("tokens", "GiB"), "tokens", f"GiB: keys and values of {MODEL}")


def longest(workload: Workload) -> Control:
    """The control of what regions reserve: from 8,192 tokens, or what the longest request needs."""
    stored = int((workload.prompt_tokens + workload.output_tokens - 1).max())
    least = max(8192, 1 << (stored - 1).bit_length())
    trades = "what has to be reserved where nothing is known of a request"
    sizes = powers_of_two(least, 4 * least)
    return Control("max_model_len", "Longest request", "tokens", sizes, least, trades)


def fixed(workload: Workload, memory_tokens: int, name: str) -> dict[str, Any]:
    """What every view here says of its workload and of the line that makes it again."""
    again = f"lab.{name}({expression(workload)}, memory_tokens={memory_tokens}, ...)"
    return {"about": requests_line(workload), "recreate": again, "source": "simulated"}


def set_all(view: ChartView, settings: dict[str, Any]) -> ChartView:
    """The view with its controls at `settings`."""
    with view.hold_trait_notifications():
        for name, value in settings.items():
            setattr(view, name, value)
    return view


def allocators(workload: Workload, *, memory_tokens: int, **settings: Any) -> ChartView:
    """Used, internal, reserved, external and free slots over time, by allocator, on one scale."""

    def make(block_size: int, max_num_seqs: int, max_model_len: int, unit: str) -> tuple[Chart, Any]:
        memory = Memory(workload, memory_tokens, max_num_seqs, max_model_len)
        runs: dict[str, Run] = {name: memory.serve(name, block_size) for name in ALLOCATORS}
        shares = {name: memory.shares(run) for name, run in runs.items()}
        panels = [_over_time(memory, name, run, unit, shares[name]["used"]) for name, run in runs.items()]
        chart = Chart(
            panels,
            "KV memory over time, by allocator",
            columns=2,
            share="xy",
            settings=f"{memory.words()}, blocks of {block_size}, {max_num_seqs} sequences at once",
            says=[_removed(shares)],
            numbers={f"used under {name}, %": share["used"] for name, share in shares.items()}
            | {"time with paging, s": runs["paging"].span_s},
            table=_share_table(shares, {name: run.span_s for name, run in runs.items()}),
        )
        return chart, {name: partial(memory.serve, name, block_size, events=True) for name in ALLOCATORS}

    moved = (control("block_size", 16, SIZES), control("max_num_seqs", 256), longest(workload), UNIT)
    return set_all(ChartView(make, moved, **fixed(workload, memory_tokens, "allocators")), settings)


def _over_time(memory: Memory, name: str, run: Run, unit: str, used: float) -> Panel:
    parts = memory.parts(run)
    steps, start, *columns = thin(MOST_POINTS, run.steps.step, run.steps.start_s, *parts.values())
    scaled = [gib(each) if unit == "GiB" else each for each in columns]
    areas = [Area(part, start, slots, part) for part, slots in zip(PARTS, scaled, strict=True)]
    note = f"{used:.1f} % used while a request waits, done in {run.span_s:,.0f} s"
    return Panel(name, Axis("time", "s"), Axis("KV slots", unit), areas, steps=steps, note=note)


def _removed(shares: dict[str, dict[str, float]]) -> str:
    """Which share of each allocator's waste paging removes, where it wastes anything."""
    left = 100 - shares["paging"]["used"]
    parts = [
        f"{100 * (1 - left / (100 - share['used'])):.1f} % of that of {name}"
        for name, share in shares.items()
        if name != "paging" and share["used"] < 100
    ]
    return (
        f"While a request waits, {left:.1f} % of the memory is not used under paging. "
        f"Of the waste, paging removes {', '.join(parts[:-1])} and {parts[-1]}."
    )


def _share_table(shares: dict[str, dict[str, float]], spans: dict[str, float]) -> Table:
    rows = tuple(
        (name, *(f"{share[part]:.1f}" for part in PARTS), f"{spans[name]:,.1f}")
        for name, share in shares.items()
    )
    header = ("allocator", *(f"{part} (%)" for part in PARTS), "all done (s)")
    return Table("share of the KV memory while a request waits", header, rows)


def memory_split(
    workload: Workload, *, memory_tokens: int, block_sizes: Sequence[int] = (1, 16, 32, 256), **settings: Any
) -> ChartView:
    """Where the memory is while a request waits: stacked bars by allocator, beside the paper's range."""

    def make(max_num_seqs: int, max_model_len: int) -> tuple[Chart, Any]:
        memory = Memory(workload, memory_tokens, max_num_seqs, max_model_len)
        runs: dict[str, Run] = {name: memory.serve(name) for name in CONTIGUOUS}
        runs |= {f"paging {size}": memory.serve("paging", size) for size in block_sizes}
        shares = {name: memory.shares(run) for name, run in runs.items()}
        names = list(shares)
        bars = [Bars(part, names, [shares[name][part] for name in names], part) for part in PARTS]
        words = f"{PAPER[0]}–{PAPER[1]} %: what held tokens in contiguous systems, by the vLLM paper (2023)"
        y = Axis("share of the KV memory while a request waits", "%", high=100)
        panel = Panel("by allocator", Axis("allocator"), y, bars, [Shade(*PAPER, words, "y")], height=330)
        best = f"paging {block_sizes[min(1, len(block_sizes) - 1)]}"
        paged = {name: share for name, share in shares.items() if not name.startswith("paging")}
        chart = Chart(
            [panel],
            "Where the KV memory is",
            settings=f"{memory.words()}, {max_num_seqs} sequences at once",
            says=[_removed({**paged, "paging": shares[best]}).replace("under paging", f"under {best}")],
            numbers={f"used under {name}, %": share["used"] for name, share in shares.items()},
            table=_share_table(shares, {name: run.span_s for name, run in runs.items()}),
        )
        behind = [partial(memory.serve, name, events=True) for name in CONTIGUOUS]
        behind += [partial(memory.serve, "paging", size, events=True) for size in block_sizes]
        return chart, {"by allocator": behind}

    moved = (control("max_num_seqs", 256), longest(workload))
    view = ChartView(make, moved, **fixed(workload, memory_tokens, "memory_split"))
    return set_all(view, settings)


def holes(workload: Workload, *, memory_tokens: int, **settings: Any) -> ChartView:
    """External fragmentation: the largest hole beside what the first waiting request wants."""

    def make(allocator: str, max_num_seqs: int, max_model_len: int) -> Chart:
        memory = Memory(workload, memory_tokens, max_num_seqs, max_model_len)
        run = memory.serve(allocator)  # type: ignore[arg-type]
        steps, parts = run.steps, memory.parts(run)
        free = parts["free"] + parts["external"]
        waits = steps.slots_wanted > 0
        blocked = waits & (free >= steps.slots_wanted) & (steps.slots_largest_hole < steps.slots_wanted)
        share = 100 * float(blocked.sum()) / max(1, int(waits.sum()))
        wanted = np.where(waits, steps.slots_wanted, np.nan)
        at, start, *drawn = thin(
            MOST_POINTS, steps.step, steps.start_s, free, steps.slots_largest_hole, wanted, parts["external"]
        )
        series: list[Series] = [
            Line("free in all", start, drawn[0], "muted"),
            Line("largest hole", start, drawn[1], "series-3"),
            Line("first waiting request wants", start, drawn[2], "bound", dash="5 3"),
        ]
        mean = float(np.average(parts["external"], weights=steps.duration_s))
        x, y = Axis("time", "s"), Axis("KV slots", "tokens")
        outside = [Area("external", start, drawn[3], "external")]
        panels = [
            Panel("holes", x, y, series, steps=at, height=290),
            Panel("in gaps too small for who waits", x, y, outside, steps=at, height=170),
        ]
        return Chart(
            panels,
            "The largest hole, and the request that does not fit",
            settings=f"{memory.words()}, allocator {allocator}",
            says=[
                f"In {share:.1f} % of the {int(waits.sum()):,} steps in which a request waits, enough slots "
                f"are free in all and no hole is large enough."
            ],
            numbers={"steps blocked by fragmentation, %": share, "external, tokens": mean},
            table=Table(
                f"{allocator}: steps by what the first waiting request finds",
                ("it finds", "steps"),
                (
                    ("a hole that fits", f"{int((waits & (steps.slots_largest_hole >= wanted)).sum()):,}"),
                    ("enough in all, no hole that fits", f"{int(blocked.sum()):,}"),
                    ("too little in all", f"{int((waits & (free < steps.slots_wanted)).sum()):,}"),
                    ("nobody waits", f"{int((~waits).sum()):,}"),
                ),
            ),
        )

    choice = Control("allocator", "Allocator", "", ("max", "pow2", "oracle"), "pow2", "what is reserved")
    moved = (choice, control("max_num_seqs", 256), longest(workload))
    return set_all(ChartView(make, moved, **fixed(workload, memory_tokens, "holes")), settings)
