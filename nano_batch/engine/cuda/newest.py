"""The kernels of a step's begin and end on checked tensors (`newest.cu`)."""

from __future__ import annotations

from ctypes import c_int32, c_int64

import torch

from nano_batch.cuda.launch import kernel
from nano_batch.cuda.program import Macro
from nano_batch.cuda.vectors import ACCESS_BYTES, NAMES, vector_of
from nano_batch.engine.cuda import SOURCES

TOKEN_THREADS, LOGIT_THREADS = 128, 1024
"""Of a block: a token each, or together a row of logits."""


def begin_step(
    given: torch.Tensor, lanes: torch.Tensor, positions: torch.Tensor, newest: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `newest.begin_step`."""
    tokens, wide = (torch.empty_like(given, dtype=torch.int64) for _ in range(2))
    count = len(given)
    if count:
        defines: dict[str, Macro] = {"ELEMENT": "float", "VEC": 1, "THREADS": TOKEN_THREADS}
        args = given, lanes, positions, newest, c_int32(count), c_int32(len(newest) - 1), tokens, wide
        run = kernel(SOURCES / "newest.cu", defines, "begin_step", given.device)
        run.launch((-(-count // TOKEN_THREADS), 1, 1), TOKEN_THREADS, 0, args, pdl=True)
    return tokens, wide


def take_likeliest(logits: torch.Tensor, lanes: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
    """See `newest.take_likeliest`."""
    samples, vocab = logits.shape
    tokens = torch.empty(samples, dtype=torch.int64, device=logits.device)
    if samples:
        vector = vector_of(vocab, ACCESS_BYTES // logits.element_size(), [logits])
        defines: dict[str, Macro] = {"ELEMENT": NAMES[logits.dtype], "VEC": vector, "THREADS": LOGIT_THREADS}
        args = (logits, c_int64(logits.stride(0)), c_int32(vocab), lanes, c_int32(len(newest) - 1),
                newest, tokens)  # fmt: skip
        run = kernel(SOURCES / "newest.cu", defines, "take_likeliest", logits.device)
        run.launch((samples, 1, 1), LOGIT_THREADS, 0, args, pdl=True)
    return tokens
