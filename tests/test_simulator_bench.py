"""`nano-batch bench simulator`: its rows on smaller cases, and that its checks can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nano_batch.benchmarks import simulator
from nano_batch.benchmarks.memory import peak_mib
from nano_batch.simulator import simulate

FIELDS = {"case", "seconds", "iterations", "scheduled_sequences", "peak_mib"}


@pytest.mark.parametrize("case", simulator.CASES)
def test_a_case_gives_its_row(case):
    row = simulator.case_row(case, requests=200, runs=2)
    assert set(row) >= FIELDS
    assert row["case"] == case
    assert row["seconds"] > 0
    assert row["scheduled_sequences"] > row["iterations"] > 200


def test_the_sweep_gives_its_row():
    row = simulator.sweep_row(requests=20, runs=1)
    assert set(row) >= FIELDS
    assert (row["points"], row["workers"]) == (200, 2)


def test_each_case_has_a_process_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(simulator, "CASES", {"1k": simulator.CASES["1k"]})
    monkeypatch.setattr(simulator, "MEASURED", tmp_path / "measured" / "simulator.json")
    ballast = np.ones(40_000_000)
    rows = {row["case"]: row for row in simulator.run()["rows"]}
    assert set(rows) == {"1k", "sweep200"}
    assert rows["1k"]["peak_mib"] < ballast.nbytes / 2**20 < peak_mib()
    written = json.loads((tmp_path / "measured" / "simulator.json").read_text())
    assert written["rows"] == list(rows.values())
    assert written["machine"]["cores"]


def test_what_was_not_served_is_no_measurement():
    result = simulate(simulator.workload(100), cost=simulator.COST, **simulator.ENGINE)
    simulator.check(result, 100, 1000, events=False)
    with pytest.raises(RuntimeError, match="100 requests of 101"):
        simulator.check(result, 101, 1000, events=False)
    with pytest.raises(RuntimeError, match="event log"):
        simulator.check(result, 100, 1000, events=True)
    shorter = replace(result.requests, output_tokens=result.requests.output_tokens - 1)
    with pytest.raises(RuntimeError, match="to its length"):
        simulator.check(replace(result, requests=shorter), 100, 1000, events=False)


def test_too_few_iterations_are_refused(monkeypatch):
    monkeypatch.setattr(simulator, "ITERATIONS_10K", (1, 10))
    with pytest.raises(RuntimeError, match="they must be from 1 to 10"):
        simulator.case_row("10k", runs=1)


def test_the_peak_holds_what_was_held_once():
    program = (
        "import numpy as np\nfrom nano_batch.benchmarks.memory import peak_mib\n"
        "before = peak_mib()\nnp.ones(25_000_000)\nprint(peak_mib() - before)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 150 < float(output.stdout) < 230


def test_the_figures_written_down_are_of_this_benchmark():
    written = json.loads((Path(__file__).parents[1] / "data/measured/simulator.json").read_text("utf-8"))
    rows = {row["case"]: row for row in written["rows"]}
    assert list(rows) == ["10k", "1m", "1k", "sweep200"]
    assert 86_000 <= rows["10k"]["iterations"] <= 97_000
    assert all(set(row) >= FIELDS for row in rows.values())
