"""Copies between host and device by a kernel."""

from __future__ import annotations

import pytest
import torch
from cuda_on_cpu.device import cpu_device
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch.engine import pinned
from nano_batch.engine.cuda import pinned as on_cuda

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
