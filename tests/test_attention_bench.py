"""`nano-batch bench attention` without a device: cases, rows and goals, and the wiring by a fake timer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from nano_batch import cli, errors
from nano_batch.attention.base import PagedContext
from nano_batch.attention.torch_backend import TorchAttention
from nano_batch.benchmarks import attention
from nano_batch.benchmarks.on_gpu import device as measuring
from nano_batch.benchmarks.on_gpu import flashinfer
from nano_batch.benchmarks.on_gpu.cases import (
    BLOCK_SIZES,
    SHAPES,
    Case,
    Times,
    all_cases,
    pairs,
    row,
    selected,
)
from nano_batch.benchmarks.on_gpu.goals import geometric_mean, goals
from nano_batch.benchmarks.on_gpu.inputs import Inputs, random_table
from nano_batch.benchmarks.on_gpu.timing import Spread

COLUMNS = {
    "case",
    "batch",
    "context",
    "block_size",
    "dtype",
    "us",
    "tb_per_s",
    "flashinfer_us",
    "torch_us",
    "error",
}
COMMITTED = sorted(attention.MEASURED.glob("attention_*.json"))
CPU = torch.device("cpu")


class Fake:
    """A device of 4 TB/s that needs 2 us more for each call; FlashInfer takes 1.2 times, cold 1.1 times."""

    def __init__(self):
        self.failures = []

    def about(self):
        return {"device": "NVIDIA H200", "versions": {"torch": "2"}}

    def measure(self, case):
        us = (case.moved_bytes or 0) / 4e6 + 2 * (case.kind != "copy")
        peer = us * (1.1 if case.cold else 1.2) if case.kind == "decode" and case.dtype == "bf16" else None
        error = {"bf16": 2e-3, "fp8": 2e-3, "fp16": 2e-4, "fp32": 1e-7}[case.dtype]
        return Times(us, peer, error=error if case.kind in ("decode", "prefill") else None)


def test_the_cases():
    cases = all_cases()
    named = {name: [case for case in cases if case.name == name] for name in {case.name for case in cases}}
    assert named.keys() == {"copy", "hot", "cold", "block_size", "skew", "fp8", "fp16", "fp32", "write_kv",
                            "plan", "prefill"}  # fmt: skip
    for name in ("hot", "cold"):
        assert [(case.batch, case.context) for case in named[name]] == list(SHAPES)
    assert [case.block_size for case in named["block_size"]] == list(BLOCK_SIZES)
    assert (named["skew"][0].batch, sum(named["skew"][0].contexts)) == (256, 65536 + 255 * 512)
    for case in cases:
        assert case.copies == 1 or case.cold
        assert not case.cold or case.copies * case.cache_bytes >= 256e6
    assert named["hot"][5].cache_bytes == 128 * 1024 * 8 * 128 * 2 * 2


def test_some_of_the_cases():
    assert {case.name for case in selected("hot, fp8")} == {"hot", "fp8"}
    assert selected("") == all_cases()
    with pytest.raises(errors.UnknownOptionError, match="'hot'"):
        selected("hott")


def test_a_row_has_bytes_over_time():
    case = Case("hot", contexts=(1024,) * 128)
    made = row(case, Times(134.2178, 150.0, 9000.0, 1.23456e-3))
    assert made.keys() >= COLUMNS
    assert made["tb_per_s"] == 4.0  # 512 MiB in 134.2 us
    assert (made["batch"], made["context"], made["error"]) == (128, 1024, 1.235e-3)
    assert row(Case("copy", "copy"), Times(1000.0))["tb_per_s"] == pytest.approx(2 * 2**31 / 1e9, rel=1e-3)
    assert row(Case("plan", "plan", (9,)), Times(3.0))["tb_per_s"] is None


def test_pairs_of_a_chunk():
    assert pairs(Case("prefill", "prefill", (5,), (5,))) == 15
    assert pairs(Case("prefill", "prefill", (7, 3), (2, 1))) == 6 + 7 + 3


def test_geometric_means():
    assert geometric_mean([2, 8]) == pytest.approx(4)
    assert geometric_mean([0.5, 2]) == pytest.approx(1)


@pytest.fixture
def result(tmp_path):
    return attention.measured(Fake(), all_cases(), tmp_path / "measured")


def test_the_file_is_what_is_returned(result, tmp_path):
    assert json.loads((tmp_path / "measured" / "attention_h200.json").read_text()) == result
    assert len(result["rows"]) == len(all_cases())
    for name in ("machine", "commit", "date", "device", "versions", "failures"):
        assert name in result


def test_what_is_there_is_written_after_each_case(tmp_path):
    class Breaks(Fake):
        def measure(self, case):
            if case.name == "cold":
                raise RuntimeError("out of memory")
            return super().measure(case)

    with pytest.raises(RuntimeError, match="out of memory"):
        attention.measured(Breaks(), all_cases(), tmp_path)
    written = json.loads((tmp_path / "attention_h200.json").read_text())
    assert [each["case"] for each in written["rows"]] == ["copy"] + ["hot"] * len(SHAPES)


def test_goals_are_met_or_not(result):
    found = {each["figure"]: each for each in result["goals"]}
    assert found["hot, geometric mean"]["value"] == pytest.approx(1.2, rel=1e-3)
    assert found["hot, geometric mean"]["met"]
    assert found["hot, worst shape"]["met"]
    assert found["cold, geometric mean"]["value"] == pytest.approx(1.1, rel=1e-3)
    assert found["hot 1x1024"]["met"]
    assert not found["hot 256x4096"]["met"]
    assert found["hot 128x1024, bandwidth"]["value"] == pytest.approx(100 * 134.2 / 136.2, rel=1e-3)
    assert "hot 64x2048, bandwidth" in found
    assert "hot 32x1024, bandwidth" not in found
    assert found["fp8 cache 256x4096"]["value"] == pytest.approx(2, rel=1e-2)
    assert not found["largest error, fp32"]["value"] > 1e-5
    assert all(each["met"] for name, each in found.items() if name.startswith("largest error"))


def test_worse_rows_miss_their_goals(result):
    slow = [{**each, "us": 1.5 * each["us"], "error": each["error"] and 1.0} for each in result["rows"]]
    missed = {each["figure"] for each in goals(slow) if not each["met"]}
    assert missed >= {
        "hot, geometric mean",
        "hot, worst shape",
        "cold, geometric mean",
        "largest error, bf16",
    }
    alone = [{**each, "flashinfer_us": None} for each in result["rows"]]
    assert not any("mean" in each["figure"] for each in goals(alone))


@pytest.mark.parametrize(
    ("device", "name"), [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100_80gb_hbm3")]
)
def test_a_file_is_named_after_its_device(device, name):
    assert attention.short_name(device) == name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_the_error_says_so(capsys):
    assert cli.main(["bench", "attention", "--json"]) == 1
    assert "DeviceError: attention is measured on a CUDA device" in capsys.readouterr().err


# On the host: the same inputs, other kernels, and a clock that only counts.


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "fp8"])
def test_inputs_and_their_errors(dtype):
    case = Case("hot", contexts=(40, 17, 33), block_size=8, dtype=dtype)
    inputs = Inputs(case, CPU)
    output = TorchAttention().decode(inputs.query, inputs.contexts[0])
    assert inputs.error(output) < 5e-3
    for row_number, seen in ((0, True), (1, False), (2, True)):
        wrong = output.clone()
        wrong[row_number] *= 2
        assert (inputs.error(wrong) > 0.5) == seen


def test_a_table_has_every_block_once():
    table = random_table(torch.tensor([3, 0, 5]))
    assert table.shape == (3, 5)
    assert table[table >= 0].sort().values.tolist() == list(range(8))
    assert (table >= 0).sum(1).tolist() == [3, 0, 5]


class FakeTiming:
    """Runs what it is given and counts."""

    def __init__(self):
        self.captured = []

    def capture(self, call, copies, first=0):
        for number in range(copies):
            call((first + number) % copies)
        self.captured.append(copies)
        return [call]

    def replayed(self, peers):
        return [Spread(10.0 + place, 1.0) for place, _ in enumerate(peers)]

    def called(self, call, most_us=0.0):
        call()
        return 500.0

    def best(self, call, calls):
        call()
        return 1000.0

    on_host = called

    def warm_up(self):
        pass


class Plan:
    def __init__(self, *_):
        pass

    def update(self, lens):
        assert lens.dtype == torch.int32


class Wrapper:
    """FlashInfer's, over plain PyTorch: sees that what it is told describes the same cache."""

    def __init__(self, workspace, layout, *, use_cuda_graph, use_tensor_cores, **buffers):
        assert (layout, use_cuda_graph, use_tensor_cores) == ("NHD", True, True)
        assert buffers.keys() == {
            f"paged_kv_{name}_buffer" for name in ("indptr", "indices", "last_page_len")
        }

    def plan(self, indptr, indices, last, heads, kv_heads, dim, page, *, q_data_type, kv_data_type):
        assert {indptr.dtype, indices.dtype, last.dtype} == {torch.int32}
        self.rows = [indices[a:b].long() for a, b in pairwise(indptr)]
        self.lens = (indptr.diff() - 1) * page + last
        self.page = page

    def run(self, query, caches, *, out):
        table = torch.nn.utils.rnn.pad_sequence(self.rows, batch_first=True).int()
        context = PagedContext(*caches, table, self.lens, 128**-0.5, None)
        out.copy_(TorchAttention().decode(query, context))


