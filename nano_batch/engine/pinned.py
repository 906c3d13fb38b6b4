"""Copies between pinned memory of the host and a CUDA device, on its current stream.

By a kernel: the device changes from one graph to another sooner than from a graph to a copy engine and back,
which takes as long as some of a step's kernels (docs/notes/engine.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nano_batch.cuda.available import why_not
from nano_batch.engine.cuda import pinned as on_cuda


def copy_pinned(to: torch.Tensor, source: torch.Tensor, parts: Sequence[slice] | None = None) -> None:
    """Copy one tensor to another, of which one is on a CUDA device and one pinned, without waiting.

    What is pinned is to stay as it is, and to stay there, until the device has come here.

    Args:
        to, source: of one shape and dtype, contiguous, of a multiple of four bytes.
        parts: at most five, in their order, of tensors of one dimension: nothing else is copied. Each begins
            and ends at a multiple of four bytes. None: all.
    """
    device = to.device if to.is_cuda else source.device
    if why_not(device) is None:
        on_cuda.copy_pinned(to, source, device, parts)
    elif parts is None:
        to.copy_(source, non_blocking=True)
    else:
        for part in parts:
            to[part].copy_(source[part], non_blocking=True)
