"""Whether a CUDA device can run the kernels of this folder, and if not, why."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from nano_batch.attention.cuda.program import INSTALL

LEAST_CAPABILITY = (8, 0)


def why_not(device: torch.device) -> str | None:
    """The reason why no kernel runs on `device`; None where they do."""
    if device.type != "cuda":
        return f"the tensors are on {device}"
    return _why_not(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _why_not(index: int) -> str | None:
    capability = torch.cuda.get_device_capability(index)
    if torch.version.hip is not None:
        return "PyTorch is built for AMD's devices"
    if capability < LEAST_CAPABILITY:
        return f"device {index} has compute capability {capability}; kernels need {LEAST_CAPABILITY}"
    try:
        missing = [name for name in ("cuda.core", "cuda.bindings") if find_spec(name) is None]
    except ImportError:  # no package `cuda` at all
        missing = ["cuda.core"]
    return f"{missing[0]} is missing: {INSTALL}" if missing else None
