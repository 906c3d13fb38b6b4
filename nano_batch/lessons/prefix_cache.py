"""The pictures of `06_prefix_cache`: what a cache of a given size hits, and what a block size lets it hit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np

from nano_batch.core import BlockCache, Eviction, belady_hits
from nano_batch.display import number
from nano_batch.errors import ViewError
from nano_batch.lessons.fragmentation import set_all
from nano_batch.lessons.told import expression, requests_line
from nano_batch.records import Run
from nano_batch.simulator import simulate
from nano_batch.viz.chart import Axis, Chart, Line, Panel, Points, Rule, Series
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control, powers_of_two
from nano_batch.viz.table import Table
from nano_batch.workloads import Families, Workload

POLICIES: tuple[str, ...] = get_args(Eviction)
BOUND = "optimal (Belady)"
COLOURS = {"lru": "series-1", "lfu": "series-2", "fifo": "series-3", BOUND: "bound"}
CACHES = powers_of_two(64, 4096)
SIZES = powers_of_two(1, 512)
SKEW = Control(
    "skew", "Popularity", "Zipf's exponent", (0.0, 0.5, 1.0, 1.5, 2.0), 1.0, "0: all prefixes alike"
)
SHARE = Control("share", "With a prefix", "of the requests", (0.2, 0.4, 0.6, 0.8, 1.0), 0.8, "the others")


def hit_rates(workload: Workload, **settings: Any) -> ChartView:
    """Share of prompt blocks found in a prefix cache, over its size, by eviction order, and the bound.

    The cache alone, in the order of the requests: nothing runs, so nothing is pinned. Where the workload was
    drawn with families of prefixes, their popularity and share can be moved: other requests are drawn then.

    Raises:
        ViewError: the workload has no content that could be shared.
    """
    if workload.block_offsets is None:
        raise ViewError("the workload has lengths only; a prefix cache needs content: draw it with families")
    families: dict[str, Any] = workload.spec.get("families") or {}
    spec = dict(workload.spec)

    def make(**moved: float) -> tuple[Chart, Any]:
        drawn = Workload.from_spec({**spec, "families": {**families, **moved}}) if moved else workload
        return _hit_chart(drawn)

    controls = (_at(SKEW, families["skew"]), _at(SHARE, families["share"])) if families else ()
    view = ChartView(
        make,
        controls,
        about=requests_line(workload),
        recreate=f"lab.hit_rates({expression(workload)}, ...)",
        source="simulated",
    )
    return set_all(view, settings)


def _at(control: Control, home: float) -> Control:
    values = tuple(sorted({*control.values, float(home)}))
    return Control(control.name, control.label, control.unit, values, float(home), control.note)


def _hit_chart(workload: Workload) -> tuple[Chart, Any]:
    ids, offsets = workload.block_ids, workload.block_offsets
    assert ids is not None
    assert offsets is not None
    caches: dict[str, list[Callable[..., Any]]] = {
        name: [BlockCache(size, name).access_all for size in CACHES] for name in POLICIES
    }
    caches[BOUND] = [partial(belady_hits, num_blocks=size) for size in CACHES]
    percent = {
        name: np.array([100 * float(hits(offsets, ids).sum()) / len(ids) for hits in column])
        for name, column in caches.items()
    }
    again = 100 * (1 - len(np.unique(ids)) / len(ids))
    x, y = Axis("cache size", "blocks", "log2"), Axis("prompt blocks found", "%")
    curves = [each for name, column in percent.items() for each in _curve(name, column)]
    bound = [Rule("y", again, "all but the first time")]
    panels = [
        Panel("hit rate", x, y, curves, bound, height=300),
        Panel("of what is possible", x, Axis("", "% of the optimal"), _shares(percent), height=190),
    ]
    middle = len(CACHES) // 2
    best = max(POLICIES, key=lambda name: float(percent[name][middle]))
    chart = Chart(
        panels,
        "What a prefix cache finds",
        settings="the cache alone, requests in their order, no running blocks that are pinned; "
        "one draw of the requests, not the median of several seeds",
        says=[
            f"With {CACHES[middle]:,} blocks {best} finds {percent[best][middle]:.1f} % of the prompt "
            f"blocks and the best possible {percent[BOUND][middle]:.1f} %; no cache finds more than "
            f"{again:.1f} %: the others come for the first time."
        ],
        numbers={f"{name} at {CACHES[middle]:,} blocks, %": float(percent[name][middle]) for name in percent},
        table=_hit_table(percent),
    )
    runs = {
        (panel.title, name): [partial(_serve, workload, size, name) for size in CACHES]
        for panel in panels
        for name in POLICIES
    }
    return chart, runs


def _curve(name: str, column: Any) -> list[Series]:
    dash = "5 3" if name == BOUND else ""
    line = Line(name, CACHES, column, COLOURS[name], dash=dash)
    return [line] if name == BOUND else [line, Points(name, CACHES, column, COLOURS[name])]


def _shares(percent: dict[str, Any]) -> list[Series]:
    best = np.where(percent[BOUND] > 0, percent[BOUND], np.nan)
    return [Line(name, CACHES, 100 * percent[name] / best, COLOURS[name]) for name in POLICIES]


def _hit_table(percent: dict[str, Any]) -> Table:
    rows = tuple(
        (f"{size:,}", *(f"{column[place]:.1f}" for column in percent.values()))
        for place, size in enumerate(CACHES)
    )
    header = ("cache size (blocks)", *(f"{name} (%)" for name in percent))
    return Table("prompt blocks found", header, rows)


def _serve(workload: Workload, blocks: int, eviction: str) -> Run:
    """A whole engine on a cache of this size: running requests hold blocks of it."""
    options: dict[str, Any] = {"eviction": eviction, "max_num_seqs": 8, "event_log": True}
    return simulate(workload, num_blocks=blocks, block_size=workload.block_size, **options)


def prefix_hits(*, own_tokens: int = 40, requests: int = 20, **settings: Any) -> ChartView:
    """Tokens of a shared prefix that each later request finds, over the block size: whole blocks only."""

    def make(prefix_tokens: int) -> tuple[Chart, Any]:
        workload = _after_each_other(prefix_tokens, own_tokens, requests)
        runs = [simulate(workload, num_blocks=65_536 // size, block_size=size) for size in SIZES]
        found = np.array([float(run.requests.cached_tokens[1:].mean()) for run in runs])
        whole = [prefix_tokens // size * size for size in SIZES]
        held = np.array(
            [float(run.steps.blocks_used.max()) * size for run, size in zip(runs, SIZES, strict=True)]
        )
        x = Axis("block size", "tokens", "log2")
        series: list[Series] = [
            Line("found, measured", SIZES, found, "series-1"),
            Points("found, measured", SIZES, found, "series-1"),
            Line("whole blocks of the prefix", SIZES, whole, "bound", dash="5 3"),
        ]
        panels = [
            Panel("found", x, Axis("", "tokens a request"), series, [Rule("y", prefix_tokens, "the prefix")]),
            Panel("held at most", x, Axis("", "tokens"), [Line("held", SIZES, held, "series-2")], height=190),
        ]
        none = [size for size, tokens in zip(SIZES, found, strict=True) if tokens == 0]
        lost = f"blocks of {none[0]} and more find nothing" if none else "every block size finds some of it"
        chart = Chart(
            panels,
            "What a block size lets a prefix cache find",
            settings=f"a prefix of {prefix_tokens} tokens, {own_tokens} of its own for each request",
            says=[f"Of {prefix_tokens} tokens blocks of 16 find {number(float(found[4]))}; {lost}."],
            numbers={
                f"found by blocks of {size}, tokens": float(found[SIZES.index(size)]) for size in (16, 256)
            },
            table=_prefix_table(found, whole),
        )
        return chart, {panel.title: [partial(_logged, workload, size) for size in SIZES] for panel in panels}

    values = (48, 112, 240, 272, 496)
    control = Control("prefix_tokens", "Prefix", "tokens", values, 240, "what all requests begin with")
    view = ChartView(
        make,
        (control,),
        about=f"{requests} requests, one after the other",
        recreate=f"lab.prefix_hits(own_tokens={own_tokens}, requests={requests}, ...)",
        source="simulated",
    )
    return set_all(view, settings)


def _after_each_other(prefix_tokens: int, own_tokens: int, requests: int) -> Workload:
    """Requests that begin alike; each comes when the one before has long ended."""
    families = Families(count=1, prefix_tokens=prefix_tokens)
    return Workload.synthetic(
        requests, prompts=own_tokens, outputs=8, seed=1, arrivals="closed_loop", users=1, families=families
    )


def _logged(workload: Workload, size: int) -> Run:
    return simulate(workload, num_blocks=65_536 // size, block_size=size, event_log=True)


def _prefix_table(found: Any, whole: list[int]) -> Table:
    rows = tuple(
        (f"{size:,}", f"{tokens:.1f}", f"{full:,}")
        for size, tokens, full in zip(SIZES, found, whole, strict=True)
    )
    header = ("block size (tokens)", "found a request (tokens)", "whole blocks of the prefix (tokens)")
    return Table("of the prefix, by each request but the first", header, rows)
