"""`nano-batch bench step`: every kernel of a step, and what they add up to."""

from __future__ import annotations

import json
from datetime import date

import pytest

torch = pytest.importorskip("torch")

from nano_batch.benchmarks import step  # noqa: E402
from nano_batch.benchmarks.engines.rates import Rates  # noqa: E402
from nano_batch.models import load_mistral  # noqa: E402

RATES = Rates(1e10, (1, 8192), (1e9, 1e11))


@pytest.fixture(scope="module")
def model():
    return load_mistral("tiny", load_format="dummy", device="cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("load", [step.Load("decode", 3, 40, 4), step.Load("prefill", 2, 64, 2)], ids=str)
def test_a_load_s_rows_add_up(model, load):
    *kernels, between, whole = step.rows_of(model, load, RATES)
    assert kernels
    assert (between["kernel"], whole["kernel"], whole["percent"]) == ("between", "step", 100.0)
    assert whole["tokens"] == load.tokens
    assert whole["limit_us"] > 0
    total = sum(row["us"] for row in kernels) + between["us"]
    assert total == pytest.approx(whole["us"], abs=0.1 * (len(kernels) + 2))
    named = [row for row in kernels if row["kernel"] != "other"]
    assert [row["us"] for row in named] == sorted((row["us"] for row in named), reverse=True)
    assert all(row["calls"] > 0 for row in kernels)


@pytest.mark.parametrize("load", [step.Load("decode", 3, 40, 4), step.Load("prefill", 2, 64, 3)], ids=str)
def test_the_steps_are_those_that_are_asked_for(model, monkeypatch, load):
    steps, tokens = step._Steps(model, load), []
    launch = steps.engine.runner.launch

    def watched(counts, *args, **options):
        tokens.append(counts.tokens)
        return launch(counts, *args, **options)

    monkeypatch.setattr(steps.engine.runner, "launch", watched)
    steps.timed()
    steps.profiled()
    assert [count for count in tokens if count] == [load.tokens] * 2 * load.steps


def test_the_command(capsys, monkeypatch):
    from nano_batch.cli import main

    monkeypatch.setattr(step, "CPU_LOADS", [step.Load("decode", 1, 20, 2)])
    monkeypatch.setattr(step, "CUDA_LOADS", step.CPU_LOADS)
    monkeypatch.setattr(step, "measure_rates", lambda *_: RATES)
    assert main(["bench", "step", "--model", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "kernel=between" in printed
    assert "kernel=step" in printed
    assert main(["bench", "step", "--model", "tiny", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["date"] == date.today().isoformat()
    assert told["versions"]["torch"] == torch.__version__
    assert (told["versions"]["driver"] is None) != torch.cuda.is_available()
