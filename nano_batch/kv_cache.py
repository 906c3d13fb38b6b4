"""The paged KV cache: one allocation for all layers, addressed by block and slot.

The cache owns memory and moves it; which block belongs to whom is the scheduler's business. Paging is
as in Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nano_batch._choices import check_choice
from nano_batch.attention import cache_ops
from nano_batch.attention.checks import FLOATS, checked_layer_scales, usable_device
from nano_batch.attention.fp8 import QUANTISED, as_bits
from nano_batch.attention.new_tokens import NewTokens
from nano_batch.attention.rope import Rope
from nano_batch.block_pairs import BlockPairs, checked_pairs, checked_slots, runs
from nano_batch.display import html_table, readable_bytes
from nano_batch.errors import (
    CacheAllocationError,
    DtypeError,
    InvalidArgumentError,
    ShapeError,
)

__all__ = ["KVCache", "Layout", "MemoryUsage"]

Layout = Literal["NHD", "HND"]
CACHE_DTYPES = (*FLOATS, QUANTISED)

INT32_MAX = 2**31 - 1
STAGING_BYTES = 64 * 2**20
"""Most device bytes that one swap stages at a time."""


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes of a KV cache, keys and values of all layers together; `total_bytes` leaves the host pool out."""

    total_bytes: int
    per_token_bytes: int
    per_block_bytes: int
    swap_bytes: int

    def _repr_html_(self) -> str:
        return html_table("KV cache memory", ["what", "bytes"], [
            ("total", readable_bytes(self.total_bytes)),
            ("per token", readable_bytes(self.per_token_bytes)),
            ("per block", readable_bytes(self.per_block_bytes)),
            ("host pool", readable_bytes(self.swap_bytes)),
        ])  # fmt: skip


