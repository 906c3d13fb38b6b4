"""What iteration-level batching gains over static batches, by how much answers differ in length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nano_batch.metrics import idle_share
from nano_batch.records import Run
from nano_batch.simulator import simulate
from nano_batch.simulator.costs import Cost
from nano_batch.studies.batching import SCHEMES, Mix, default_cost, scheme_budget
from nano_batch.studies.seeds import ABOUT, SEEDS, drawn, spread
from nano_batch.viz.chart import Axis, Chart, Panel, Rule
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import control
from nano_batch.viz.table import Table

SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
PAIR = ("static batches", "iteration level")
COLOURS = {"static batches": "series-2", "iteration level": "series-1"}


def gain(
    mix: Mix, *, memory_tokens: int = 65_536, cost: Cost | None = None, max_num_seqs: int = 8
) -> ChartView:
    """A chart over the spread of the answers: the gain in makespan, and the idle slots of both schemes.

    All requests are there at the start. At each spread five seeds are drawn; both schemes serve the same
    requests, and the gain is taken seed by seed. A click on a point opens the run of the first seed.
    """
    device = cost or default_cost()

    def serve(scheme: str, spread_: float, seed: int, slots: int, log: bool = False) -> Run:
        workload = replace(mix, output_spread=spread_, seed=seed, rate=None).workload()
        return simulate(
            workload,
            cost=device,
            num_blocks=memory_tokens // 16,
            block_size=16,
            max_num_seqs=slots,
            max_num_batched_tokens=scheme_budget(scheme, workload, 512, slots),
            event_log=log,
            **SCHEMES[scheme],
        )

    def make(max_num_seqs: int) -> Chart:
        shape = (len(SPREADS), len(SEEDS))
        ends = {scheme: np.zeros(shape) for scheme in PAIR}
        idle = {scheme: np.zeros(shape) for scheme in PAIR}
        for scheme in PAIR:
            for at, spread_ in enumerate(SPREADS):
                for place, seed in enumerate(SEEDS):
                    run = serve(scheme, spread_, seed, max_num_seqs)
                    ends[scheme][at, place] = run.span_s
                    idle[scheme][at, place] = 100 * idle_share(run)
        return _chart(ends[PAIR[0]] / ends[PAIR[1]], idle, mix.requests, max_num_seqs)

    def opens(panel: str, series: str, index: int) -> Run:
        scheme = next((name for name in PAIR if series.startswith(name)), PAIR[0])
        return serve(scheme, SPREADS[index], SEEDS[0], view.max_num_seqs, log=True)

    view = ChartView(
        make,
        [control("max_num_seqs", max_num_seqs)],
        opens=opens,
        source="simulated",
        about=ABOUT,
    )
    return view


def _chart(ratio: np.ndarray, idle: dict[str, np.ndarray], requests: int, slots: int) -> Chart:
    x = Axis("spread of the answers", "sigma", ticks=SPREADS)
    panels = (
        Panel(
            "Makespan of static batches over that of iteration level",
            x,
            Axis("ratio", "", low=0.0),
            drawn("ratio", SPREADS, ratio, "series-3"),
            (Rule("y", 1.0),),
        ),
        Panel(
            "Idle slots",
            x,
            Axis("idle", "% of the slots' time", low=0.0, high=100.0),
            [part for scheme in PAIR for part in drawn(scheme, SPREADS, idle[scheme], COLOURS[scheme])],
        ),
    )
    rows = tuple(
        (
            f"{each:.2f}",
            spread(ratio[at], ".2f"),
            *(spread(idle[scheme][at], ".1f") for scheme in PAIR),
        )
        for at, each in enumerate(SPREADS)
    )
    columns = ("spread (sigma)", "ratio of makespans", *(f"idle, {scheme} (%)" for scheme in PAIR))
    first, last = (float(np.median(ratio[at])) for at in (0, -1))
    return Chart(
        panels,
        "What iteration-level batching gains",
        columns=2,
        settings=f"{requests} requests, {slots} batch slots",
        says=(
            f"Static batches take {first:.2f} times as long where answers are alike, "
            f"{last:.2f} times at a spread of {SPREADS[-1]}.",
        ),
        numbers={"ratio at the widest spread": last, "ratio without spread": first},
        table=Table("median (least to most of the seeds)", columns, rows),
    )
