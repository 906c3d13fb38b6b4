"""The copy between host and device as a kernel, on checked tensors (`pinned.cu`)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int64

import torch

from nano_batch.cuda.launch import kernel
from nano_batch.cuda.program import Macro
from nano_batch.cuda.vectors import ACCESS_BYTES, vector_of
from nano_batch.engine.cuda import SOURCES

THREADS = 256
WORD_BYTES = 4
MOST_PARTS = 5
"""Of a copy."""


class Parts(ctypes.Structure):
    """What is copied, in vectors (`pinned.cu`)."""

    _fields_ = (("until", c_int64 * MOST_PARTS), ("apart", c_int64 * MOST_PARTS))


def copy_pinned(
    to: torch.Tensor, source: torch.Tensor, device: torch.device, parts: Sequence[slice] | None = None
) -> None:
    """See `pinned.copy_pinned`; at most `MOST_PARTS`."""
    item = to.element_size()
    to, source = to.view(-1).view(torch.float32), source.view(-1).view(torch.float32)
    words = [slice(0, len(to))]
    if parts is not None:
        words = [slice(*(place * item // WORD_BYTES for place in (part.start, part.stop))) for part in parts]
    bits = 0
    for part in words:
        bits |= part.start | part.stop
    vector = vector_of(bits, ACCESS_BYTES // WORD_BYTES, [to, source])
    given, count = Parts(), 0
    for number in range(MOST_PARTS):
        if number < len(words):
            part = words[number]
            given.apart[number] = part.start // vector - count
            count += (part.stop - part.start) // vector
        given.until[number] = count
    if count:
        run = kernel(SOURCES / "pinned.cu", copy_defines(vector), "copy_pinned", device)
        run.launch((-(-count // THREADS), 1, 1), THREADS, 0, (source, to, given))


def copy_defines(vector: int) -> dict[str, Macro]:
    """The source's macros."""
    return {"VEC": vector, "THREADS": THREADS, "PARTS": MOST_PARTS}
