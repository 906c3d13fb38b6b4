"""Whether a CUDA device can run the kernels of this folder, and if not, why."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from nano_batch.attention.cuda.program import INSTALL
from nano_batch.errors import DeviceError, MissingExtraError

LEAST_CAPABILITY = (8, 0)


def why_not(device: torch.device) -> DeviceError | MissingExtraError | None:
    """The error with the reason why no kernel runs on `device`; None where they do."""
    if device.type != "cuda":
        return DeviceError(f"the tensors are on {device}, not on a CUDA device")
    index = torch.cuda.current_device() if device.index is None else device.index
    if reason := _unfit(index):
        return DeviceError(reason)
    return MissingExtraError(f"{missing} is not there: {INSTALL}") if (missing := _missing()) else None


@cache
def _unfit(index: int) -> str | None:
    if torch.version.hip is not None:
        return "PyTorch is built for AMD's devices"
    capability = torch.cuda.get_device_capability(index)
    if capability < LEAST_CAPABILITY:
        return f"device {index} has compute capability {capability}; kernels need {LEAST_CAPABILITY}"
    return None


@cache
def _missing() -> str | None:
    for name in ("cuda.core", "cuda.bindings"):
        try:
            found = find_spec(name) is not None
        except ImportError:  # there is no package `cuda` at all
            found = False
        if not found:
            return name
    return None
