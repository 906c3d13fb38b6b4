"""What the device reaches on its own, measured in the same run: copies of memory and products of matrices."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from nano_batch.models import PagedMistral

ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
HEAT_S, WINDOW_S = 2.0, 0.3
"""Products of the most rows before any rate is a sustained one, and then each product's own."""
LEAST_SUSTAINED = 256
"""Rows: fewer leave the device time to cool, for they wait for memory."""
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


def sustained_rates(model: PagedMistral, rates: Rates) -> Rates:
    """`rates`, lowered where a CUDA device does not keep them up for seconds; ten seconds at most.

    Large products take all the power that a GPU may, and its clock falls. So first come products of the
    most rows for `HEAT_S`, then of each number of rows, without a pause, those of each matrix for `WINDOW_S`,
    whose second half counts.
    """
    from nano_batch.benchmarks.on_gpu.timing import kept_up

    large = {
        rows: [(product, _graphs(product.call)) for product in _products(model, rows)]
        for rows in rates.rows
        if rows >= LEAST_SUSTAINED
    }
    best, found = 0.0, []
    with torch.no_grad():
        if large:
            kept_up(large[max(large)][-1][1], HEAT_S)
        for rows, short in zip(rates.rows, rates.product_flops_per_s, strict=True):
            for product, graph in large.get(rows, []):
                best = max(best, product.flops / (kept_up(graph, WINDOW_S) / 1e6))
            found.append(min(short, best) if best else short)
    for place in reversed(range(len(found) - 1)):  # so that they ascend
        found[place] = min(found[place], found[place + 1])
    return replace(rates, product_flops_per_s=tuple(found))


@dataclass(frozen=True)
class _Product:
    """A product with one of the model's matrices, and its operations."""

    call: Callable[[], torch.Tensor]
    flops: float


def _products(model: PagedMistral, rows: int) -> list[_Product]:
    layer = model.layers[0]

    def product(weight: torch.Tensor) -> _Product:
        x = torch.randn(rows, weight.shape[1], device=model.device).to(model.dtype)
        return _Product(lambda: F.linear(x, weight), 2.0 * rows * weight.numel())

    return [product(weight) for weight in (layer.qkv, layer.output, layer.gate_up, layer.down)]


def _product_rates(model: PagedMistral, rows: int) -> list[float]:
    products = _products(model, rows)
    seconds = _seconds([each.call for each in products], model.device)
    return [product.flops / each for product, each in zip(products, seconds, strict=True)]


def _seconds(calls: list[Callable[[], torch.Tensor]], device: torch.device) -> list[float]:
    """Seconds of each call: on CUDA in graphs by turns, on a CPU the best of a few."""
    if device.type == "cuda":
        from nano_batch.benchmarks.on_gpu.timing import replayed

        return [spread.us / 1e6 for spread in replayed([_graphs(call) for call in calls])]
    return [min(_once(call) for _ in range(CPU_CALLS)) for call in calls]


def _graphs(call: Callable[[], torch.Tensor]) -> list[torch.cuda.CUDAGraph]:
    from nano_batch.benchmarks.on_gpu.timing import capture

    return capture(lambda _: call(), 1)


def _once(call: Callable[[], torch.Tensor]) -> float:
    """Seconds of the host's clock for one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
