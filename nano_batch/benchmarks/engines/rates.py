"""What the device reaches on its own, measured in the same run: copies of memory and products of matrices."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from nano_batch.models import PagedMistral

ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COPIED_BYTES = {"cuda": 2 * 2**30, "cpu": 2**28}
COPIES_TIMED = 10
CPU_CALLS = 8


@dataclass(frozen=True)
class Rates:
    """Copy bandwidth, bytes read and written a second, and the best rate of products by their rows.

    `product_flops_per_s` ascends with `rows`: what fewer rows reach, more rows reach, too.
    """

    copy_bytes_per_s: float
    rows: tuple[int, ...]
    product_flops_per_s: tuple[float, ...]

    def product_rate(self, rows: int) -> float:
        """Of the least measured number of rows that is not below `rows`, so that it bounds theirs."""
        return self.product_flops_per_s[min(bisect_left(self.rows, rows), len(self.rows) - 1)]

    @property
    def peak_flops_per_s(self) -> float:
        """The best rate of any products."""
        return self.product_flops_per_s[-1]

    def as_json(self) -> dict[str, Any]:
        """TB/s and TFLOP/s, rounded."""
        return {
            "copy_tb_per_s": float(f"{self.copy_bytes_per_s / 1e12:.4g}"),
            "product_tflop_per_s": {
                str(rows): float(f"{rate / 1e12:.4g}")
                for rows, rate in zip(self.rows, self.product_flops_per_s, strict=True)
            },
        }


def measure_rates(model: PagedMistral, row_counts: Sequence[int] = ROWS) -> Rates:
    """Time a large copy, and products with the model's own matrices; half a minute at most.

    A rate of products is the best over the matrices, which are read again and again: some of them stay in the
    device's cache, so that with few rows it is not their reading that is timed where that can be avoided.
    `row_counts` ascend; what is to be bound by the rates has no more rows than the last of them.
    """
    best = [0.0]
    with torch.no_grad():
        for rows in row_counts:
            best.append(max(best[-1], *_product_rates(model, rows)))
        return Rates(_copy_rate(model.device), tuple(row_counts), tuple(best[1:]))


def _copy_rate(device: torch.device) -> float:
    """Not from a graph: there a copy is another kind of node, and a third slower (docs/notes/engine.md)."""
    source = torch.zeros(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        from nano_batch.benchmarks.on_gpu.timing import best

        return 2e6 * source.numel() / best(lambda: target.copy_(source), COPIES_TIMED)
    return 2 * source.numel() / _seconds([lambda: target.copy_(source)], device)[0]


def _product_rates(model: PagedMistral, rows: int) -> list[float]:
    layer = model.layers[0]
    weights = [layer.qkv, layer.output, layer.gate_up, layer.down]
    inputs = [torch.randn(rows, weight.shape[1], device=model.device).to(model.dtype) for weight in weights]
    calls = [_product(x, weight) for x, weight in zip(inputs, weights, strict=True)]
    seconds = _seconds(calls, model.device)
    return [2 * rows * weight.numel() / each for weight, each in zip(weights, seconds, strict=True)]


def _product(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: F.linear(x, weight)


def _seconds(calls: list[Callable[[], torch.Tensor]], device: torch.device) -> list[float]:
    """Seconds of each call: on CUDA in graphs by turns, on a CPU the best of a few."""
    if device.type == "cuda":
        from nano_batch.benchmarks.on_gpu.timing import capture, replayed

        graphs = [capture(lambda _, call=call: call(), 1) for call in calls]  # type: ignore[misc]
        return [spread.us / 1e6 for spread in replayed(graphs)]
    return [min(_once(call) for _ in range(CPU_CALLS)) for call in calls]


def _once(call: Callable[[], torch.Tensor]) -> float:
    """Seconds of the host's clock for one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
