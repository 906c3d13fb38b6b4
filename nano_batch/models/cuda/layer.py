"""The kernels of a decoder layer on checked tensors: how many threads, which width, which program."""

from __future__ import annotations

from ctypes import c_float, c_int32, c_int64, c_uint32

import torch

from nano_batch.cuda.launch import kernel
from nano_batch.cuda.program import Macro
from nano_batch.cuda.vectors import ACCESS_BYTES, NAMES, vector_of
from nano_batch.errors import InvalidArgumentError
from nano_batch.models.cuda import SOURCES

WARP = 32
MOST_THREADS = 1024
MOST_KEPT = 2
"""Vectors that a thread of `rms_norm` keeps, 16,384 elements of 16 bits; longer rows are read twice."""
SILU_THREADS, SILU_VECTORS = 128, 2
LINEAR_THREADS, LINEAR_ROWS = 256, 16
"""Threads of a block of `few_rows`, and the weight's rows that it takes."""
FEW_ROWS = 8
"""Rows of x that `few_rows` takes."""
TAKING_THREADS = 256
"""Of a block of `take_rows`."""


def rms_norm(
    hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """See `ops.add_rms_norm` and, without a residual, `ops.rms_norm`; last dimensions are contiguous.

    With a residual hidden may be [parts, tokens, size], see `ops.add_parts_rms_norm`.
    """
    parts = hidden if hidden.dim() == 3 else hidden.unsqueeze(0)
    output = weight.new_empty(parts.shape[1:])
    _launch_norm(parts, None, residual, weight, output, eps)
    return output


def embed_rms_norm(
    tokens: torch.Tensor, embedding: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `ops.embed_rms_norm`; last dimensions are contiguous."""
    rows = weight.new_empty(len(tokens), len(weight))
    output = torch.empty_like(rows)
    _launch_norm(embedding.unsqueeze(0), tokens.contiguous(), rows, weight, output, eps)
    return rows, output


def _launch_norm(
    parts: torch.Tensor,
    tokens: torch.Tensor | None,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    output: torch.Tensor,
    eps: float,
) -> None:
    """`rms_norm.cu` of parts [parts, rows, size]; with tokens [tokens] of these rows, which residual gets."""
    (count, rows, size), embeds = parts.shape, tokens is not None
    moved = [parts, weight, output] + ([] if residual is None else [residual])
    vector = vector_of(size, ACCESS_BYTES // weight.element_size(), moved)
    threads, vectors = row_threads(size // vector)
    defines: dict[str, Macro] = {
        "ELEMENT": NAMES[weight.dtype], "VEC": vector, "RESIDUAL": int(residual is not None and not embeds),
        "THREADS": threads, "VECTORS": vectors, "PARTS": count, "EMBEDS": int(embeds),
    }  # fmt: skip
    if len(output):
        strides = *parts.stride()[:2], 0 if residual is None else residual.stride(0)
        apart, stride, residual_stride = map(c_int64, strides)
        args = (parts, stride, apart, tokens, c_int32(rows), residual, residual_stride, weight, output,
                c_int32(size), c_float(eps))  # fmt: skip
        run = kernel(SOURCES / "rms_norm.cu", defines, "rms_norm", parts.device)
        run.launch((len(output), 1, 1), threads, 0, args, pdl=True)


def take_rows(ids: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `ops.take_rows`; last dimensions are contiguous."""
    taken = one.new_empty(len(ids), one.shape[1]), other.new_empty(len(ids), other.shape[1])
    sizes = one.shape[1], other.shape[1]
    vector = vector_of(sizes[0] | sizes[1], ACCESS_BYTES // one.element_size(), [one, other, *taken])
    defines: dict[str, Macro] = {"ELEMENT": NAMES[one.dtype], "VEC": vector, "THREADS": TAKING_THREADS}
    if len(ids):
        one_size, other_size = map(c_int32, sizes)
        args = (ids.contiguous(), c_int32(len(one)), one, c_int64(one.stride(0)), other,
                c_int64(other.stride(0)), *taken, one_size, other_size)  # fmt: skip
        pieces = -(-sum(sizes) // (vector * TAKING_THREADS))
        run = kernel(SOURCES / "take_rows.cu", defines, "take_rows", one.device)
        run.launch((len(ids), pieces, 1), TAKING_THREADS, 0, args, pdl=True)
    return taken


def row_threads(vectors: int) -> tuple[int, int]:
    """The threads that take a row of so many vectors, and what each keeps: 0 where they are many.

    The fewer threads, the more rows a multiprocessor has on their way.
    """
    if vectors > MOST_KEPT * MOST_THREADS:
        return MOST_THREADS, 0
    each = MOST_KEPT if vectors > WARP else 1
    return -(-vectors // (each * WARP)) * WARP, each


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See `ops.silu_mul`; the last dimension is contiguous."""
    tokens, size = len(gate_up), gate_up.shape[1] // 2
    output = gate_up.new_empty(tokens, size)
    vector = vector_of(size, ACCESS_BYTES // gate_up.element_size(), [gate_up, output])
    lanes, each = size // vector, SILU_THREADS * SILU_VECTORS
    if tokens * lanes > 2**32 - each:
        raise InvalidArgumentError(f"{tokens} tokens at once take {tokens * lanes} vectors of 2^32 - {each}")
    defines: dict[str, Macro] = {
        "ELEMENT": NAMES[gate_up.dtype], "VEC": vector, "THREADS": SILU_THREADS, "VECTORS": SILU_VECTORS,
    }  # fmt: skip
    if tokens:
        args = gate_up, c_int64(gate_up.stride(0)), output, c_uint32(lanes), c_uint32(tokens * lanes)
        run = kernel(SOURCES / "silu_mul.cu", defines, "silu_mul", gate_up.device)
        run.launch((-(-tokens * lanes // each), 1, 1), SILU_THREADS, 0, args, pdl=True)
    return output


def few_rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """See `ops.linear_few_rows`; at most `FEW_ROWS`, whose accesses of 16 bytes are aligned."""
    (rows, k), n = x.shape, len(weight)
    output = x.new_empty(rows, n)
    if rows:
        args = x, c_int64(x.stride(0)), weight, output, c_int32(rows), c_int32(n), c_int32(k)
        run = kernel(SOURCES / "few_rows.cu", {"ELEMENT": NAMES[x.dtype]}, "few_rows", x.device)
        run.launch((-(-n // LINEAR_ROWS), 1, 1), LINEAR_THREADS, 0, args, pdl=True)
    return output
