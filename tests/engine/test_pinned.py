"""Copies between host and device by a kernel."""

from __future__ import annotations

import gc

import pytest
import torch
from cuda_on_cpu.device import cpu_device
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch import errors
from nano_batch.core import Engine
from nano_batch.engine import InferenceEngine, pinned, runner
from nano_batch.engine.cuda import pinned as on_cuda
from nano_batch.engine.step_arrays import Layout
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


def check_parts(copy, parts, source, to):
    """So many words each, after gaps of so many words, are copied, and nothing else."""
    source.random_(1, 256)
    to.zero_()
    expected, at, slices = torch.zeros(len(to), dtype=torch.uint8), 0, []
    for gap, words in parts:
        slices.append(slice(at + 4 * gap, at + 4 * (gap + words)))
        at = slices[-1].stop
        expected[slices[-1]] = source[slices[-1]].cpu()
    copy(to, source, slices)
    if to.is_cuda:
        torch.cuda.synchronize()
    assert torch.equal(to.cpu(), expected)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300)), max_size=5))
def test_the_kernel_copies_parts(libraries, parts):
    source, to = (torch.zeros(6400, dtype=torch.uint8) for _ in range(2))
    with cpu_device(libraries):
        check_parts(lambda a, b, of: on_cuda.copy_pinned(a, b, CPU, of), parts, source, to)


def test_more_parts_than_a_copy_takes_are_refused():
    memory = torch.zeros(64, dtype=torch.uint8)
    with pytest.raises(errors.InvalidArgumentError, match="6 parts are copied at once; most is 5"):
        on_cuda.copy_pinned(memory, memory, CPU, [slice(0, 4)] * 6)


def test_parts_without_the_kernel():
    source, to = (torch.zeros(640, dtype=torch.uint8) for _ in range(2))
    check_parts(pinned.copy_pinned, [(1, 5), (0, 0), (8, 100)], source, to)


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 40), st.booleans())
def test_the_parts_of_a_step_are_all_that_it_uses(rows, tokens, extra):
    engine = Engine(10, 3, max_num_seqs=6, max_num_batched_tokens=40, max_model_len=25)
    layout = Layout(engine, {"more": ((7,), 4)})
    copied = torch.zeros(layout.size, dtype=torch.uint8)
    for part in layout.parts(rows, tokens, extra=extra):
        copied[part] += 1
    assert copied.max() <= 1
    used = {"slot_mapping": tokens, "token_ids": tokens, "positions": tokens, "block_table": rows}
    for name, view in layout.views(copied).items():
        if name != "more" or extra:
            assert view[: used.get(name)].view(torch.uint8).all(), name
    unused = (40 + 6 - tokens) * 16 + (6 - rows) * 4 * layout.places["block_table"].shape[1]
    assert copied.sum() <= layout.size - unused - (not extra) * layout.start + 4 * 16


@on_device
def test_parts_on_a_device():
    host = torch.zeros(640_000, dtype=torch.uint8, pin_memory=True)
    check_parts(
        pinned.copy_pinned, [(8, 40_000), (4, 1024), (0, 16), (400, 0), (0, 100_000)], host, host.to("cuda")
    )


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
