"""Slots and block pairs from a scheduler, checked on the host before any memory is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nano_batch.errors import BlockConflictError, BlockRangeError, DtypeError, ShapeError, SlotRangeError

BlockPairs = Sequence[tuple[int, int]] | NDArray[np.integer] | torch.Tensor
"""Pairs (source, destination): a sequence of them, or an integer array or tensor [pairs, 2]."""


def checked_slots(slots: torch.Tensor | NDArray[np.int64] | Sequence[int], num_slots: int) -> torch.Tensor:
    """Return the slots as a CPU int64 tensor [tokens].

    Raises `DtypeError` unless int64, `ShapeError` unless one-dimensional, and `SlotRangeError` for a slot
    that is neither -1 nor in [0, num_slots).
    """
    tensor = _host_integers("slot_mappings", slots)
    if tensor.dtype != torch.int64:
        raise DtypeError(f"slot_mappings is {tensor.dtype}; slots are int64")
    if tensor.dim() != 1:
        raise ShapeError(f"slot_mappings has shape {list(tensor.shape)}; it needs one dimension, [tokens]")
    outside = torch.nonzero((tensor < -1) | (tensor >= num_slots))
    if len(outside):
        token = int(outside[0])
        raise SlotRangeError(
            f"slot {int(tensor[token])} of token {token} is neither -1 nor in [0, {num_slots})"
        )
    return tensor


def checked_pairs(
    pairs: BlockPairs, source: tuple[str, int], target: tuple[str, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sources and destinations as CPU int64 tensors.

    `source` and `target` name the kind of block and the size of its pool. Raises `DtypeError`, `ShapeError`,
    `BlockRangeError`, and `BlockConflictError` when one destination stands twice.
    """
    tensor = _host_integers("pairs", pairs).to(torch.int64)
    if tensor.numel() == 0:
        tensor = tensor.reshape(0, 2)
    if tensor.dim() != 2 or tensor.shape[1] != 2:
        raise ShapeError(f"pairs has shape {list(tensor.shape)}; it needs [pairs, 2]: (source, destination)")
    for column, (kind, pool) in zip(tensor.unbind(1), (source, target), strict=True):
        outside = torch.nonzero((column < 0) | (column >= pool))
        if len(outside):
            pair = int(outside[0])
            raise BlockRangeError(f"{kind} {int(column[pair])} of pair {pair} is not in [0, {pool})")
    targets, counts = torch.unique(tensor[:, 1], return_counts=True)
    if len(targets) < len(tensor):
        twice = int(targets[counts > 1][0])
        raise BlockConflictError(f"{target[0]} {twice} is the destination of more than one pair")
    return tensor[:, 0].contiguous(), tensor[:, 1].contiguous()


def runs(blocks: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield (first block, its place in `blocks`, length) for each stretch of consecutive ids."""
    ids = blocks.tolist()
    start = 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or ids[place] != ids[place - 1] + 1:
            yield ids[start], start, place - start
            start = place


def _host_integers(name: str, values: object) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise ShapeError(f"{name} has rows of different lengths") from error
        if array.size == 0:
            array = array.astype(np.int64)
        elif isinstance(values, Sequence) and array.dtype.kind == "i":
            array = array.astype(np.int64)  # Python integers have no dtype; NumPy 1 on Windows picks int32
        if array.dtype.kind != "i":
            raise DtypeError(f"{name} is {array.dtype}; it needs signed integers")
        values = torch.from_numpy(np.ascontiguousarray(array))
    if values.dtype not in (torch.int32, torch.int64):
        raise DtypeError(f"{name} is {values.dtype}; it needs int32 or int64")
    return values.cpu()