@pytest.fixture
def on_host(monkeypatch):
    """A `Device` on the host."""
    clock = FakeTiming()
    monkeypatch.setattr(measuring, "timing", clock)
    monkeypatch.setattr(measuring, "DecodePlan", Plan)
    monkeypatch.setattr(measuring, "paged_decode", lambda *args: TorchAttention().decode(*args[:2]))
    prefill = measuring.paged_attention_prefill
    monkeypatch.setattr(
        measuring, "paged_attention_prefill", lambda *args, backend, validate: prefill(*args, backend="torch")
    )
    monkeypatch.setattr(measuring, "COPIED_BYTES", 64)
    device = measuring.Device.__new__(measuring.Device)
    device.device, device.failures, device.clock = CPU, [], clock
    return device


@pytest.fixture
def peer(monkeypatch):
    module = type("module", (), {"BatchDecodeWithPagedKVCacheWrapper": Wrapper})
    monkeypatch.setattr(flashinfer, "find_spec", lambda name: module)
    monkeypatch.setattr(flashinfer, "import_module", lambda name: module)
    return module


def test_a_case_is_measured_beside_its_peer(on_host, peer):
    times = on_host.measure(Case("hot", contexts=(70, 33, 16)))
    assert (times.us, times.flashinfer_us, times.torch_us, times.apart) == (10.0, 11.0, 500.0, 1.0)
    assert times.error < 5e-3
    assert not on_host.failures
    assert on_host.measure(Case("fp16", contexts=(70,), dtype="fp16")).flashinfer_us is None


