"""A stand-in for a CUDA device: `backend="cuda"` runs the package's kernels on CPU tensors (cpu_cuda.h)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import torch

from nano_batch.attention import paged
from nano_batch.attention.cuda import cache as cache_kernels
from nano_batch.attention.cuda import decode, plan

from .build import SOURCES, CpuKernel

SHARED_MEMORY = 228 * 1024


@contextmanager
def cpu_device(
    folder: Path,
    *,
    backwards: bool = False,
    multiprocessors: int = 3,
    sanitize: bool = False,
    sources: Path = SOURCES,
) -> Iterator[None]:
    """The kernels run here, in libraries kept in `folder`; memory that is not written yet holds NaN."""
    kernel = kernels(folder, backwards, sanitize, sources)
    changes = [(module, "kernel", kernel) for module in (decode, plan, cache_kernels)]
    changes += [(module, "why_not", lambda device: None) for module in (paged, plan)]
    changes += [(plan, "multiprocessors", lambda device: multiprocessors)]
    changes += [(plan, "shared_memory", lambda device: SHARED_MEMORY)]
    with ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(mock.patch.object(module, name, value))
        stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        torch.use_deterministic_algorithms(True)  # which fills `torch.empty`
        yield


@cache
def kernels(folder: Path, backwards: bool, sanitize: bool, sources: Path) -> Callable[..., CpuKernel]:
    """What stands for `launch.kernel`."""
    made: dict[object, CpuKernel] = {}

    def kernel(source, defines, entry, device):  # type: ignore[no-untyped-def]
        key = source, frozenset(defines.items()), entry
        if key not in made:
            made[key] = CpuKernel(source, defines, entry, backwards=backwards, sanitize=sanitize,
                                  folder=folder, sources=sources)  # fmt: skip
        return made[key]

    return kernel
