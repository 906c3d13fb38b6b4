"""What a block size costs: slots left empty, table length, steps; and what an engine takes at its start."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from nano_batch.display import number, readable_bytes
from nano_batch.lessons.allocators import Memory
from nano_batch.lessons.fragmentation import SIZES, fixed, set_all
from nano_batch.records import Run
from nano_batch.simulator.cards import ModelName, hardware_card, memory_tokens, model_card
from nano_batch.viz.chart import Axis, Band, Bars, Chart, Line, Panel, Points, Series
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control, control
from nano_batch.viz.table import Table
from nano_batch.workloads import Workload

SEEDS = 5
MODELS: tuple[ModelName, ...] = ("opt-125m", "tinyllama-1.1b", "mistral-7b-v0.1")
CARDS = ("t4", "a10", "l4", "rtx4090", "a100", "h100", "h200")


def block_sizes(workload: Workload, *, memory_tokens: int, **settings: Any) -> ChartView:
    """Over the block size: slots left empty beside the model, the longest table, the steps to serve all.

    A synthetic workload is drawn with five seeds: the line is the median, the band from least to most.
    """
    drawn = _seeds(workload)

    def make(max_num_seqs: int) -> tuple[Chart, Any]:
        found = np.array(
            [[_measure(Memory(each, memory_tokens, max_num_seqs), size) for each in drawn] for size in SIZES]
        )  # [size, seed, measure]
        memory = Memory(workload, memory_tokens, max_num_seqs)
        model = [(size - 1) / 2 for size in SIZES]
        y = Axis("", "tokens a sequence")
        waste: list[Series] = [
            *_median(found[:, :, 0], "held and not yet written", "series-1"),
            *_median(found[:, :, 1], "never written", "internal"),
            Line("model: (block_size − 1) / 2", SIZES, model, "bound", dash="5 3"),
        ]
        panels = [
            Panel("slots left empty", Axis("block size", "tokens", "log2"), y, waste, height=300),
            _below("longest table", "blocks", found[:, :, 2], "series-3", log=True),
            _below("steps to serve all", "steps", found[:, :, 3], "series-4"),
        ]
        middle = np.median(found, axis=1)
        best = int(middle[:, 3].argmin())
        chart = Chart(
            panels,
            "What a block size costs",
            settings=f"{memory.words()}, {max_num_seqs} sequences at once; {_drawn(drawn)}",
            says=[
                f"Between blocks of {SIZES[0]} and {SIZES[-1]} the steps grow from {number(middle[0, 3])} to "
                f"{number(middle[-1, 3])} (fewest at {SIZES[best]}), and the longest table shrinks from "
                f"{number(middle[0, 2])} to {number(middle[-1, 2])} blocks."
            ],
            numbers={"steps at 16": float(middle[4, 3]), "left empty at 16, tokens": float(middle[4, 0])},
            table=_table(middle, model),
        )
        runs = [partial(memory.serve, "paging", size, events=True) for size in SIZES]
        return chart, {panel.title: runs for panel in panels}

    moved = (control("max_num_seqs", 256),)
    return set_all(ChartView(make, moved, **fixed(workload, memory_tokens, "block_sizes")), settings)


def _seeds(workload: Workload) -> list[Workload]:
    """The workload as it is, and where it was drawn from a seed four more of its kind."""
    spec = dict(workload.spec)
    if spec.get("source") != "synthetic" or spec.get("then"):
        return [workload]
    return [Workload.from_spec({**spec, "seed": spec["seed"] + more}) for more in range(SEEDS)]


def _drawn(workloads: list[Workload]) -> str:
    return f"median of {len(workloads)} seeds, least to most shaded" if len(workloads) > 1 else "one draw"


def _measure(memory: Memory, size: int) -> tuple[float, ...]:
    run: Run = memory.serve("paging", size)
    steps, asked = run.steps, memory.workload
    sequences = max(1, int(steps.running.sum()))
    table = -(-int((asked.prompt_tokens + asked.output_tokens - 1).max()) // size)
    internal = int(steps.slots_internal.sum())
    empty = int(steps.slots_reserved.sum()) + internal
    return empty / sequences, internal / sequences, table, len(steps)


def _median(values: Any, name: str, colour: str) -> list[Series]:
    middle = np.median(values, axis=1)
    own: list[Series] = [Line(name, SIZES, middle, colour), Points(name, SIZES, middle, colour)]
    if values.shape[1] > 1:
        own.insert(0, Band(f"{name}, five seeds", SIZES, values.min(1), values.max(1), colour))
    return own


def _below(title: str, unit: str, values: Any, colour: str, *, log: bool = False) -> Panel:
    x, y = Axis("block size", "tokens", "log2"), Axis("", unit, "log2" if log else "linear")
    return Panel(title, x, y, _median(values, title, colour), height=190)


def _table(middle: Any, model: list[float]) -> Table:
    rows = tuple(
        (f"{size:,}", f"{row[0]:.1f}", f"{half:.1f}", f"{row[1]:.2f}", f"{row[2]:,.0f}", f"{row[3]:,.0f}")
        for size, row, half in zip(SIZES, middle, model, strict=True)
    )
    header = (
        "block size (tokens)",
        "left empty (tokens a sequence)",
        "(size − 1) / 2 (tokens)",
        "never written (tokens a sequence)",
        "longest table (blocks)",
        "steps",
    )
    return Table("medians over the seeds", header, rows)


def gpu_memory(**settings: Any) -> ChartView:
    """What an engine takes of a GPU when it starts: weights, and all the rest of its share as KV blocks."""

    def make(hardware: str, fraction: float) -> Chart:
        gpu = hardware_card(hardware)  # type: ignore[arg-type]
        cards = [model_card(name) for name in MODELS]
        tokens = [_fitting(hardware, name, fraction) for name in MODELS]
        weights = [card.weight_bytes / 2**30 for card in cards]
        blocks = [n * card.kv_bytes_per_token / 2**30 for n, card in zip(tokens, cards, strict=True)]
        whole = gpu.memory_bytes / 2**30
        titles = [card.title for card in cards]
        rest = [whole - one - two for one, two in zip(weights, blocks, strict=True)]
        bars = [
            Bars("weights", titles, weights, "series-2"),
            Bars("KV blocks", titles, blocks, "series-1"),
            Bars("not taken", titles, rest, "free"),
        ]
        panel = Panel("taken at the start", Axis("model"), Axis("GPU memory", "GiB"), bars, height=300)
        first, most = cards[0], tokens[0] // cards[0].max_model_len
        rows = tuple(
            (card.title, f"{one:.2f}", f"{two:.2f}", f"{n:,}")
            for card, one, two, n in zip(cards, weights, blocks, tokens, strict=True)
        )
        return Chart(
            [panel],
            "Why a small model fills a GPU",
            settings=f"{gpu.title}, {readable_bytes(int(gpu.memory_bytes))}",
            says=[
                f"{first.title} has {weights[0]:.2f} GiB of weights and takes {weights[0] + blocks[0]:.1f} "
                f"GiB: room for {tokens[0]:,} tokens, {most:,} requests of its greatest length."
            ],
            numbers={f"taken by {first.title}, GiB": weights[0] + blocks[0]},
            table=Table(gpu.title, ("model", "weights (GiB)", "KV blocks (GiB)", "tokens"), rows),
        )

    moved = (
        Control("hardware", "GPU", "", CARDS, "l4", "from the cards in data/hardware"),
        Control(
            "fraction",
            "Taken",
            "of the memory",
            (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
            0.9,
            "more: more requests at once, less for anything else on the GPU",
        ),
    )
    own: dict[str, Any] = {
        "about": "no request runs yet",
        "recreate": "lab.gpu_memory(...)",
        "source": "from data sheets",
    }
    return set_all(ChartView(make, moved, **own), settings)


def _fitting(hardware: Any, model: Any, fraction: float) -> int:
    """Tokens of KV memory beside the weights; none where the weights alone do not fit."""
    gpu, card = hardware_card(hardware), model_card(model)
    fits = gpu.memory_bytes * fraction >= card.weight_bytes + card.kv_bytes_per_token
    return memory_tokens(hardware, model, fraction=fraction) if fits else 0
