"""Cost models: what a step takes, from what it asks of host and device (docs/costs.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from nano_batch import _core
from nano_batch._core import StepFeatures
from nano_batch.display import Shown
from nano_batch.errors import InvalidArgumentError
from nano_batch.simulator.cards import HardwareCard, HardwareName, ModelCard, ModelName, roofline_numbers

__all__ = ["Constant", "Cost", "CostLike", "Roofline", "StepFeatures", "as_cost"]


@runtime_checkable
class Cost(Protocol):
    """What `simulate` needs of a cost model."""

    def core(self) -> _core.CostModel:
        """The compiled model."""

    def describe(self) -> dict[str, Any]:
        """JSON values that say which model it is."""


@dataclass(frozen=True)
class Constant(Shown):
    """Every step takes the same: seconds of the host before it, and of the device."""

    device_s: float
    host_s: float = 0.0

    def core(self) -> _core.CostModel:
        """The compiled model. Raises `InvalidArgumentError` unless both are finite and at least 0."""
        return _core.CostModel.constant(self.host_s, self.device_s)

    def describe(self) -> dict[str, Any]:
        """Its name and numbers."""
        return {"model": "constant", **vars(self)}


@dataclass(frozen=True, repr=False)
class Roofline(Shown):
    """A device and a model in numbers: no part of a step is faster than arithmetic and memory allow.

    The linear layers, the attention of decodes and that of prefill chunks run one after the other, and each
    takes the longer of its arithmetic and its memory traffic (Williams, Waterman and Patterson, CACM 2009).

    Attributes:
        flops_per_s: arithmetic, in floating-point operations per second.
        bytes_per_s: memory bandwidth.
        weight_bytes: read once a step.
        flops_per_token: of the linear layers; by default two a parameter of two bytes.
        kv_bytes_per_token: keys and values of one token, all layers.
        flops_per_pair: of attention, for each query and key.
        flops_per_sample: of the logits, for each sampled row.
        block_bytes: of one KV block, for copies and swaps.
        host_bytes_per_s: between host and device.
        overhead_s: kernel launches and the like, each step.
        host_s: host work of a step.
        host_per_sequence_s: host work for each scheduled sequence.
    """

    flops_per_s: float
    bytes_per_s: float
    weight_bytes: float
    kv_bytes_per_token: float
    flops_per_token: float | None = None
    flops_per_pair: float = 0.0
    flops_per_sample: float = 0.0
    block_bytes: float = 0.0
    host_bytes_per_s: float = 50e9
    overhead_s: float = 0.0
    host_s: float = 0.0
    host_per_sequence_s: float = 0.0

    @classmethod
    def of(
        cls,
        hardware: HardwareName | HardwareCard,
        model: ModelName | ModelCard,
        *,
        block_size: int = 16,
        **changed: float,
    ) -> Roofline:
        """A model on a GPU, from their cards; `changed` numbers take the place of the cards'.

        Raises:
            UnknownOptionError: there is no such card; the nearest is named.
        """
        return cls(**{**roofline_numbers(hardware, model, block_size), **changed})

    def core(self) -> _core.CostModel:
        """The compiled model. Raises `InvalidArgumentError` for a number out of its range."""
        numbers = {name: float(value) for name, value in vars(self).items() if value is not None}
        numbers.setdefault("flops_per_token", numbers["weight_bytes"])
        return _core.CostModel.roofline(**numbers)

    def describe(self) -> dict[str, Any]:
        """Its name and numbers."""
        return {"model": "roofline", **vars(self)}

    def __repr__(self) -> str:
        return (
            f"Roofline({self.flops_per_s / 1e12:.4g} TFLOP/s, {self.bytes_per_s / 1e12:.3g} TB/s, "
            f"weights {self.weight_bytes / 1e9:.4g} GB, {self.kv_bytes_per_token:,.0f} bytes of KV a token)"
        )


@dataclass(frozen=True)
class _Function:
    """A Python function of `StepFeatures`, at Python speed."""

    function: Callable[[StepFeatures], Any]

    def core(self) -> _core.CostModel:
        return _core.CostModel.function(self.function)

    def describe(self) -> dict[str, Any]:
        return {"model": "function", "name": getattr(self.function, "__name__", "a function")}


CostLike = float | Cost | Callable[[StepFeatures], Any]


def as_cost(cost: CostLike) -> Cost:
    """A cost model from what a caller may give for one: seconds a step, a model, or a function.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    # The protocol last: asking it takes a look at every method.
    if isinstance(cost, (Roofline, Constant, _Function, Cost)):
        return cost
    if isinstance(cost, (int, float)) and not isinstance(cost, bool):
        return Constant(float(cost))
    if callable(cost):
        return _Function(cost)
    raise InvalidArgumentError(f"cost is {cost!r}; it must be seconds a step, a cost model or a function")
