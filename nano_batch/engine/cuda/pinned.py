"""The copy between host and device as a kernel, on checked tensors (`pinned.cu`)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int64
from functools import reduce
from itertools import chain
from operator import or_

import torch

from nano_batch.cuda.launch import kernel
from nano_batch.cuda.program import Macro
from nano_batch.cuda.vectors import ACCESS_BYTES, vector_of
from nano_batch.engine.cuda import SOURCES
from nano_batch.errors import InvalidArgumentError

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
    spans = [(0, to.numel())] if parts is None else [(part.start, part.stop) for part in parts]
    if len(spans) > MOST_PARTS:
        raise InvalidArgumentError(f"{len(spans)} parts are copied at once; most is {MOST_PARTS}")
    item = to.element_size()
    to, source = to.view(-1).view(torch.float32), source.view(-1).view(torch.float32)
    words = [(start * item // WORD_BYTES, end * item // WORD_BYTES) for start, end in spans]
    vector = vector_of(reduce(or_, chain(*words), 0), ACCESS_BYTES // WORD_BYTES, [to, source])
    given, count = Parts(), 0
    for number, (start, end) in enumerate(words + [(0, 0)] * (MOST_PARTS - len(words))):
        given.apart[number] = start // vector - count
        count += (end - start) // vector
        given.until[number] = count
    if count:
        run = kernel(SOURCES / "pinned.cu", copy_defines(vector), "copy_pinned", device)
        run.launch((-(-count // THREADS), 1, 1), THREADS, 0, (source, to, given))


def copy_defines(vector: int) -> dict[str, Macro]:
    """The source's macros."""
    return {"VEC": vector, "THREADS": THREADS, "PARTS": MOST_PARTS}
