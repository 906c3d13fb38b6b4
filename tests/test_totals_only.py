"""A run that keeps totals and streamed quantiles and no requests: the same numbers, in memory that stays."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nano_batch import Run, Workload, simulate, simulate_fleet
from nano_batch.errors import InvalidArgumentError, RecordsError
from nano_batch.metrics import end_to_end_s, summary, tpot_s, ttft_s
from nano_batch.workloads import Families, Uniform

SMALL = {"cost": 0.01, "num_blocks": 96, "block_size": 16, "quantiles": True}
VARIANTS = [
    {},
    {"steps_in_flight": 1},
    {"steps_in_flight": 1, "max_tokens": 130},
    {"max_steps": 300},
    {"reservation": "oracle"},
    {"policy": "sjf", "preemption": "swap", "num_swap_blocks": 64},
]


def chat(count: int = 500) -> Workload:
    families = Families(count=4, prefix_tokens=64, share=0.5)
    return Workload.synthetic(
        count, seed=3, rate=12.0, prompts=Uniform(8, 200), outputs=Uniform(1, 120), families=families
    )


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_totals_quantiles_and_steps_are_those_of_the_run_that_keeps_requests(options):
    kept, totals = (simulate(chat(), keep_requests=keeps, **SMALL, **options) for keeps in (True, False))
    assert totals.settings["totals"] == kept.settings["totals"]
    assert totals.steps == kept.steps
    told, requests = totals.settings["totals"], kept.requests
    assert told["requests"] == len(requests)
    assert told["finished"] == int(np.isfinite(requests.finish_s).sum())
    for name in ("output_tokens", "cached_tokens", "preemptions"):
        assert told[name] == int(getattr(requests, name).sum())
    assert told["end_s"] == pytest.approx(kept.span_s)
    assert (told["finished"] < 500) == ("max_steps" in options)


def test_the_variants_hold_cached_prompts_and_preemptions():
    totals = simulate(chat(), keep_requests=False, **SMALL).settings["totals"]
    assert totals["cached_tokens"] > 0
    assert totals["preemptions"] > 0


def test_streamed_latencies_are_those_of_the_columns():
    run = simulate(chat(), **SMALL)
    for name, of in (("ttft_s", ttft_s), ("tpot_s", tpot_s), ("end_to_end_s", end_to_end_s)):
        values, told = of(run.requests), run.settings["totals"][name]
        values = values[~np.isnan(values)]
        assert told["count"] == len(values)
        assert told["mean"] == pytest.approx(values.mean())
        for quantile, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            assert told[quantile] == pytest.approx(np.quantile(values, q, method="lower"), rel=0.006)


def test_a_closed_loop_too():
    workload = Workload.synthetic(300, like="azure_conv", seed=1, arrivals="closed_loop", users=16)
    options = {"cost": 0.01, "num_blocks": 2048, "quantiles": True}
    kept, totals = (simulate(workload, keep_requests=keeps, **options) for keeps in (True, False))
    assert totals.settings["totals"] == kept.settings["totals"]


def test_a_fleet_tells_each_replicas_own():
    kept, totals = (
        simulate_fleet(chat(), replicas=3, routing="least_tokens", keep_requests=keeps, **SMALL)
        for keeps in (True, False)
    )
    assert len(totals.requests) == len(totals.replica) == 0
    for own, other in zip(kept.runs, totals.runs, strict=True):
        assert other.settings["totals"] == own.settings["totals"]
        assert other.settings["totals"]["requests"] == len(own.requests)
        assert len(other.requests) == 0
    assert repr(totals) == repr(kept)
    assert "500 requests" in repr(totals)


def test_the_run_says_that_it_kept_none(tmp_path):
    run = simulate(chat(), keep_requests=False, **SMALL)
    assert len(run.requests) == 0
    assert run.settings["simulator"]["keep_requests"] is False
    assert not run.keeps_requests
    assert "500 (500 finished, not kept)" in repr(run)
    run.save(tmp_path / "run.npz")
    again = Run.load(tmp_path / "run.npz")
    assert again == run
    assert not again.keeps_requests


@pytest.mark.parametrize("needs", [summary, Run.to_workload, Run.served], ids=lambda each: each.__name__)
def test_what_needs_requests_refuses(needs):
    run = simulate(chat(), keep_requests=False, **SMALL)
    with pytest.raises(RecordsError, match="kept totals and no requests"):
        needs(run)
    simulate(chat(), **SMALL).served()


def test_an_event_log_names_every_request():
    with pytest.raises(
        InvalidArgumentError, match="event_log is on; it must be off with keep_requests=False"
    ):
        simulate(chat(), keep_requests=False, event_log=True, **SMALL)


PEAK = """
import sys
import numpy as np
from nano_batch import Workload, simulate
from nano_batch.benchmarks.memory import peak_mib
many = 400_000
workload = Workload(np.arange(many) * 0.01, np.full(many, 64), np.full(many, 2))
options = {"cost": 0.01, "num_blocks": 512, "quantiles": True, "keep_steps": 1000}
options["keep_requests"] = sys.argv[1] == "all"
simulate(workload.head(2000), **options)
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = peak_mib()
simulate(workload, **options)
print((peak_mib() - before) * 2**20 / many)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process start its peak anew")
def test_memory_does_not_grow_by_the_columns():
    grown = {}
    for keeps in ("all", "none"):
        command = [sys.executable, "-c", PEAK, keeps]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        grown[keeps] = float(done.stdout)
    # Bytes a request. The columns have 56 and more; without them the core's own copy of lengths and times
    # is left, which has 16.
    assert grown["all"] > 56
    assert grown["none"] < 24
