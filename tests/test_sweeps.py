"""Sweeps: the table is what single simulations give, in any backend, from the disk and after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import joblib
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from nano_batch import Constant, Profile, Roofline, Workload, simulate
from nano_batch.errors import SweepError, UnknownOptionError, WorkloadError
from nano_batch.metrics import SLO, summary
from nano_batch.sweeps import read_config, sweep, work

WORKLOAD = {"num_requests": 150, "like": "azure_conv"}
GRID = {"rate": [2.0, 20.0], "block_size": [16, 64], "seed": [0, 1]}
FIXED = {"memory_tokens": 65_536, "max_num_seqs": 32, "slo": SLO(ttft_s=1.0), "cost": 0.03}


@pytest.fixture(scope="module")
def table():
    return sweep(GRID, WORKLOAD, cache=False, **FIXED)


def test_each_row_is_the_summary_of_its_own_simulation(table):
    rows = []
    for rate, size, seed in product(*GRID.values()):
        workload = Workload.synthetic(**WORKLOAD, rate=rate, seed=seed)
        run = simulate(workload, cost=0.03, block_size=size, num_blocks=65_536 // size, max_num_seqs=32)
        numbers = summary(run, SLO(ttft_s=1.0))
        rows.append({"rate": rate, "block_size": size, "seed": seed, **numbers})
    assert_frame_equal(table, pd.DataFrame(rows), check_exact=True)
    assert table.kv_internal_share.nunique() == len(table)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_the_callers_backend_gives_the_same_table(backend, table, tmp_path):
    with joblib.parallel_config(backend, n_jobs=2):
        assert_frame_equal(sweep(GRID, WORKLOAD, cache=tmp_path, **FIXED), table, check_exact=True)
    assert len(list(tmp_path.rglob("*.json"))) == len(table)


def test_two_dask_workers_give_the_same_table(table, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config("dask"),
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        assert_frame_equal(sweep(GRID, WORKLOAD, cache=tmp_path, **FIXED), table, check_exact=True)
    assert len(list(tmp_path.rglob("*.json"))) == len(table)


def test_a_finished_point_is_read_and_not_simulated_again(table, tmp_path, monkeypatch):
    sweep(GRID, WORKLOAD, cache=tmp_path, **FIXED)
    simulated = count_simulations(monkeypatch)
    assert_frame_equal(sweep(GRID, WORKLOAD, cache=tmp_path, **FIXED), table, check_exact=True)
    assert simulated == []
    # One damaged file costs its own point only.
    damaged = sorted(tmp_path.rglob("*.json"))[3]
    damaged.write_text(damaged.read_text()[:40])
    assert_frame_equal(sweep(GRID, WORKLOAD, cache=tmp_path, **FIXED), table, check_exact=True)
    assert len(simulated) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"cost": 0.031},
        {"cost": Constant(0.03, host_s=0.001)},
        {"cost": Roofline(1e15, 3e12, 1e10, 131_072)},
        {"cost": Profile.of("h200-mistral-7b")},
        {"slo": SLO(ttft_s=2.0)},
        {"slo": None},
        {"window": (1.0, 5.0)},
        {"max_num_seqs": 16},
        {"memory_tokens": 32_768},
        {"policy": "sjf"},
        {"steps_in_flight": 1},
        {"keep_steps": 64},
        {"max_tokens": 2000},
    ],
    ids=lambda change: "-".join(f"{name}" for name in change),
)
def test_whatever_a_point_depends_on_is_part_of_its_key(change, tmp_path, monkeypatch):
    grid = {"seed": [0], "block_size": [16]}
    sweep(grid, {**WORKLOAD, "rate": 5.0}, cache=tmp_path, **FIXED)
    simulated = count_simulations(monkeypatch)
    changed = sweep(grid, {**WORKLOAD, "rate": 5.0}, cache=tmp_path, **{**FIXED, **change})
    assert len(simulated) == 1
    fresh = sweep(grid, {**WORKLOAD, "rate": 5.0}, cache=False, **{**FIXED, **change})
    assert_frame_equal(changed, fresh, check_exact=True)


def test_other_code_means_other_keys(tmp_path, monkeypatch):
    from nano_batch.sweeps import keys

    grid = {"seed": [0]}
    sweep(grid, WORKLOAD, cache=tmp_path, **FIXED)
    simulated = count_simulations(monkeypatch)
    monkeypatch.setattr(keys, "code_digest", lambda: "another build")
    sweep(grid, WORKLOAD, cache=tmp_path, **FIXED)
    assert len(simulated) == 1


def test_a_python_function_as_cost_is_never_kept(tmp_path):
    grid = {"cost": {"short": lambda step: 0.01, "long": lambda step: 0.02}, "seed": [0]}
    fixed = {name: value for name, value in FIXED.items() if name != "cost"}
    costs = sweep(grid, {**WORKLOAD, "rate": 20.0}, cache=tmp_path, **fixed)
    assert costs.cost.tolist() == ["short", "long"]
    assert costs.tpot_p50_s[1] == pytest.approx(2 * costs.tpot_p50_s[0], rel=0.2)
    assert not list(tmp_path.rglob("*.json"))


def count_simulations(monkeypatch):
    simulated = []

    def counted(*arguments, **options):
        simulated.append(options)
        return simulate(*arguments, **options)

    monkeypatch.setattr(work, "simulate", counted)
    return simulated


KILLED = """
import sys
from nano_batch.sweeps import sweep

def main():
    sweep({"max_num_seqs": list(range(8, 48)), "seed": [0, 1]}, {"num_requests": 3000, "rate": 30.0},
          cost=0.02, num_blocks=20_000, cache=sys.argv[1], n_jobs=2)

