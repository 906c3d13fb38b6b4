"""The copy between host and device as a kernel, on checked tensors (`pinned.cu`)."""

from __future__ import annotations

from ctypes import c_int64

import torch

from nano_batch.cuda.launch import kernel
from nano_batch.cuda.vectors import ACCESS_BYTES, vector_of
from nano_batch.engine.cuda import SOURCES

THREADS = 256
WORD_BYTES = 4


def copy_pinned(to: torch.Tensor, source: torch.Tensor, device: torch.device) -> None:
    """See `pinned.copy_pinned`; both contiguous, of as many bytes, a multiple of `WORD_BYTES`."""
    to, source = to.view(-1).view(torch.float32), source.view(-1).view(torch.float32)
    if words := len(to):
        vector = vector_of(words, ACCESS_BYTES // WORD_BYTES, [to, source])
        vectors = words // vector
        run = kernel(SOURCES / "pinned.cu", {"VEC": vector, "THREADS": THREADS}, "copy_pinned", device)
        run.launch((-(-vectors // THREADS), 1, 1), THREADS, 0, (source, to, c_int64(vectors)))
