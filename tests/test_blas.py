"""Large products by the library's fastest algorithm; on a CPU they are PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from layer_cases import BF16, FP16, assert_close, rows

from nano_batch import errors
from nano_batch.cuda import blas
from nano_batch.engine.mixed_rows import token_sizes
from nano_batch.engine.step_graphs import decode_sizes
from nano_batch.models import ops

on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_sizes_that_are_computed_alike():
    """The engine's graphs have a class each from 128 tokens on; larger steps share few."""
    assert [blas.size_class(rows) for rows in (1, 16, 17, 257, 512, 513, 1024, 1025, 2048, 2049, 8192)] == [
        16, 16, 32, 288, 512, 576, 1024, 1152, 2048, 4096, 8192,
    ]  # fmt: skip
    for size in [*decode_sizes(256), *token_sizes(8192)]:
        assert size < 128 or blas.size_class(size) == size
    for size in range(1, 9000):
        assert size <= blas.size_class(size) == blas.size_class(blas.size_class(size))


def test_on_a_cpu_it_is_pytorch_s():
    x, weight = torch.randn(5, 6), torch.randn(7, 6)
    assert torch.equal(ops.linear(x, weight), F.linear(x, weight))
    torch.library.opcheck(
        torch.ops.nano_batch.linear.default, (x, weight), test_utils=("test_schema", "test_faketensor")
    )
    with pytest.raises(errors.ShapeError, match=r"shapes \[5, 6\] and \[7, 5\]"):
        ops.linear(x, weight[:, 1:])
    with pytest.raises(errors.DtypeError, match=r"weight is torch.float64"):
        ops.linear(x, weight.double())


@on_device
@pytest.mark.parametrize("count", [0, 1, 7, 200, 448, 2049])
@pytest.mark.parametrize(("n", "k"), [(6144, 4096), (4096, 14336), (17, 72), (100, 320)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_products_on_a_device(dtype, n, k, count):
    x, weight = (rows(length, k, dtype, device="cuda") for length in (count, n))
    expected = F.linear(x.double(), weight.double()).to(dtype)
    for _ in range(2):  # the second is not timed
        assert_close(ops.linear(x, weight), expected, scale=k**0.5)
    assert count == 0 or (x.device, dtype, blas.size_class(count), n, k) in blas._fastest


@on_device
def test_rows_that_lie_apart_or_begin_anywhere():
    wide, weight = rows(300, 512, BF16, device="cuda"), rows(256, 128, BF16, device="cuda")
    for x in (wide[:, 128:256], wide[:, 8:136], wide[:, 1:129]):
        expected = F.linear(x.double(), weight.double()).to(BF16)
        assert_close(ops.linear(x, weight), expected, scale=128**0.5)


@on_device
def test_a_graph_holds_the_algorithm_that_was_found_before():
    x, weight = rows(320, 1024, BF16, device="cuda"), rows(2048, 1024, BF16, device="cuda")
    other = rows(320, 1056, BF16, device="cuda")[:, :1024].contiguous()
    ops.linear(x, weight)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = ops.linear(x, weight)
        unseen = ops.linear(x[:33], weight)
    for new in (x.clone(), other):
        x.copy_(new)
        graph.replay()
        expected = F.linear(new.double(), weight.double()).to(BF16)
        assert_close(output, expected, scale=32.0)
        assert_close(unseen, expected[:33], scale=32.0)


@on_device
def test_without_the_library_it_is_pytorch_s(monkeypatch):
    monkeypatch.setattr(blas, "_library", lambda: None)
    x, weight = rows(300, 128, BF16, device="cuda"), rows(64, 128, BF16, device="cuda")
    assert torch.equal(ops.linear(x, weight), F.linear(x, weight))
