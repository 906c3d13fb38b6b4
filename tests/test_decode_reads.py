"""What `07_paged_attention_kernel` shows of the kernel is what its source does, run on this CPU."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from ctypes import c_int32
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch.errors import LabError
from nano_batch.lessons import plan_shares, small_step
from nano_batch.lessons.plan_shares import line_of_tiles, shares

torch = pytest.importorskip("torch")
compiles = pytest.mark.skipif(
    shutil.which("g++") is None or importlib.util.find_spec("cuda") is None,
    reason="needs g++ and CUDA's headers",
)
TILE = 16


@compiles
def test_the_recorded_reads_are_those_of_the_source(tmp_path):
    from cuda_on_cpu.record_reads import record

    text = small_step.to_text(record(tmp_path))
    assert text == small_step.RECORDED.read_text(encoding="utf-8"), (
        "the kernel reads otherwise now; run: python -m tests.cuda_on_cpu.record_reads"
    )


@compiles
def test_a_read_of_other_tokens_would_be_seen(tmp_path, monkeypatch):
    from cuda_on_cpu import record_reads

    told = record_reads.Step.check

    def lost(step, output):
        told(step, output)
        noted = tmp_path / "reads.txt"
        loads = noted.read_text().splitlines()
        noted.write_text("\n".join(loads[::2]))

    monkeypatch.setattr(record_reads.Step, "check", lost)
    with pytest.raises(RuntimeError, match="are read"):
        record_reads.record(tmp_path)


def test_every_tile_of_every_head_is_read_once_by_whom_the_plan_says():
    kept = small_step.recording()
    line = line_of_tiles(small_step.CONTEXTS, small_step.KV_HEADS, kept.tile)
    owners = [worker for worker, share in enumerate(kept.shares) for _ in range(share[3])]
    read = {(each.head, each.row, each.tile): each for each in kept.reads}
    assert len(read) == len(kept.reads) == len(line) == len(owners)
    table = small_step.block_table()
    for tile, owner in zip(line, owners, strict=True):
        each = read[tile.head, tile.row, tile.number]
        assert each.worker == owner
        assert each.block == table[tile.row, tile.number]
    assert sum(each.tokens for each in kept.reads) == small_step.KV_HEADS * sum(small_step.CONTEXTS)


def test_warps_of_a_worker_take_tiles_by_turns():
    kept = small_step.recording()
    for _, of_worker in groupby(kept.reads, lambda each: each.worker):
        reads = list(of_worker)
        counts = Counter(each.warp for each in reads)
        assert max(counts.values()) - min(counts.values()) <= 1
        for each in reads:
            assert each.order == sum(
                (other.head, other.row, other.tile) < (each.head, each.row, each.tile)
                for other in reads
                if other.warp == each.warp
            )


def test_the_plain_plan_is_the_recorded_one():
    kept = small_step.recording()
    assert shares(small_step.CONTEXTS, small_step.KV_HEADS, kept.tile, small_step.WORKERS) == list(
        kept.shares
    )


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    from cuda_on_cpu.build import CpuKernel

    from nano_batch.attention.cuda import SOURCES
    from nano_batch.attention.cuda.plan import plan_defines

    folder = tmp_path_factory.mktemp("plan")
    return CpuKernel(SOURCES / "plan.cu", plan_defines(TILE, torch.int32), "plan", folder=folder)


@compiles
@given(
    contexts=st.lists(st.sampled_from([0, 1, 16, 17, 40, 500, 3000]), min_size=1, max_size=9),
    heads=st.integers(1, 8),
    workers=st.integers(1, 300),
)
@settings(max_examples=60, deadline=None)
def test_the_plain_plan_is_that_of_the_source(planner, contexts, heads, workers):
    from nano_batch.attention.cuda.plan import LEAST_TILES, PLAN_THREADS, SHARE_WORDS

    assert LEAST_TILES == plan_shares.LEAST_TILES
    plan = torch.empty((SHARE_WORDS + 1) * workers + len(contexts), dtype=torch.int32)
    numbers = [c_int32(number) for number in (len(contexts), heads, 0, workers, LEAST_TILES)]
    lens = torch.tensor(contexts, dtype=torch.int32)
    planner.launch((1, 1, 1), PLAN_THREADS, 4 * (len(contexts) + 1), [lens, *numbers, plan])
    made = [tuple(share[:4]) for share in plan[: SHARE_WORDS * workers].view(-1, SHARE_WORDS).tolist()]
    assert shares(contexts, heads, TILE, workers) == [share for share in made if share[3]]


def test_without_the_file_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(small_step, "RECORDED", tmp_path / "none.json")
    small_step.recording.cache_clear()
    with pytest.raises(LabError, match="checkout"):
        small_step.recording()
    small_step.recording.cache_clear()
