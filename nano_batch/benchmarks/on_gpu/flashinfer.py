"""FlashInfer's decode attention on the same tensors, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from nano_batch.benchmarks.on_gpu.cases import HEAD_DIM, HEADS, KV_HEADS, Case
from nano_batch.benchmarks.on_gpu.inputs import Inputs

NAME = "flashinfer"
WORKSPACE_BYTES = 256 * 2**20
DTYPES = ("bf16",)
"""The caches that it is measured with: for each other it would compile kernels for a minute."""


class FlashInfer:
    """One wrapper a case, with tensor cores, the faster of its two ways; planned once, outside all timing."""

    def __init__(self, inputs: Inputs, case: Case) -> None:
        device = inputs.query.device
        counts = -(-inputs.host_lens // case.block_size)
        ends = counts.cumsum(0)
        table = inputs.table.cpu()
        indices = table[table >= 0].int().to(device)
        starts = torch.cat([ends.new_zeros(1), ends]).int().to(device)
        last = ((inputs.host_lens - 1) % case.block_size + 1).int().to(device)
        self._arguments = (starts, indices, last, HEADS, KV_HEADS, HEAD_DIM, case.block_size)
        self._dtypes = {
            "q_data_type": inputs.query.dtype, "kv_data_type": inputs.contexts[0].key_cache.dtype
        }  # fmt: skip
        self._inputs, self._output = inputs, torch.empty_like(inputs.query)
        self._wrapper: Any = import_module(NAME).BatchDecodeWithPagedKVCacheWrapper(
            torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device), "NHD", use_cuda_graph=True,
            use_tensor_cores=True, paged_kv_indptr_buffer=torch.empty_like(starts),
            paged_kv_indices_buffer=torch.empty_like(indices),
            paged_kv_last_page_len_buffer=torch.empty_like(last),
        )  # fmt: skip

    def plan(self) -> None:
        """Plan on the host, as its users do once a step."""
        self._wrapper.plan(*self._arguments, **self._dtypes)

    def run(self, copy: int) -> torch.Tensor:
        """Attend to one of the copies."""
        context = self._inputs.contexts[copy]
        caches = (context.key_cache, context.value_cache)
        self._wrapper.run(self._inputs.query, caches, out=self._output)
        return self._output


def flashinfer_version() -> str | None:
    """None where it is not installed."""
    return None if find_spec(NAME) is None else str(import_module(NAME).__version__)


def peer_of(inputs: Inputs, case: Case, failed: Callable[[str], None]) -> FlashInfer | None:
    """FlashInfer, planned and right on this case; None where it is not there, and said where it fails."""
    if find_spec(NAME) is None or case.dtype not in DTYPES:
        return None
    try:
        peer = FlashInfer(inputs, case)
        peer.plan()
        error = inputs.error(peer.run(0))
    except Exception as problem:  # whatever another library raises; ours is to be measured nevertheless
        failed(f"FlashInfer, {case.name} {case.batch}x{case.context}: {type(problem).__name__}: {problem}")
        return None
    if error > 1e-2:
        failed(f"FlashInfer, {case.name} {case.batch}x{case.context}: its result is off by {error:.2g}")
        return None
    return peer
