"""`nano-batch sweep` and `nano-batch simulate`: what they write and print, and how they refuse."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from nano_batch import Constant, Profile, Roofline, Run, Workload, cli, simulate
from nano_batch.metrics import SLO
from nano_batch.simulator import memory_tokens
from nano_batch.sweeps import read_config, sweep

CONFIG = """
[workload]
num_requests = 80
like = "azure_conv"

[engine]
memory_tokens = 65536
max_num_seqs = 16

[simulator]
steps_in_flight = 1

[cost]
kind = "roofline"
flops_per_s = 989e12
bytes_per_s = 3.35e12
weight_bytes = 14.5e9
kv_bytes_per_token = 131072

[slo]
ttft_s = 0.5

[grid]
block_size = [16, 32]
rate = [4.0, 8.0]
seed = [0, 1]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_sweep_from_a_shell_is_the_same_sweep(config, suffix, tmp_path, capsys):
    out = tmp_path / f"results.{suffix}"
    assert cli.main(["sweep", str(config), "--out", str(out), "--cache", str(tmp_path / "points")]) == 0
    assert "8 points" in capsys.readouterr().out
    read = pd.read_parquet(out) if suffix == "parquet" else pd.read_csv(out)
    expected = sweep(
        {"block_size": [16, 32], "rate": [4.0, 8.0], "seed": [0, 1]},
        {"num_requests": 80, "like": "azure_conv"},
        cost=Roofline(989e12, 3.35e12, 14.5e9, 131_072),
        slo=SLO(ttft_s=0.5),
        memory_tokens=65_536,
        max_num_seqs=16,
        steps_in_flight=1,
        cache=False,
    )
    assert_frame_equal(read, expected)


def test_a_trace_in_a_sweep_may_be_cut_and_stretched(config, tmp_path):
    Workload.synthetic(50, rate=3.0).to_csv(tmp_path / "trace.csv")
    text = CONFIG.replace('like = "azure_conv"', 'trace = "trace.csv"').replace("80", "30")
    config.write_text(text.replace("seed = [0, 1]", "num_requests = [20, 40]"))
    arguments = read_config(config)
    assert len(arguments["workload"]()) == 30
    assert len(arguments["workload"](num_requests=20)) == 20
    assert arguments["workload"](rate=8.0).rate_per_s == pytest.approx(8.0)
    table = sweep(**arguments, cache=False)
    assert table.requests.tolist() == [20, 40] * 4


COST = CONFIG[CONFIG.index("[cost]") : CONFIG.index("[slo]")]


