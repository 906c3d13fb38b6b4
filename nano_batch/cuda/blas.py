"""Products of matrices by cuBLASLt, for each size by the fastest of the algorithms that it proposes.

PyTorch takes the first, which a heuristic has put there. Of gate and up of Mistral 7B on an H200 another is
4 % faster with 8,192 rows, 40 % with 448 (docs/notes/engine.md).
Source: NVIDIA, cuBLAS library, "Using the cuBLASLt API".
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from nano_batch.cuda.loud import say_once
from nano_batch.errors import KernelLaunchError

DTYPES = {torch.float16: 2, torch.bfloat16: 14}  # CUDA_R_...
STEPS = ((256, 16), (512, 32), (1024, 64), (2048, 128))
"""Up to so many rows, sizes so far apart have algorithms of their own, as the engine's graphs have sizes;"""
WIDEST_STEP = 2048
"""beyond that such."""
MOST_PROPOSALS = 16
WORKSPACE_BYTES = 32 * 2**20
TIMED = 3
"""Calls of each proposal, of which the shortest counts."""
FLUSHED_BYTES = 128 * 2**20
"""Written before each: what the second-level cache holds in a model's step is not this weight."""
QUEUED_CYCLES = 250_000
"""That the device waits before each, while the host asks for it."""
ALIGNMENT = 256
"""Bytes, of the first element: what the library takes for granted."""
_FLOAT32, _COMPUTE_FLOAT32 = 0, 68
_TRANSPOSED = 3  # CUBLASLT_MATMUL_DESC_TRANSA
_MOST_WORKSPACE = 1  # CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES


class Proposal(ctypes.Structure):
    """`cublasLtMatmulHeuristicResult_t`."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace_bytes", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


Key = tuple[torch.device, torch.dtype, int, int, int]
_fastest: dict[Key, Proposal | None] = {}


def size_class(rows: int) -> int:
    """The largest number of rows that is computed as `rows` are."""
    step = next((step for most, step in STEPS if rows <= most), WIDEST_STEP)
    return -(-rows // step) * step


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x weightᵀ, [rows, n], as `torch.nn.functional.linear` does.

    The first call of a size times the proposals, for which the host waits; it is PyTorch's where a CUDA graph
    is being captured.

    Args:
        x: [rows, k] float16 or bfloat16 on a CUDA device; elements of a row are contiguous.
        weight: [n, k], likewise.
    """
    if not len(x) or x.data_ptr() % ALIGNMENT or weight.data_ptr() % ALIGNMENT or _library() is None:
        return F.linear(x, weight)
    size = size_class(len(x))
    key: Key = (x.device, x.dtype, size, *weight.shape)
    if key not in _fastest:
        if torch.cuda.is_current_stream_capturing():
            return F.linear(x, weight)
        # Of the largest size: tiles with room for it have room for the others.
        largest = torch.randn(size, x.shape[1], dtype=x.dtype, device=x.device)
        _fastest[key] = _find(largest, weight)
    chosen = _fastest[key]
    if chosen is not None:
        output = x.new_empty(len(x), len(weight))
        with _layouts(x, weight) as layouts:
            if _run(chosen, layouts, x, weight, output):
                return output
    return F.linear(x, weight)


def _find(x: torch.Tensor, weight: torch.Tensor) -> Proposal | None:
    """The proposal that takes least time; None where the library has none."""
    output = x.new_empty(len(x), len(weight))
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=x.device)
    with torch.cuda.device(x.device), _layouts(x, weight) as layouts:
        runs = [
            (proposal, [_timed(proposal, layouts, x, weight, output, flushed) for _ in range(TIMED)])
            for proposal in _proposals(layouts)
        ]
        torch.cuda.synchronize()
    times = {
        number: min(start.elapsed_time(end) for start, end in filter(None, spans))
        for number, (_, spans) in enumerate(runs)
        if any(spans)
    }
    return runs[min(times, key=times.__getitem__)][0] if times else None


