"""Descriptions of tensors for the engine that copies tiles of them into shared memory (`hopper.cuh`)."""

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
_PANEL_BYTES = PANEL * 2
_KEPT = 4096
_BYTES = ctypes.sizeof(ctypes.c_uint64) * 16
_ALIGNMENT = 64
_TYPES = {torch.float16: 6, torch.bfloat16: 9}  # CU_TENSOR_MAP_DATA_TYPE_...
_SWIZZLE_128B, _PROMOTE_128B = 3, 2  # CU_TENSOR_MAP_SWIZZLE_..., CU_TENSOR_MAP_L2_PROMOTION_L2_...


class TensorMap(ctypes.Structure):
    """A kernel's parameter `TensorMap`."""

    _fields_ = (("words", ctypes.c_uint64 * 16),)


def panels_of(matrix: torch.Tensor) -> torch.Tensor:
    """A view of a matrix [n, k], k a multiple of `PANEL`, as panels [k / PANEL, n, PANEL]."""
    n, k = matrix.shape
    return matrix.view(n, k // PANEL, PANEL).transpose(0, 1)


def tensor_map(matrix: torch.Tensor, rows: int, panels: int, *, halves: bool = False) -> TensorMap:
    """Describe a matrix [n, k] in tiles of `rows` rows and `panels` times `PANEL` columns, panel after panel.

    Args:
        matrix: float16 or bfloat16 on CUDA; elements of a row are contiguous, rows begin at multiples of 16
            bytes, k is a multiple of `PANEL`. Or the same as panels (`panels_of`), wherever each lies.
        rows: at most 256; what lies past the last row or column is read as zero.
        halves: a tile's rows are half of them from the first half of the matrix, half from the second.

    Raises:
        KernelLaunchError: the driver refuses.
    """
    if matrix.dim() == 2:
        (n, k), panel_bytes = matrix.shape, _PANEL_BYTES
        count = k // PANEL
    else:
        count, n, _ = matrix.shape
        panel_bytes = matrix.stride(0) * matrix.itemsize
    parts, row_bytes = 1 + halves, matrix.stride(-2) * matrix.itemsize
    sizes, tile = (PANEL, n // parts, parts, count), (PANEL, rows // parts, parts, panels)
    strides = row_bytes, n // parts * row_bytes, panel_bytes
    return _encoded(matrix.data_ptr(), matrix.dtype, sizes, strides, tile)


def cache_map(cache: torch.Tensor, tokens: int) -> TensorMap:
    """Describe a cache [num_blocks, block_size, num_kv_heads, head_dim] in tiles of a head's `tokens` tokens.

    Args:
        cache: float16 or bfloat16 on CUDA; a token of a head is contiguous, begins at a multiple of 16 bytes
            and is whole panels: a tile is panel after panel.
        tokens: a divisor of block_size, at most 256.

    Raises:
        KernelLaunchError: the driver refuses.
    """
    blocks, block_size, heads, head_dim = cache.shape
    block, token, head = (stride * cache.itemsize for stride in cache.stride()[:3])
    panels = head_dim // PANEL
    sizes, strides = (PANEL, block_size, panels, heads, blocks), (token, _PANEL_BYTES, head, block)
    return _encoded(cache.data_ptr(), cache.dtype, sizes, strides, (PANEL, tokens, panels, 1, 1))


@lru_cache(_KEPT)
def _encoded(
    address: int, dtype: torch.dtype, sizes: tuple[int, ...], strides: tuple[int, ...], tile: tuple[int, ...]
) -> TensorMap:
    """Sizes and tile in elements, the innermost first, and of all but that strides in bytes."""
    # Not by cuda-bindings, whose own structure need not lie at a multiple of 64, as the driver wants it.
    buffer = ctypes.create_string_buffer(_BYTES + _ALIGNMENT)
    place = -(-ctypes.addressof(buffer) // _ALIGNMENT) * _ALIGNMENT
    rank = len(sizes)
    longs, ints = ctypes.c_uint64 * rank, ctypes.c_uint32 * rank
    status = _encode()(
        ctypes.c_void_p(place), _TYPES[dtype], rank, ctypes.c_void_p(address), longs(*sizes), longs(*strides),
        ints(*tile), ints(*[1] * rank), 0, _SWIZZLE_128B, _PROMOTE_128B, 0,
    )  # fmt: skip
    if status:
        shape = f"of sizes {sizes}, {strides} bytes apart, at {address:#x}"
        raise KernelLaunchError(f"the driver does not describe a tensor {shape}: CUresult {status}")
    return TensorMap.from_buffer_copy(ctypes.string_at(place, _BYTES))


@cache
def _encode() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    except (OSError, AttributeError) as error:
        raise KernelLaunchError(f"the driver describes no tensors: {error}") from error
