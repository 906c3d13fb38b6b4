"""Measures the cases on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nano_batch.attention import cache_ops, paged_attention_prefill
from nano_batch.attention.cuda.decode import paged_decode
from nano_batch.attention.cuda.plan import DecodePlan
from nano_batch.attention.torch_backend import TorchAttention
from nano_batch.benchmarks.on_gpu import timing
from nano_batch.benchmarks.on_gpu.cases import COPIED_BYTES, HEAD_DIM, KV_HEADS, Case, Times
from nano_batch.benchmarks.on_gpu.flashinfer import flashinfer_version, peer_of
from nano_batch.benchmarks.on_gpu.inputs import Inputs
from nano_batch.benchmarks.report import torch_versions
from nano_batch.cuda.available import why_not
from nano_batch.errors import DeviceError

COPIES_TIMED = 10


class Device:
    """The current CUDA device.

    Attributes:
        failures: what a peer could not do, in words.

    Raises:
        DeviceError: there is no CUDA device, or one that the kernels do not run on.
        MissingExtraError: the compiler is not installed.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise DeviceError("attention is measured on a CUDA device; this machine has none")
        self.device = torch.device("cuda", torch.cuda.current_device())
        reason = why_not(self.device)
        if reason is not None:
            raise reason
        self.failures: list[str] = []
        torch.manual_seed(0)

    def about(self) -> dict[str, Any]:
        """Device and versions."""
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "device": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "versions": {**torch_versions(), "flashinfer": flashinfer_version()},
        }

    def measure(self, case: Case) -> Times:
        """Measure one case."""
        measures: dict[str, Callable[[Case], Times]] = {
            "copy": self._copy, "decode": self._decode, "write": self._write, "plan": self._plan,
            "prefill": self._prefill,
        }  # fmt: skip
        try:
            with torch.no_grad():
                return measures[case.kind](case)
        finally:
            torch.cuda.empty_cache()  # the next case may need all of the memory

    def _copy(self, _: Case) -> Times:
        source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return Times(timing.best(lambda: target.copy_(source), COPIES_TIMED))

    def _decode(self, case: Case) -> Times:
        inputs = Inputs(case, self.device)
        first = inputs.contexts[0]
        plan = DecodePlan(inputs.query, first.key_cache, first.value_cache, inputs.table)
        plan.update(first.context_lens)

        def ours(copy: int) -> torch.Tensor:
            return paged_decode(inputs.query, inputs.contexts[copy], plan)

        def plainly() -> torch.Tensor:
            return TorchAttention().decode(inputs.query, first)

        error = inputs.error(ours(0))
        peer = peer_of(inputs, case, self.failures.append)
        sets = [timing.capture(ours, case.copies)]
        if peer is not None:  # begins half way round, or it would find what was read just now
            sets.append(timing.capture(peer.run, case.copies, first=case.copies // 2))
        own, *others = timing.replayed(sets)
        plain = None if case.cold else timing.called(plainly)
        return Times(own.us, others[0].us if others else None, plain, error, own.apart)

    def _write(self, case: Case) -> Times:
        """Tokens of a prompt fill whole blocks, those of a decode step a slot of a block each."""
        tokens, size = sum(case.contexts), case.block_size
        blocks = -(-tokens // size) if case.batch == 1 else tokens
        order = torch.randperm(blocks, device=self.device)
        within = torch.arange(tokens, device=self.device)
        if case.batch == 1:
            slots = order[within // size] * size + within % size
        else:
            slots = order * size + torch.randint(0, size, (tokens,), device=self.device)
        shapes = (*2 * ((tokens, KV_HEADS, HEAD_DIM),), *2 * ((blocks, size, KV_HEADS, HEAD_DIM),))
        moves = [[torch.randn(shape, dtype=torch.bfloat16, device=self.device) for shape in shapes]
                 for _ in range(case.copies)]  # fmt: skip

        def write(copy: int) -> None:
            keys, values, key_cache, value_cache = moves[copy]
            absent = None, None, None
            cache_ops.write_kv(keys, values, key_cache, value_cache, slots, None, None, *absent, None)

        write(0)
        written = [cache.flatten(0, 1)[slots] for cache in moves[0][2:]]
        error = max(float((a - b).norm() / b.norm()) for a, b in zip(written, moves[0][:2], strict=True))
        (own,) = timing.replayed([timing.capture(write, case.copies)])
        return Times(own.us, error=error, apart=own.apart)

    def _plan(self, case: Case) -> Times:
        """Ours is made on the device in the graph; FlashInfer's on the host, by the host's clock."""
        inputs = Inputs(case, self.device)
        first = inputs.contexts[0]
        plan = DecodePlan(inputs.query, first.key_cache, first.value_cache, inputs.table)
        peer = peer_of(inputs, case, self.failures.append)
        (own,) = timing.replayed([timing.capture(lambda _: plan.update(first.context_lens), 1)])
        return Times(own.us, None if peer is None else timing.on_host(peer.plan), apart=own.apart)

    def _prefill(self, case: Case) -> Times:
        """No graph holds a prefill: it waits for the lengths on the host."""
        inputs = Inputs(case, self.device)
        first = inputs.contexts[0]

        def prefill(backend: Any) -> torch.Tensor:
            return paged_attention_prefill(
                inputs.query, first.key_cache, first.value_cache, inputs.table, first.context_lens,
                inputs.starts, case.block_size, backend=backend, validate=False,
            )  # fmt: skip

        error = inputs.error(prefill("cuda"))
        timing.warm_up()
        us = timing.called(lambda: prefill("cuda"), most_us=float("inf"))
        assert us is not None
        return Times(us, None, timing.called(lambda: prefill("torch")), error)
