"""How a step begins with each lane's newest token and leaves the next: the plain form, and the kernels."""

from __future__ import annotations

import pytest
import torch
from cuda_on_cpu.device import cpu_device

from nano_batch.engine import newest
from nano_batch.engine.choice import greedy
from nano_batch.engine.cuda import newest as on_cuda

on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def arrays(*rows, device="cpu"):
    return [torch.tensor(row, dtype=torch.int32, device=device) for row in rows]


def check_begin(begin_step, device):
    kept = torch.tensor([7, -1, 2**40, 5], device=device)
    given, lanes, positions = arrays(
        [3, -1, -1, -1, 0, -1], [2, 0, 1, 2, 0, -1], [9, 8, 7, 6, 5, 0], device=device
    )
    tokens, wide = begin_step(given, lanes, positions, kept)
    assert tokens.tolist() == [3, 7, 0, 2**40, 0, 5]
    assert wide.tolist() == positions.tolist()
    assert tokens.dtype == wide.dtype == torch.int64
    assert kept.tolist() == [7, -1, 2**40, 5]


def check_likeliest(take_likeliest, samples, vocab, dtype, device):
    """Random rows with many equals, and rows without a token."""
    torch.manual_seed(vocab)
    logits = torch.randint(-3, 4, (samples, vocab + 3), device=device).to(dtype)[:, :vocab]
    if samples > 3:
        logits[0, -1], logits[1, vocab // 2], logits[2] = float("nan"), float("inf"), float("-inf")
        logits[3] = -5.0
        logits[3, vocab // 3 :] = -4.0
    lanes = torch.randperm(samples + 4, device=device)[:samples].int()
    lanes[samples // 2 : samples // 2 + 1] = -1
    kept = torch.full((samples + 5,), 99, device=device)
    tokens = take_likeliest(logits, lanes, kept)
    assert torch.equal(tokens, greedy(logits.cpu()).to(device))
    expected = torch.full_like(kept, 99)
    expected[lanes.long()] = tokens
    assert torch.equal(kept, expected)


def test_the_plain_forms():
    check_begin(newest.begin_step, "cpu")
    for dtype in [*DTYPES, torch.float64]:
        check_likeliest(newest.take_likeliest, 9, 50, dtype, "cpu")
    utilities = ("test_schema", "test_faketensor")
    given, lanes, positions = arrays([3, -1], [0, 1], [5, 6])
    kept, logits = torch.zeros(3, dtype=torch.int64), torch.randn(2, 8)
    operators = torch.ops.nano_batch
    torch.library.opcheck(operators.begin_step.default, (given, lanes, positions, kept), test_utils=utilities)
    torch.library.opcheck(operators.take_likeliest.default, (logits, lanes, kept), test_utils=utilities)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_kernels_on_a_cpu(libraries, backwards):
    with cpu_device(libraries, backwards=backwards):
        check_begin(on_cuda.begin_step, "cpu")
        for number, (samples, vocab) in enumerate([(5, 1), (0, 8), (6, 9000), (4, 20_011)]):
            check_likeliest(on_cuda.take_likeliest, samples, vocab, DTYPES[number % 3], "cpu")


@on_device
def test_the_kernels_on_a_device():
    check_begin(newest.begin_step, "cuda")
    for dtype in [*DTYPES, torch.float64]:
        for samples, vocab in [(0, 8), (1, 32_000), (5, 7), (256, 32_768), (17, 31_999)]:
            check_likeliest(newest.take_likeliest, samples, vocab, dtype, "cuda")
