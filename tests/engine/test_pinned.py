"""Copies between host and device by a kernel."""

from __future__ import annotations

import gc

import pytest
import torch
from cuda_on_cpu.device import cpu_device
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch.engine import InferenceEngine, pinned, runner
from nano_batch.engine.cuda import pinned as on_cuda
from nano_batch.models import load_mistral

CPU = torch.device("cpu")
on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def check(copy, words, first, source, to):
    """So many words are copied, from the place `first` on, and nothing around them."""
    source.random_(256)
    to.zero_()
    part = slice(4 * first, 4 * (first + words))
    copy(to[part], source[part])
    if source.is_cuda or to.is_cuda:
        torch.cuda.synchronize()
    assert torch.equal(to[part].cpu(), source[part].cpu())
    assert not to[: part.start].any()
    assert not to[part.stop :].any()


@settings(deadline=None)
@given(st.integers(0, 1500), st.integers(0, 4))
def test_the_kernel_on_a_cpu(libraries, words, first):
    source, to = (torch.zeros(4 * (words + first + 3), dtype=torch.uint8) for _ in range(2))
    with cpu_device(libraries):
        check(lambda a, b: on_cuda.copy_pinned(a, b, CPU), words, first, source, to)


@on_device
@pytest.mark.parametrize(("words", "first"), [(0, 0), (1, 0), (4096, 4), (4095, 1), (1_000_001, 2)])
def test_both_ways_on_a_device(words, first):
    host = torch.zeros(4 * (words + first + 3), dtype=torch.uint8, pin_memory=True)
    there = host.to("cuda")
    check(pinned.copy_pinned, words, first, host, there)
    check(pinned.copy_pinned, words, first, there, host)


def test_a_runner_that_goes_leaves_its_arrays_to_those_who_read_them(monkeypatch):
    left = []
    monkeypatch.setattr(runner, "_keep_until_read", lambda host, device: left.append((host, device)))
    engine = InferenceEngine(load_mistral("tiny", load_format="dummy"), num_blocks=8, max_num_seqs=2)
    arrays = engine.runner.host
    del engine
    gc.collect()
    assert left == [(arrays, CPU)]


def test_arrays_are_kept_until_the_device_has_come_there(monkeypatch):
    class Event:
        come = False

        def record(self, stream):
            assert stream == "current"

        def query(self):
            return Event.come

    monkeypatch.setattr(runner, "_READ", [])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "current")
    first, second = [object()], [object()]
    for host in (first, second):
        runner._keep_until_read(host, torch.device("cuda"))
    assert [kept for _, kept in runner._READ] == [first, second]
    Event.come = True
    runner._keep_until_read([], CPU)
    assert runner._READ == []