def test_a_peer_that_fails_is_told_and_ours_measured(on_host, peer, monkeypatch):
    monkeypatch.setattr(Wrapper, "plan", lambda *args, **kwargs: 1 / 0)
    times = on_host.measure(Case("hot", contexts=(70, 33)))
    assert (times.us, times.flashinfer_us) == (10.0, None)
    assert on_host.failures == ["FlashInfer, hot 2x70: ZeroDivisionError: division by zero"]
    monkeypatch.setattr(Wrapper, "plan", lambda *args, **kwargs: None)
    monkeypatch.setattr(Wrapper, "run", lambda self, query, caches, out: out.fill_(1))
    assert on_host.measure(Case("hot", contexts=(70, 33))).flashinfer_us is None
    assert "its result is off" in on_host.failures[-1]


def test_cold_calls_take_caches_by_turns(on_host, peer, monkeypatch):
    monkeypatch.setattr("nano_batch.benchmarks.on_gpu.cases.COLD_BYTES", 5 * 4096 * 64)
    times = on_host.measure(Case("cold", contexts=(64,), cold=True))
    assert on_host.clock.captured == [5, 5]
    assert times.torch_us is None


@pytest.mark.parametrize("contexts", [(100,), (1,) * 9])
def test_tokens_are_written(on_host, contexts, monkeypatch):
    monkeypatch.setattr("nano_batch.benchmarks.on_gpu.cases.COLD_BYTES", 2**20)
    assert on_host.measure(Case("write_kv", "write", contexts, cold=True)).error == 0
    monkeypatch.setattr(measuring.cache_ops, "write_kv", lambda *args: None)
    assert on_host.measure(Case("write_kv", "write", contexts, cold=True)).error > 0.5


def test_plans_chunks_and_copies_are_measured(on_host, peer):
    plan = on_host.measure(Case("plan", "plan", (70, 33)))
    assert (plan.us, plan.flashinfer_us) == (10.0, 500.0)
    chunk = on_host.measure(Case("prefill", "prefill", (40, 20), (30, 20)))
    assert (chunk.us, chunk.torch_us) == (500.0, 500.0)
    assert chunk.error < 5e-3
    assert on_host.measure(Case("copy", "copy")).us == 1000.0


# What is committed.


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_measurement_is_whole(path: Path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == f"attention_{attention.short_name(result['device'])}.json"
    assert result["commit"]
    assert result["date"]
    assert result["failures"] == []
    assert {"driver", "cuda", "torch", "flashinfer"} <= result["versions"].keys()
    named = ("case", "batch", "context", "block_size", "dtype")
    # NANO_BATCH_CASES may leave cases out; what is there of a case is all of it.
    kept = {each["case"] for each in result["rows"]}
    assert kept >= {"copy", "hot"}
    expected = [row(case, Times(1.0)) for case in all_cases() if case.name in kept]
    assert [[each[name] for name in named] for each in result["rows"]] == [
        [each[name] for name in named] for each in expected
    ]
    for each in result["rows"]:
        assert each.keys() >= COLUMNS
        assert each["us"] > 0
        if each["case"] in ("hot", "cold"):
            assert each["flashinfer_us"] > 0
    assert result["goals"] == goals(result["rows"])
    assert {each["met"] for each in result["goals"]} <= {True, False}
