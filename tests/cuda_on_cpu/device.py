"""A stand-in for a CUDA device: `backend="cuda"` runs the package's kernels on CPU tensors (cpu_cuda.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import torch

from nano_batch.attention import paged
from nano_batch.attention.cuda import cache as cache_kernels
from nano_batch.attention.cuda import decode, plan, prefill_kernel
from nano_batch.cuda.tensor_map import TensorMap
from nano_batch.engine.cuda import newest, pinned
from nano_batch.models.cuda import layer

from .build import CpuKernel


@contextmanager
def cpu_device(
    folder: Path,
    *,
    backwards: bool = False,
    multiprocessors: int = 3,
    sanitize: bool = False,
    sources: Path | None = None,
    hopper: bool = False,
) -> Iterator[None]:
    """The kernels run here, in libraries kept in `folder`; memory that is not written yet holds NaN.

    `sources` is a folder with other sources of the same names. `hopper`: it stands for that device.
    """
    kernel = kernels(folder, backwards, sanitize, sources)
    changes = [
        (module, "kernel", kernel)
        for module in (decode, plan, prefill_kernel, cache_kernels, layer, newest, pinned)
    ]
    changes += [(module, "why_not", lambda device: None) for module in (paged, plan)]
    changes += [(plan, "is_hopper", lambda device: hopper), (decode, "cache_map", cache_map)]
    changes += [(plan, "multiprocessors", lambda device: multiprocessors)]
    with ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(mock.patch.object(module, name, value))
        stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        torch.use_deterministic_algorithms(True)  # which fills `torch.empty`
        yield


def cache_map(cache: torch.Tensor, tokens: int) -> TensorMap:
    """As cpu_hopper.h reads it."""
    strides = [cache.stride(axis) * cache.itemsize for axis in (1, 2, 0)]
    words = [cache.data_ptr(), *strides, cache.shape[3] * cache.itemsize, tokens, len(cache)]
    return TensorMap((ctypes.c_uint64 * 16)(*words))


@cache
def kernels(folder: Path, backwards: bool, sanitize: bool, sources: Path | None) -> Callable[..., CpuKernel]:
    """What stands for `launch.kernel`."""
    made: dict[object, CpuKernel] = {}

    def kernel(source, defines, entry, device):  # type: ignore[no-untyped-def]
        key = source, frozenset(defines.items()), entry
        if key not in made:
            taken = sources / source.name if sources else source
            made[key] = CpuKernel(
                taken, defines, entry, backwards=backwards, sanitize=sanitize, folder=folder
            )
        return made[key]

    return kernel