class KVCache:
    """Keys and values of every layer in fixed-size blocks.

    Args:
        num_blocks: device blocks, 1 to 2^31 - 1 (block ids are int32).
        block_size: token slots in a block, at least 1.
        num_kv_heads: key/value heads of a layer.
        head_dim: elements of one head.
        dtype: `torch.float16`, `bfloat16`, `float32`, `float64`, or `float8_e4m3fn`, which holds x / scale.
        device: where the blocks live.
        num_layers: layers that share the allocation and the block ids.
        layout: `"NHD"` stores a block as [block_size, num_kv_heads, head_dim], `"HND"` as [num_kv_heads,
            block_size, head_dim]. The views have the same logical shape; only their strides differ.
        num_swap_blocks: blocks of the host pool that `swap_out` fills (pinned when the device is CUDA).
        key_scale, value_scale: for `float8_e4m3fn` only: what stored keys and values are multiplied by; a
            number, or float32 [num_kv_heads] or [num_layers, num_kv_heads]. None means 1.

    Raises:
        InvalidArgumentError, DtypeError, DeviceError, UnknownOptionError: an argument is out of range.
        CacheAllocationError: the memory is not there; the message says how much was asked for.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        num_layers: int = 1,
        layout: Layout = "NHD",
        num_swap_blocks: int = 0,
        key_scale: float | torch.Tensor | None = None,
        value_scale: float | torch.Tensor | None = None,
    ) -> None:
        """Allocate all blocks, zeroed."""
        self.num_blocks = _size("num_blocks", num_blocks)
        self.block_size = _size("block_size", block_size)
        self.num_kv_heads = _size("num_kv_heads", num_kv_heads)
        self.head_dim = _size("head_dim", head_dim)
        self.num_layers = _size("num_layers", num_layers)
        self.num_swap_blocks = _size("num_swap_blocks", num_swap_blocks, least=0)
        check_choice("layout", layout, Layout)
        self.layout = layout
        self.dtype = dtype
        self.device = usable_device(dtype, device, CACHE_DTYPES)
        heads = dtype, self.num_layers, self.num_kv_heads
        scales = (("key_scale", key_scale), ("value_scale", value_scale))
        self._scales = [checked_layer_scales(name, given, *heads, self.device) for name, given in scales]
        # Host blocks stand first in their pool, so that one block is one contiguous transfer.
        head, block = (self.num_layers, 2), self._block_shape()
        self._blocks = self._allocate((*head, self.num_blocks, *block), self.device)
        self._host_blocks = self._allocate((self.num_swap_blocks, *head, *block), torch.device("cpu"))
        views = self._blocks.transpose(3, 4) if layout == "HND" else self._blocks
        self._layers = [(keys, values) for keys, values in views]

    def _block_shape(self) -> tuple[int, int, int]:
        if self.layout == "NHD":
            return (self.block_size, self.num_kv_heads, self.head_dim)
        return (self.num_kv_heads, self.block_size, self.head_dim)

    def _allocate(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        pinned = device != self.device and self.device.type == "cuda"
        try:
            return torch.zeros(shape, dtype=self.dtype, device=device, pin_memory=pinned)
        except (RuntimeError, OverflowError) as error:
            asked = self.dtype.itemsize
            for size in shape:
                asked *= size
            place = "host pool" if device != self.device else "KV cache"
            raise CacheAllocationError(
                f"a {place} of {readable_bytes(asked)} does not fit on {device}"
            ) from error

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views (keys, values) of one layer, each [num_blocks, block_size, num_kv_heads, head_dim].

        The last dimension is contiguous in both layouts. Raises `InvalidArgumentError` for a layer it lacks.
        """
        index = _size("layer", index, least=0, most=self.num_layers - 1)
        return self._layers[index]

    def scales(self, layer: int = 0) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return (key_scale, value_scale) of a layer, each [num_kv_heads] float32; None unless quantised.

        Raises `InvalidArgumentError` for a layer it lacks.
        """
        layer = _size("layer", layer, least=0, most=self.num_layers - 1)
        keys, values = (None if scales is None else scales[layer] for scales in self._scales)
        return keys, values

    def get_kv_cache(self, layer: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the views (keys, values) of a layer, as `layer` does."""
        return self.layer(layer)

    def write_kv(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        slot_mappings: torch.Tensor | NDArray[np.int64] | Sequence[int],
        layer: int = 0,
        *,
        rope: Rope | None = None,
        query: torch.Tensor | None = None,
        validate: bool = True,
    ) -> None:
        """Store the keys and values of new tokens in their slots.

        Args:
            keys, values: [tokens, num_kv_heads, head_dim], any strides, on the cache's device, in its dtype;
                for a `float8_e4m3fn` cache in any dtype that the others have.
            slot_mappings: [tokens] int64, slot = block * block_size + offset; -1 writes nothing. Slots are
                checked on the host: given as a list, array or CPU tensor, no device has to be waited for.
            layer: the layer written.
            rope: rotate the keys first, in float32.
            query: [at most tokens, num_heads, head_dim] like keys, of the first tokens, rotated in place by
                `rope`.
            validate: False leaves slots on a device unread, so that nothing waits; -1 and whatever lies
                outside the cache then write nothing.

        Raises:
            ShapeError, DtypeError, DeviceError, SlotRangeError, InvalidArgumentError: nothing is written.
        """
        cached_keys, cached_values = self.layer(layer)
        slots = self._slots(slot_mappings, validate)
        new = NewTokens(len(slots), self.num_kv_heads, self.head_dim, self.dtype, self.device)
        new.check(keys, values)
        new.check_rope(rope, query, keys.dtype)
        key_scale, value_scale = self.scales(layer)
        turns = (None, None, None) if rope is None else (rope.positions, rope.cosines, rope.sines)
        positions, cosines, sines = turns
        cache_ops.write_kv(
            keys, values, cached_keys, cached_values, slots.to(self.device), key_scale, value_scale,
            positions, cosines, sines, query,
        )  # fmt: skip

    def _slots(self, slots: torch.Tensor | NDArray[np.int64] | Sequence[int], validate: bool) -> torch.Tensor:
        if isinstance(slots, torch.Tensor) and slots.device == self.device and not validate:
            if slots.dtype != torch.int64:
                raise DtypeError(f"slot_mappings is {slots.dtype}; slots are int64")
            if slots.dim() != 1:
                raise ShapeError(f"slot_mappings has shape {list(slots.shape)}; it needs [tokens]")
            return slots
        return checked_slots(slots, self.num_blocks * self.block_size)

    def copy_blocks(self, pairs: BlockPairs) -> None:
        """Copy device blocks (source, destination) in all layers, as if every source were read first.

        `pairs` is a sequence of pairs or an integer array [copies, 2]. Raises `ShapeError`, `DtypeError`,
        `BlockRangeError` or `BlockConflictError` (one destination twice) before anything is copied.
        """
        sources, targets = checked_pairs(pairs, ("block", self.num_blocks), ("block", self.num_blocks))
        if len(sources):
            cache_ops.copy_blocks(self._blocks, torch.stack([sources, targets], 1).to(self.device))

    def swap_out(self, pairs: BlockPairs) -> None:
        """Copy (device block, host block) pairs to the host pool, all layers. Errors as in `copy_blocks`."""
        device_blocks, host_blocks = checked_pairs(
            pairs, ("block", self.num_blocks), ("host block", self.num_swap_blocks)
        )
        for part in self._staged(len(device_blocks)):
            index = device_blocks[part].to(self.device)
            staging = as_bits(self._blocks).index_select(2, index).movedim(2, 0).contiguous()
            for host, staged, length in runs(host_blocks[part]):
                as_bits(self._host_blocks)[host : host + length].copy_(
                    staging[staged : staged + length], non_blocking=True
                )

    def swap_in(self, pairs: BlockPairs) -> None:
        """Copy (host block, device block) pairs back, all layers. Errors as in `copy_blocks`."""
        host_blocks, device_blocks = checked_pairs(
            pairs, ("host block", self.num_swap_blocks), ("block", self.num_blocks)
        )
        for part in self._staged(len(device_blocks)):
            chosen = host_blocks[part]
            bits = as_bits(self._host_blocks)
            staging = torch.empty((len(chosen), *bits.shape[1:]), dtype=bits.dtype, device=self.device)
            for host, staged, length in runs(chosen):
                staging[staged : staged + length].copy_(bits[host : host + length], non_blocking=True)
            as_bits(self._blocks).index_copy_(2, device_blocks[part].to(self.device), staging.movedim(0, 2))

    def move(self, swap_out: BlockPairs, swap_in: BlockPairs, copies: BlockPairs) -> None:
        """Make a step's moves: `swap_out`, `swap_in`, then `copy_blocks`, each with its pairs and its errors.

        The order matters: what is swapped in may land where something was swapped out.
        """
        moves = (self.swap_out, swap_out), (self.swap_in, swap_in), (self.copy_blocks, copies)
        for move, pairs in moves:
            if len(pairs):
                move(pairs)

    def _staged(self, count: int) -> list[slice]:
        size = max(1, STAGING_BYTES // self.get_memory_usage().per_block_bytes)
        return [slice(start, start + size) for start in range(0, count, size)]

    def get_memory_usage(self) -> MemoryUsage:
        """Return the bytes in total, per token and per block: keys and values of all layers."""
        token = 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize
        block = token * self.block_size
        return MemoryUsage(block * self.num_blocks, token, block, block * self.num_swap_blocks)

    def __repr__(self) -> str:
        """Return the sizes, in at most three lines."""
        return (
            f"KVCache(num_blocks={self.num_blocks}, block_size={self.block_size}, "
            f"num_kv_heads={self.num_kv_heads}, head_dim={self.head_dim},\n        "
            f"dtype={self.dtype}, device='{self.device}', num_layers={self.num_layers}, "
            f"layout='{self.layout}', num_swap_blocks={self.num_swap_blocks})"
        )

    def _repr_html_(self) -> str:
        usage = self.get_memory_usage()
        return html_table("KV cache", ["what", "value"], [
            ("blocks", f"{self.num_blocks:,} of {self.block_size} tokens"),
            ("layers", self.num_layers),
            ("heads", f"{self.num_kv_heads} of {self.head_dim} {str(self.dtype).removeprefix('torch.')}"),
            ("layout, device", f"{self.layout}, {self.device}"),
            ("memory", readable_bytes(usage.total_bytes)),
            ("memory of a block", readable_bytes(usage.per_block_bytes)),
            ("host pool", f"{self.num_swap_blocks:,} blocks"),
        ])  # fmt: skip


def _size(name: str, value: int, least: int = 1, most: int = INT32_MAX) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise InvalidArgumentError(f"{name}={value!r} is not a whole number from {least} to {most}")
    return int(value)
