"""What the step budget trades: the first token against the tokens after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nano_batch.metrics import ttft_s
from nano_batch.records import Run
from nano_batch.simulator import simulate
from nano_batch.simulator.costs import Cost
from nano_batch.studies.batching import Mix, default_cost, whole_prompts
from nano_batch.studies.seeds import ABOUT, SEEDS, drawn, spread
from nano_batch.viz.chart import Axis, Chart, Line, Panel
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import control
from nano_batch.viz.table import Table

BUDGETS = (64, 128, 256, 512, 1024, 2048, 4096)


def budget(
    mix: Mix, *, memory_tokens: int = 400_000, cost: Cost | None = None, max_num_seqs: int = 64
) -> ChartView:
    """A chart over the step budget: mean TTFT, and the 99th percentile of the gaps between tokens.

    Beside chunked prefill, as a dashed line, prefill first, which computes whole prompts before any decode.
    Five seeds a point; a click opens the run of the first seed.
    """
    device = cost or default_cost()

    def serve(tokens: int, seed: int, rate: float, slots: int, **options: Any) -> Run:
        workload = replace(mix, seed=seed, rate=rate).workload()
        whole = tokens == 0  # prefill first: no budget cuts its prompts
        return simulate(
            workload,
            cost=device,
            num_blocks=memory_tokens // 16,
            block_size=16,
            max_num_seqs=slots,
            max_num_batched_tokens=whole_prompts(workload, BUDGETS[-1]) if whole else max(tokens, slots),
            policy="prefill_first" if whole else "fcfs",
            quantiles=True,
            **options,
        )

    def make(max_num_seqs: int, rate: float) -> Chart:
        first, gap = (np.zeros((len(BUDGETS) + 1, len(SEEDS))) for _ in range(2))
        for at, tokens in enumerate((*BUDGETS, 0)):
            for place, seed in enumerate(SEEDS):
                run = serve(tokens, seed, rate, max_num_seqs)
                first[at, place] = 1e3 * float(np.nanmean(ttft_s(run.requests)))
                gap[at, place] = 1e3 * run.settings["totals"]["inter_token_s"]["p99"]
        return _chart(first, gap, mix.requests, max_num_seqs)

    def opens(panel: str, series: str, index: int) -> Run:
        tokens = 0 if series.startswith("prefill") else BUDGETS[index]
        return serve(tokens, SEEDS[0], view.rate, view.max_num_seqs, event_log=True)

    view = ChartView(
        make,
        [control("max_num_seqs", max_num_seqs), control("rate", mix.rate)],
        opens=opens,
        source="simulated",
        about=ABOUT,
    )
    return view


def flat(values: np.ndarray) -> np.ndarray:
    """The median at every budget."""
    return np.full(len(BUDGETS), np.median(values))


def _chart(first: np.ndarray, gap: np.ndarray, requests: int, slots: int) -> Chart:
    x = Axis("step budget", "tokens", scale="log2", ticks=BUDGETS)
    panels = [
        Panel(
            title,
            x,
            Axis(label, "ms", scale="log10"),
            [
                *drawn("chunked prefill", BUDGETS, values[:-1], "series-1"),
                Line(
                    "prefill first", BUDGETS, [np.median(values[-1])] * len(BUDGETS), "series-2", dash="6 4"
                ),
            ],
        )
        for title, label, values in (
            ("Time to first token", "TTFT, mean", first),
            ("Stalls between tokens", "gap between tokens, p99", gap),
        )
    ]
    rows = [
        (f"chunked, {tokens:,}", spread(first[at], ".1f"), spread(gap[at], ".1f"))
        for at, tokens in enumerate(BUDGETS)
    ]
    rows.append(("prefill first", spread(first[-1], ".1f"), spread(gap[-1], ".1f")))
    columns = ("scheme, budget (tokens)", "TTFT mean (ms)", "gap p99 (ms)")
    best = float(np.median(gap[:-1], axis=1).min())
    return Chart(
        panels,
        "What the step budget trades",
        columns=2,
        settings=f"{requests} requests, {slots} batch slots",
        says=(
            f"Prefill first has a p99 gap of {np.median(gap[-1]):.1f} ms, chunked prefill of "
            f"{best:.1f} ms at best.",
        ),
        numbers={"p99 gap of prefill first (ms)": float(np.median(gap[-1])), "least p99 gap (ms)": best},
        table=Table("median (least to most of the seeds)", columns, tuple(rows)),
    )