def _timed(
    proposal: Proposal,
    layouts: Sequence[Any],
    x: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    flushed: torch.Tensor,
) -> tuple[torch.cuda.Event, torch.cuda.Event] | None:
    """The events around a call; None where the library does not take it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(QUEUED_CYCLES)  # type: ignore[no-untyped-call]
    flushed.zero_()
    start.record()
    taken = _run(proposal, layouts, x, weight, output)
    end.record()
    return (start, end) if taken else None


def _run(
    proposal: Proposal, layouts: Sequence[Any], x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor
) -> bool:
    """Start a product on the current stream; False where the library does not take it."""
    library, handle, product = _opened(x.device)
    weights, rows, products = layouts
    factor, none = ctypes.c_float(1), ctypes.c_float(0)
    workspace = x.new_empty(proposal.workspace_bytes, dtype=torch.uint8)
    stream = torch._C._cuda_getCurrentRawStream(x.device.index)
    a, b, c = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (weight, x, output))
    with torch.cuda.device(x.device):
        status = library.cublasLtMatmul(
            handle, product, ctypes.byref(factor), a, weights, b, rows, ctypes.byref(none),
            c, products, c, products, ctypes.byref(proposal.algorithm),
            ctypes.c_void_p(workspace.data_ptr()), ctypes.c_size_t(proposal.workspace_bytes),
            ctypes.c_void_p(stream),
        )  # fmt: skip
    return bool(status == 0)


def _proposals(layouts: Sequence[Any]) -> list[Proposal]:
    library, handle, product = _opened(torch.device("cuda", torch.cuda.current_device()))
    weights, rows, products = layouts
    preference, found = ctypes.c_void_p(), ctypes.c_int()
    proposals, most = (Proposal * MOST_PROPOSALS)(), ctypes.c_uint64(WORKSPACE_BYTES)
    _checked(library.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)))
    try:
        _checked(library.cublasLtMatmulPreferenceSetAttribute(
            preference, _MOST_WORKSPACE, ctypes.byref(most), ctypes.c_size_t(8)
        ))  # fmt: skip
        status = library.cublasLtMatmulAlgoGetHeuristic(
            handle, product, weights, rows, products, products, preference, MOST_PROPOSALS, proposals,
            ctypes.byref(found),
        )  # fmt: skip
    finally:
        library.cublasLtMatmulPreferenceDestroy(preference)
    return [] if status else [each for each in proposals[: found.value] if each.status == 0]


@contextmanager
def _layouts(x: torch.Tensor, weight: torch.Tensor) -> Iterator[list[Any]]:
    """Of the weight, of x and of the product: to the library, whose matrices lie by columns, transposes."""
    library = _library()
    assert library is not None
    (rows, k), n = x.shape, len(weight)
    made = []
    try:
        for columns, length, apart in ((n, k, weight.stride(0)), (rows, k, x.stride(0)), (rows, n, n)):
            layout = ctypes.c_void_p()
            _checked(library.cublasLtMatrixLayoutCreate(
                ctypes.byref(layout), DTYPES[x.dtype], ctypes.c_uint64(length), ctypes.c_uint64(columns),
                ctypes.c_int64(apart),
            ))  # fmt: skip
            made.append(layout)
        yield made
    finally:
        for layout in made:
            library.cublasLtMatrixLayoutDestroy(layout)


@cache
def _opened(device: torch.device) -> tuple[Any, Any, Any]:
    """The library, its handle on a device, and what it calls a product whose first factor is transposed."""
    library = _library()
    assert library is not None
    handle, product, transposed = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int32(1)
    with torch.cuda.device(device):
        _checked(library.cublasLtCreate(ctypes.byref(handle)))
    _checked(library.cublasLtMatmulDescCreate(ctypes.byref(product), _COMPUTE_FLOAT32, _FLOAT32))
    _checked(library.cublasLtMatmulDescSetAttribute(
        product, _TRANSPOSED, ctypes.byref(transposed), ctypes.c_size_t(4)
    ))  # fmt: skip
    return library, handle, product


@cache
def _library() -> Any:
    """The library that PyTorch has loaded; None where it is not found under its name."""
    version = torch.version.cuda
    if version is None:
        return None
    try:
        return ctypes.CDLL(f"libcublasLt.so.{version.split('.')[0]}")
    except OSError as error:
        say_once(f"large products take PyTorch's own choice of algorithm: {error}", warn=True)
        return None


def _checked(status: int) -> None:
    if status:
        raise KernelLaunchError(f"cuBLASLt says {status}")