if __name__ == "__main__":
    main()
"""


def test_a_sweep_killed_in_the_middle_goes_on_where_it_stood(tmp_path, monkeypatch):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    kept = tmp_path / "points"
    process = subprocess.Popen([sys.executable, str(script), str(kept)], start_new_session=True)
    limit = time.monotonic() + 60
    while len(list(kept.rglob("*.json"))) < 6 and time.monotonic() < limit:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    kill_with_workers(process)
    finished = {path: path.read_bytes() for path in kept.rglob("*.json")}
    assert 6 <= len(finished) < 80, "it was not killed in the middle"
    for text in finished.values():
        assert json.loads(text)["row"]["finished"] == 3000
    simulated = count_simulations(monkeypatch)
    grid = {"max_num_seqs": list(range(8, 48)), "seed": [0, 1]}
    fixed = {"cost": 0.02, "num_blocks": 20_000, "n_jobs": 1}
    resumed = sweep(grid, {"num_requests": 3000, "rate": 30.0}, cache=kept, **fixed)
    assert len(simulated) == 80 - len(finished)
    assert {path: path.read_bytes() for path in finished} == finished
    fresh = sweep(grid, {"num_requests": 3000, "rate": 30.0}, cache=False, **fixed)
    assert_frame_equal(resumed, fresh, check_exact=True)


def kill_with_workers(process):
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def test_a_function_draws_the_workload_of_each_point_once():
    drawn = []

    def make(seed, users):
        drawn.append((seed, users))
        return Workload.synthetic(60, seed=seed, arrivals="closed_loop", users=users)

    result = sweep({"users": [2, 8], "block_size": [16, 32], "seed": [0, 1]}, make, cache=False, **FIXED)
    assert len(result) == 8
    assert sorted(drawn) == [(0, 2), (0, 8), (1, 2), (1, 8)]
    assert not result.unstable.any()


def test_one_workload_for_all_points():
    workload = Workload.synthetic(60, seed=3)
    result = sweep({"policy": ["fcfs", "sjf"]}, workload, cache=False, **FIXED)
    assert result.policy.tolist() == ["fcfs", "sjf"]
    assert (result.requests == 60).all()


@pytest.mark.parametrize(
    ("grid", "workload", "fixed", "error", "says"),
    [
        ({"block_sise": [16]}, WORKLOAD, {}, UnknownOptionError, "did you mean 'block_size'"),
        ({"block_size": []}, WORKLOAD, {}, SweepError, "block_size has no values"),
        ({"block_size": 16}, WORKLOAD, {}, SweepError, "block_size is 16"),
        ({"policy": "fcfs"}, WORKLOAD, {}, SweepError, "policy is 'fcfs'"),
        ({"seed": [1]}, Workload.synthetic(5), {}, UnknownOptionError, "'seed'"),
        ({"seed": [1]}, WORKLOAD, {"users": 3}, UnknownOptionError, "'users'"),
        ({"seed": [1]}, 17, {}, SweepError, "workload is int"),
        ({"seed": [1]}, lambda seed: seed, {}, SweepError, "gave int"),
        ({"seed": [1], "max_num_seqs": [3]}, WORKLOAD, {"max_num_seqs": 4}, SweepError, "fixed to 4"),
        ({"cost": [0.1]}, WORKLOAD, {"cost": 0.2}, SweepError, "fixed to 0.2"),
        ({"num_blocks": [9]}, WORKLOAD, {"memory_tokens": 99}, SweepError, "one follows from the other"),
        ({"block_size": [128]}, WORKLOAD, {"memory_tokens": 99}, SweepError, "memory's 99 tokens"),
        ({"seed": [-1]}, WORKLOAD, {}, WorkloadError, "seed is -1"),
        (
            {"max_num_seqs": [4, 0]},
            WORKLOAD,
            {"num_blocks": 10_000},
            SweepError,
            "{'max_num_seqs': 0} was",
        ),
        ({"num_blocks": [8]}, WORKLOAD, {}, SweepError, "RequestTooLargeError"),
    ],
)
def test_what_cannot_be_swept_is_named(grid, workload, fixed, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(").replace("{", r"\{")):
        sweep(grid, workload, cache=False, **fixed)


def test_a_refused_point_may_stay_as_a_row():
    result = sweep({"num_blocks": [8, 10_000]}, WORKLOAD, cache=False, on_error="keep")
    assert result.error[0].startswith("RequestTooLargeError")
    assert result.error[1] == ""
    assert result.finished.isna().tolist() == [True, False]


def test_the_documents_example_runs_and_its_file_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NANO_BATCH_CACHE", str(tmp_path))
    text = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (config,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    exec(example, {})
    assert "throughput_output_tokens_per_s" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*.json"))) == 30
    (tmp_path / "config.toml").write_text(config, encoding="utf-8")
    assert read_config(tmp_path / "config.toml")["slo"] == SLO(ttft_s=1.0, tpot_s=0.05)


def test_two_profiles_with_one_head_are_two_keys(tmp_path, monkeypatch):
    """What a profile says of itself is not what it measured."""
    first = Profile.of("h200-mistral-7b")
    other = Profile({**first.content, "overhead_s": 2 * first.content["overhead_s"]})
    assert other.describe() == first.describe()
    fixed = {**FIXED, "cost": first}
    sweep({"seed": [0]}, WORKLOAD, cache=tmp_path, **fixed)
    simulated = count_simulations(monkeypatch)
    sweep({"seed": [0]}, WORKLOAD, cache=tmp_path, **fixed)
    assert simulated == []
    sweep({"seed": [0]}, WORKLOAD, cache=tmp_path, **{**fixed, "cost": other})
    assert len(simulated) == 1
