"""Whether a CUDA device can run the package's kernels, and if not, why."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from nano_batch.cuda.program import INSTALL
from nano_batch.errors import DeviceError, MissingExtraError, NanoBatchError

LEAST_CAPABILITY = (8, 0)
Reason = tuple[type[NanoBatchError], str]
# By device. A plain dictionary, since a trace of `torch.compile` warns of every `functools.cache` on its way.
_known: dict[int, Reason | None] = {}


def why_not(device: torch.device) -> NanoBatchError | None:
    """The error with the reason why no kernel runs on `device`; None where they do."""
    if device.type != "cuda":
        return DeviceError(f"the tensors are on {device}, not on a CUDA device")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _known:
        _known[index] = _find_out(index)
    reason = _known[index]
    return None if reason is None else reason[0](reason[1])


def _find_out(index: int) -> Reason | None:
    if torch.version.hip is not None:
        return DeviceError, "PyTorch is built for AMD's devices"
    capability = torch.cuda.get_device_capability(index)
    if capability < LEAST_CAPABILITY:
        return DeviceError, f"device {index} has compute capability {capability}, below {LEAST_CAPABILITY}"
    for name in ("cuda.core", "cuda.bindings"):
        if not _installed(name):
            return MissingExtraError, f"{name} is not there: {INSTALL}"
    return None


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # there is no package `cuda` at all
        return False
