"""Run under AddressSanitizer by test_kernels_sanitized.py: a layer's kernels, exact allocations.

Arguments: the folder of the libraries, the tests' folder, and `good` or `short`: a weight ends too early.
"""

from __future__ import annotations

import sys
from ctypes import c_int32, c_int64
from pathlib import Path

libraries, tests, kind = sys.argv[1:]
sys.path.insert(0, tests)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from layer_cases import EPS, assert_close  # noqa: E402

from cuda_on_cpu.build import CpuKernel  # noqa: E402
from cuda_on_cpu.device import cpu_device  # noqa: E402
from nano_batch.models.cuda import SOURCES, layer  # noqa: E402


def rows(*shape):
    """Random rows in memory that ends where they do."""
    return torch.empty(shape, dtype=torch.bfloat16).copy_(torch.randn(shape))


def check(size):
    """Run all kernels on rows of `size` elements."""
    hidden, residual, weight, gate_up = rows(2, size), rows(2, size), rows(size), rows(5, 2 * size)
    gate, up = gate_up.chunk(2, dim=1)
    assert_close(layer.rms_norm(hidden, None, weight, EPS), F.rms_norm(hidden, (size,), weight, EPS))
    found, normed = layer.embed_rms_norm(torch.tensor([1, 0, 1]), hidden, weight, EPS)
    assert torch.equal(found, hidden[[1, 0, 1]])
    assert_close(normed, F.rms_norm(found, (size,), weight, EPS))
    found, other = layer.take_rows(torch.tensor([1, 0, 1]), hidden, gate_up[:2].contiguous())
    assert torch.equal(found, hidden[[1, 0, 1]])
    assert torch.equal(other, gate_up[[1, 0, 1]])
    summed = residual + hidden
    added = layer.rms_norm(hidden, residual, weight, EPS)
    assert torch.equal(summed, residual)
    assert_close(added, F.rms_norm(summed, (size,), weight, EPS))
    assert_close(layer.silu_mul(gate_up), F.silu(gate) * up, scale=0.01)
    if size % 8 == 0:
        x, matrix = rows(3, size), rows(19, size)
        assert_close(layer.few_rows(x, matrix), F.linear(x, matrix), scale=size**0.5)


def read_past_the_weight():
    """Tell the kernel of a row more than the weight has."""
    run = CpuKernel(SOURCES / "few_rows.cu", {"ELEMENT": "bf16"}, "few_rows", folder=Path(libraries),
                    sanitize=True)  # fmt: skip
    x, weight, output = rows(3, 64), rows(19, 64), rows(3, 20)
    numbers = c_int32(3), c_int32(20), c_int32(64)
    run.launch((2, 1, 1), layer.LINEAR_THREADS, 0, (x, c_int64(64), weight, output, *numbers))


torch.manual_seed(0)
if kind == "short":
    read_past_the_weight()
for backwards in (False, True):
    with cpu_device(Path(libraries), backwards=backwards, sanitize=True):
        for size in (1000, 7):
            check(size)
print("all within")
