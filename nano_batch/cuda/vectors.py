"""The vectors in which a kernel moves the elements of tensors (`elements.cuh`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

ACCESS_BYTES = 16
"""Of the widest access."""
SIXTEEN_BITS = (torch.float16, torch.bfloat16)
KERNEL_DTYPES = (*SIXTEEN_BITS, torch.float32)
"""That kernels of dense numbers take."""
NAMES = {
    torch.float16: "half",
    torch.bfloat16: "bf16",
    torch.float32: "float",
    torch.float64: "double",
    torch.float8_e4m3fn: "fp8",
}
"""The types of elements, as the kernels name them."""


def vector_of(elements: int, most: int, tensors: Sequence[torch.Tensor]) -> int:
    """Elements of the widest vector, at most `most`, that fits all rows, strides and addresses."""
    bits = elements
    for tensor in tensors:
        bits |= tensor.data_ptr() // tensor.element_size()
        for stride in tensor.stride()[:-1]:
            bits |= stride
    return width_of(most, bits)


def byte_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Bytes between neighbours in each dimension but the last."""
    return tuple(stride * tensor.itemsize for stride in tensor.stride()[:-1])


def begin_at(multiple: int, tensor: torch.Tensor) -> bool:
    """Whether all its rows begin at multiples of so many bytes."""
    return all(place % multiple == 0 for place in (tensor.data_ptr(), *byte_strides(tensor)))


def in_pairs(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy, of which each two elements are one access."""
    lies_so = tensor.stride(-1) == 1 and begin_at(2 * tensor.itemsize, tensor)
    return tensor if lies_so else tensor.clone(memory_format=torch.contiguous_format)


def up_to(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def width_of(most: int, bits: int) -> int:
    """The largest power of two, at most `most`, that divides all numbers of which `bits` is the union."""
    lowest = bits & -bits
    return min(most, lowest) if lowest else most
