"""Descriptions of matrices for the engine that copies tiles of them into shared memory (`hopper.cuh`)."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any

import torch

from nano_batch.errors import KernelLaunchError

PANEL = 64
"""Columns of 16-bit elements: 128 bytes, the widest row that is swizzled."""
PANEL_ALIGNMENT = 1024
"""Of panels in shared memory."""
_KEPT = 4096
_BYTES = ctypes.sizeof(ctypes.c_uint64) * 16
_ALIGNMENT = 64
_FLOAT16, _BFLOAT16 = 6, 9  # CU_TENSOR_MAP_DATA_TYPE_...
_SWIZZLE_128B, _PROMOTE_128B = 3, 2  # CU_TENSOR_MAP_SWIZZLE_..., CU_TENSOR_MAP_L2_PROMOTION_L2_...


class TensorMap(ctypes.Structure):
    """A kernel's parameter `TensorMap`."""

    _fields_ = (("words", ctypes.c_uint64 * 16),)


def tensor_map(matrix: torch.Tensor, rows: int, panels: int, *, halves: bool = False) -> TensorMap:
    """Describe a matrix [n, k] in tiles of `rows` rows and `panels` times `PANEL` columns, panel after panel.

    Args:
        matrix: float16 or bfloat16 on CUDA; elements of a row are contiguous, rows begin at multiples of 16
            bytes, k is a multiple of `PANEL`.
        rows: at most 256; what lies past the last row or column is read as zero.
        halves: a tile's rows are half of them from the first half of the matrix, half from the second.

    Raises:
        KernelLaunchError: the driver refuses.
    """
    n, k = matrix.shape
    element = _BFLOAT16 if matrix.dtype == torch.bfloat16 else _FLOAT16
    parts = 1 + halves
    place = matrix.data_ptr(), matrix.stride(0) * matrix.itemsize
    return _encoded(*place, n // parts, k // PANEL, parts, rows // parts, panels, element)


@lru_cache(_KEPT)
def _encoded(
    address: int, row_bytes: int, n: int, all_panels: int, parts: int, rows: int, panels: int, element: int
) -> TensorMap:
    # Not by cuda-bindings, whose own structure need not lie at a multiple of 64, as the driver wants it.
    buffer = ctypes.create_string_buffer(_BYTES + _ALIGNMENT)
    place = -(-ctypes.addressof(buffer) // _ALIGNMENT) * _ALIGNMENT
    sizes = (ctypes.c_uint64 * 4)(PANEL, n, parts, all_panels)
    strides = (ctypes.c_uint64 * 3)(row_bytes, n * row_bytes, PANEL * 2)
    tile, steps = (ctypes.c_uint32 * 4)(PANEL, rows, parts, panels), (ctypes.c_uint32 * 4)(1, 1, 1, 1)
    status = _encode()(
        ctypes.c_void_p(place), element, 4, ctypes.c_void_p(address), sizes, strides, tile, steps,
        0, _SWIZZLE_128B, _PROMOTE_128B, 0,
    )  # fmt: skip
    if status:
        shape = f"[{parts}, {n}, {all_panels * PANEL}], rows of {row_bytes} bytes at {address:#x}"
        raise KernelLaunchError(f"the driver does not describe a matrix {shape}: CUresult {status}")
    return TensorMap.from_buffer_copy(ctypes.string_at(place, _BYTES))


@cache
def _encode() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    except (OSError, AttributeError) as error:
        raise KernelLaunchError(f"the driver describes no matrices: {error}") from error
