"""The views of `07_paged_attention_kernel`: they draw what was read, planned and measured."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from nano_batch import lab
from nano_batch.benchmarks import attention
from nano_batch.benchmarks.on_gpu.cases import Times, all_cases
from nano_batch.errors import InvalidArgumentError, LabError, MissingExtraError, UnknownOptionError, ViewError
from nano_batch.lessons import measured_kernels, small_step
from nano_batch.lessons.measured_kernels import LiveDevice
from nano_batch.lessons.plan_shares import cuts

torch = pytest.importorskip("torch")


@pytest.fixture
def step():
    return lab.DecodeStep()


def attend(query, keys, values):
    keys, values = (each.repeat_interleave(4, dim=1) for each in (keys, values))
    scores = torch.einsum("hd,thd->ht", query, keys) / query.shape[1] ** 0.5
    return torch.einsum("ht,thd->hd", scores.softmax(dim=1), values)


def paged(step, rows=range(4)):
    output = torch.zeros_like(step.query)
    for row in rows:
        blocks = step.table[row, : -(-step.contexts[row] // 16)]
        keys, values = (
            cache[blocks].flatten(0, 1)[: step.contexts[row]] for cache in (step.keys, step.values)
        )
        output[row] = attend(step.query[row], keys, values)
    return output


def cells_of(panel):
    return {
        (x, y): (series.name, words)
        for series in panel.series
        for x, y, words in zip(series.x, series.y, series.words, strict=True)
    }


def test_the_picture_is_of_what_was_read(step):
    view = lab.blocks_read(step, paged(step))
    assert (
        "The output is dense attention's in all 4 rows. 23 blocks of a memory of 32 are read."
        in view.caption()
    )
    rows, cache = view.chart.panels
    assert len(cells_of(rows)) == 23
    grid = cells_of(cache)
    assert len(grid) == small_step.NUM_BLOCKS
    for row, blocks in enumerate(step.table.tolist()):
        for place, block in enumerate(blocks):
            if block >= 0:
                assert cells_of(rows)[place, -row] == ("read", str(block))
                assert grid[block % 8, -(block // 8)] == ("read", f"{row} · {place}")
    assert sum(name == "not read" for name, _ in grid.values()) == 32 - 23
    assert step.reads == []


def test_a_wrong_output_and_a_block_too_few_are_told(step):
    view = lab.blocks_read(step, paged(step, rows=(0, 2, 3)))
    assert (
        "not dense attention's in row 1: off by 1 of its norm. 20 blocks of a memory of 32" in view.caption()
    )
    assert len([1 for name, _ in cells_of(view.chart.panels[0]).values() if name == "not read"]) == 3


def test_reads_are_shown_one_after_the_other(step):
    view = lab.blocks_read(step, paged(step))
    view.read = 2
    assert view.table().rows == (("read", "2", "14 10"),)


def test_who_reads_is_who_was_named(step):
    output = paged(step)
    step.reads.clear()
    with step.worker(2):
        step.keys[7]
    step.values[torch.tensor([3, 4])]
    view = lab.blocks_read(step, output)
    assert {row[0]: row[2] for row in view.table().rows} == {"worker 2": "7", "read": "3 4"}


def test_regions_hold_what_nobody_reads(step):
    output = torch.stack([attend(query, *step.contiguous(row)) for row, query in enumerate(step.query)])
    view = lab.blocks_read(step, output)
    assert "23 blocks of a memory of 52 are read." in view.caption()
    grid = cells_of(view.chart.panels[0])
    for row, context in enumerate(small_step.CONTEXTS):
        assert [grid[place, -row][0] == "read" for place in range(13)] == [
            place * 16 < context for place in range(13)
        ]


def test_what_cannot_be_shown_is_refused(step):
    with pytest.raises(ViewError, match="nothing"):
        lab.blocks_read(step, step.query)
    step.keys[0], step.contiguous(1)
    with pytest.raises(ViewError, match="blocks and regions"):
        lab.blocks_read(step, step.query)
    with pytest.raises(InvalidArgumentError, match="block 32 of a cache that has 0 to 31"):
        step.keys[32]
    with pytest.raises(InvalidArgumentError, match="block -1"):
        step.values[step.table[1]]
    with pytest.raises(InvalidArgumentError, match=r"\[3, 8, 64\]"):
        lab.blocks_read(step, step.query[:3])


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"nano-batch\[engine\]"):
        lab.DecodeStep()


@pytest.mark.parametrize("drawn", ["in its context", "in the cache"])
def test_warps_are_drawn_as_recorded(drawn):
    kept = small_step.recording()
    view = lab.warp_reads(drawn=drawn)
    for asked in (3, 1):
        view.asked = asked
        shown = sum(
            name.startswith("worker") for panel in view.chart.panels for name, _ in cells_of(panel).values()
        )
        assert (
            shown == sum(read.order < asked for read in kept.reads) == view.chart.numbers["asked for, tiles"]
        )
    view.asked = 3
    for read in kept.reads:
        place = (read.tile, -read.row) if drawn == "in its context" else (read.block % 8, -(read.block // 8))
        name, words = cells_of(view.chart.panels[read.head])[place]
        assert name == f"worker {read.worker}"
        assert words.replace(" ", "") == f"{read.warp}·{('1st', '2nd', '3rd')[read.order]}"


@pytest.mark.parametrize("workers", [1, 4, 16])
@pytest.mark.parametrize("longest", [16, 200, 1024])
def test_shares_are_those_of_the_plan(workers, longest):
    view = lab.tile_shares(workers=workers, longest=longest)
    contexts = (longest, *small_step.CONTEXTS[1:])
    tiles = np.diff(cuts(contexts, 2, 16, workers)).tolist()
    line, bars = view.chart.panels
    assert [len(series.x) for series in line.series] == tiles
    equal, whole = (series.y.tolist() for series in bars.series)
    assert equal == tiles + [0] * (workers - len(tiles))
    assert sum(equal) == sum(whole) == 2 * sum(-(-context // 16) for context in contexts)


class Fake:
    """Measures cases by the number of bytes, and counts."""

    failures = ()

    def __init__(self, rate=4.0):
        self.rate, self.seen = rate, []

    def about(self):
        return {"device": "NVIDIA H200", "versions": {}}

    def measure(self, case):
        self.seen.append(case)
        us = (case.moved_bytes or 0) / self.rate / 1e6 + 3
        peer = case.kind == "decode" and case.dtype == "bf16"
        return Times(
            us,
            1.2 * us if peer else None,
            None if case.cold else 30 * us,
            1e-6 if case.kind == "decode" else None,
        )


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(measured_kernels, "MEASURED", tmp_path)
    monkeypatch.setattr(sys.modules["nano_batch.lessons.kernel_speed"], "live_device", lambda: None)
    return attention.measured(Fake(), all_cases(), tmp_path)


def test_recorded_points_are_the_rows(recorded):
    view = lab.kernel_speed()
    context, sizes = view.chart.panels
    ours, flashinfer, plain = context.series
    hot = [row for row in recorded["rows"] if row["case"] == "hot"]
    assert len(ours.x) == len(hot) == len(view.table().rows)
    wanted = sorted((row["batch"] * row["context"], row["cache_bytes"] / row["us"] / 1e6) for row in hot)
    assert sorted(zip(ours.x, ours.y, strict=True)) == wanted
    assert (flashinfer.name, plain.name) == ("FlashInfer", "PyTorch")
    assert [mark.label for mark in context.marks if mark.axis == "y"] == [
        "copy bandwidth, 3.99 TB/s", "data sheet, 4.8 TB/s",
    ]  # fmt: skip
    assert sizes.series[0].x.tolist() == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for words in ("recorded: NVIDIA H200", recorded["date"], f"commit {recorded['commit']}"):
        assert words in view.caption()
        assert words in context.note
    assert "FlashInfer takes 1.2 times as long (geometric mean; least 1.2)" in view.caption()


def test_controls_choose_among_the_rows(recorded):
    view = lab.kernel_speed(batch=1, context=32768)
    row = next(each for each in recorded["rows"] if (each["case"], each["context"]) == ("hot", 32768))
    assert f"{row['us']:.3g} µs" in view.caption()
    view.calls = "cold"
    assert [series.name for series in view.chart.panels[0].series] == ["this kernel", "FlashInfer"]
    view.calls, view.dtype = "hot", "fp8"
    assert [shown[:2] for shown in view.table().rows] == [("256", "1,024"), ("256", "4,096")]
    assert "was not recorded" in view.caption()
    view.batch, view.context = 256, 4096
    assert "was not recorded" not in view.caption()
    view.dtype, view.block_size = "bf16", 4
    assert [shown[:2] for shown in view.table().rows] == [("128", "1,024")]


def test_live_points_are_other_marks_and_measured_once(recorded):
    fake = Fake(rate=2.0)
    view = lab.kernel_speed(live=LiveDevice(fake))
    series = {each.name: each for each in view.chart.panels[0].series}
    assert {name: each.mark for name, each in series.items()} == {
        "this kernel": "circle", "FlashInfer": "circle", "PyTorch": "circle",
        "this kernel, live": "diamond", "FlashInfer, live": "diamond", "PyTorch, live": "diamond",
    }  # fmt: skip
    assert series["this kernel, live"].x.tolist() == [256 * 4096]
    assert 1.9 < series["this kernel, live"].y[0] < 2.0
    assert "copy bandwidth here, 2 TB/s" in [mark.label for mark in view.chart.panels[0].marks]
    assert "diamonds: live, this machine (NVIDIA H200)" in view.caption()
    assert "Live on NVIDIA H200" in view.caption()
    view.batch = 1
    view.batch = 256
    assert [case.batch for case in fake.seen] == [256, 0, 1]


def test_a_setting_that_was_not_recorded_is_measured_live(recorded):
    view = lab.kernel_speed(live=LiveDevice(Fake()), dtype="fp16", batch=8, context=2048)
    assert "was not recorded" in view.caption()
    assert "Live on" in view.caption()


def test_a_measurement_that_is_not_there_is_named(recorded, tmp_path):
    with pytest.raises(UnknownOptionError, match="h200"):
        lab.kernel_speed("h100")
    for path in tmp_path.glob("*.json"):
        path.unlink()
    with pytest.raises(LabError, match="bench attention"):
        lab.kernel_speed()


def test_a_part_of_the_cases_is_shown_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(measured_kernels, "MEASURED", tmp_path)
    found = attention.measured(
        Fake(), [case for case in all_cases() if case.name in ("copy", "hot")], tmp_path
    )
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps({**found, "date": "another"}))
    assert [panel.title for panel in lab.kernel_speed(live=False).chart.panels] == ["bandwidth over context"]