@pytest.mark.parametrize(
    ("table", "cost"),
    [
        ('kind = "roofline"\nhardware = "l4"\nmodel = "llama-3.1-8b"', Roofline.of("l4", "llama-3.1-8b")),
        ('kind = "constant"\ndevice_s = 0.01', Constant(0.01)),
        ('kind = "profile"\nname = "h200-mistral-7b"', Profile.of("h200-mistral-7b")),
    ],
)
def test_a_cost_from_cards_numbers_or_a_profile(table, cost, config):
    config.write_text(CONFIG.replace(COST, f"[cost]\n{table}\n"))
    arguments = read_config(config)
    assert arguments["cost"] == cost
    row = sweep(**{**arguments, "grid": {"seed": [0]}}, cache=False)
    workload = Workload.synthetic(80, like="azure_conv", seed=0)
    expected = simulate(workload, cost=cost, num_blocks=4096, max_num_seqs=16, steps_in_flight=1)
    assert row.run_s[0] == expected.span_s


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[grid]", "[gird]"), "UnknownOptionError: a table of"),
        (("block_size = [16, 32]", "block_sise = [16, 32]"), "did you mean 'block_size'"),
        (("[cost]", "[cost"), "is not TOML"),
        (('kind = "roofline"', 'kind = "rooflime"'), "did you mean 'roofline'"),
        (("weight_bytes = 14.5e9", ""), "SweepError: [cost]: missing 1 required"),
        (("weight_bytes = 14.5e9", 'hardware = "h20"\nmodel = "mistral-7b-v0.3"'), "did you mean 'h200'"),
        (('kind = "roofline"', 'kind = "profile"\npath = "nowhere.json"'), "[cost]"),
        (("ttft_s = 0.5", "tfft_s = 0.5"), "SweepError: [slo]"),
        (('like = "azure_conv"', 'trace = "nowhere.csv"'), "nowhere.csv"),
        (('like = "azure_conv"', 'like = "azure"'), "azure_conv"),
        (("[16, 32]", "[16, 131072]"), "SweepError: block_size is 131072"),
        (("[workload]", "window = 3\n[workload]"), "window is 3"),
        (("[workload]\n", "workload = 3\n[other]\n"), "UnknownOptionError"),
    ],
)
def test_a_bad_config_is_named(change, says, config, tmp_path, capsys):
    assert change[0] in CONFIG
    config.write_text(CONFIG.replace(*change))
    assert cli.main(["sweep", str(config), "--out", str(tmp_path / "out.csv")]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("out", ["out.xlsx", "nowhere/out.csv"])
def test_a_bad_output_is_named_before_anything_runs(out, config, tmp_path, capsys):
    assert cli.main(["sweep", str(config), "--out", str(tmp_path / out)]) == 1
    assert "SweepError: --out is" in capsys.readouterr().err


def test_simulate_prints_the_summary_of_a_trace(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    Workload.synthetic(40, rate=3.0).to_csv(trace)
    assert cli.main(["simulate", str(trace), "--block-size", "64", "--ttft", "0.1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Run of trace: requests 40 (40 finished)")
    assert "kv_internal_share" in text
    arguments = ["simulate", str(trace), "--rate", "6", "--requests", "30", "--json"]
    assert cli.main([*arguments, "--out", str(tmp_path / "run.npz")]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["requests"] == 30
    assert len(Run.load(tmp_path / "run.npz").requests) == 30
    served = Workload.read(trace).head(30).scaled(rate=6.0)
    assert row["window_end_s"] == served.arrival_s[-1]


def test_simulate_on_a_gpus_card(tmp_path, capsys):
    workload = Workload.synthetic(40, rate=3.0)
    workload.to_csv(tmp_path / "trace.csv")
    assert cli.main(["simulate", str(tmp_path / "trace.csv"), "--hardware", "l4", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    blocks = memory_tokens("l4", "mistral-7b-v0.3") // 16
    run = simulate(workload, cost=Roofline.of("l4", "mistral-7b-v0.3"), num_blocks=blocks)
    assert row["run_s"] == pytest.approx(run.span_s)
    assert row["kv_block_utilisation_max"] == pytest.approx(run.steps.blocks_used.max() / blocks)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.csv"], "nowhere.csv"),
        (["trace.csv", "--rate", "-1"], "rate is -1.0"),
        (["trace.csv", "--requests", "-1"], "n is -1"),
        (["trace.csv", "--memory-tokens", "16"], "RequestTooLargeError"),
        (["trace.csv", "--block-size", "0"], "block_size is 0"),
        (["trace.csv", "--policy", "fcsf"], 'did you mean "fcfs"'),
        (["trace.csv", "--step-time", "-1"], "InvalidArgumentError"),
        (["trace.csv", "--hardware", "h20"], "did you mean 'h200'"),
        (["trace.csv", "--hardware", "h200", "--model", "mistral"], "UnknownOptionError"),
        (["trace.csv", "--hardware", "h200", "--step-time", "1"], "give one of them"),
    ],
)
def test_simulate_refuses_by_name(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Workload.synthetic(40, rate=3.0).to_csv("trace.csv")
    assert cli.main(["simulate", *arguments]) == 1
    assert says in capsys.readouterr().err
