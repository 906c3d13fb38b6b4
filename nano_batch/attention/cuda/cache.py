"""The cache kernels on checked tensors: how many threads, which width, which program."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64

import torch

from nano_batch.attention.cuda import SOURCES
from nano_batch.attention.rope import Rope
from nano_batch.cuda.launch import kernel
from nano_batch.cuda.vectors import ACCESS_BYTES, NAMES, vector_of, width_of
from nano_batch.errors import InvalidArgumentError

THREADS = 128
TOKENS = 4
"""Tokens whose vectors a thread holds at once; half of them when it holds two vectors of each to rotate."""
SLICE_BYTES = 16 * 1024
"""What a thread block of `copy_blocks` moves, where the pairs are few."""
MOST_PAIRS = 6_000
"""Pairs of which one access each fits into the shared memory of a block on every supported device."""


class TokenStrides(ctypes.Structure):
    """The strides, in elements, of [tokens, heads, head_dim]."""

    _fields_ = (("token", c_int64), ("head", c_int64))

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TokenStrides:
        """The strides of such a tensor."""
        return cls(*tensor.stride()[:2])


class SlotStrides(ctypes.Structure):
    """The strides, in elements, of [num_blocks, block_size, num_kv_heads, head_dim]."""

    _fields_ = (("block", c_int64), ("offset", c_int64), ("head", c_int64))

    @classmethod
    def of(cls, cache: torch.Tensor) -> SlotStrides:
        """The strides of such a tensor."""
        return cls(*cache.stride()[:3])


class Sizes(ctypes.Structure):
    """How many there are of each."""

    _fields_ = (
        ("tokens", c_int32), ("kv_heads", c_int32), ("query_tokens", c_int32), ("query_heads", c_int32),
        ("lanes", c_int32), ("block_size", c_int32), ("num_slots", c_int64),
    )  # fmt: skip


class Planes(ctypes.Structure):
    """The strides of a cache's layers, of keys and values in a layer, and of blocks, in accesses."""

    _fields_ = (("layer", c_int64), ("kind", c_int64), ("block", c_int64))


def write_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    rope: Rope | None,
    query: torch.Tensor | None,
) -> None:
    """See `cache_ops.write_kv`; every last dimension is contiguous."""
    move = _Move(keys, values, key_cache, value_cache, rope=rope, query=query)
    rotation = (None, None, None) if rope is None else (rope.positions, rope.cosines, rope.sines)
    query_strides = TokenStrides() if query is None else TokenStrides.of(query)
    move.launch("write_kv", slots, key_scale, value_scale, *rotation, query, query_strides)


def gather_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
) -> None:
    """Fill keys, values [tokens, num_kv_heads, head_dim] from their slots [tokens] int64, times the scales.

    A slot outside the cache gives zeros.
    """
    _Move(keys, values, key_cache, value_cache).launch("gather_kv", slots, key_scale, value_scale)


class _Move:
    """A transfer between tokens and slots: the widest vectors that all strides and addresses allow."""

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        *,
        rope: Rope | None = None,
        query: torch.Tensor | None = None,
    ) -> None:
        tokens, kv_heads, head_dim = keys.shape
        parts = 1 if rope is None else 2
        moved = [keys, values, key_cache, value_cache]
        moved += [] if query is None else [query]
        moved += [] if rope is None else [rope.cosines, rope.sines]
        vector = vector_of(head_dim // parts, ACCESS_BYTES // keys.element_size(), moved)
        per_thread = TOKENS // parts
        query_tokens, query_heads = (0, 0) if query is None else query.shape[:2]
        lanes = head_dim // (vector * parts)
        num_blocks, block_size = key_cache.shape[:2]
        slots = num_blocks * block_size
        self.sizes = Sizes(tokens, kv_heads, query_tokens, query_heads, lanes, block_size, slots)
        of_keys = -(-tokens // per_thread) * kv_heads * lanes
        self.threads = of_keys + -(-query_tokens // per_thread) * query_heads * lanes
        if self.threads >= 2**32:
            raise InvalidArgumentError(f"{tokens} tokens at once take {self.threads} threads of 2^32 - 1")
        self.defines: dict[str, int | str] = {
            "NEW": NAMES[keys.dtype], "STORED": NAMES[key_cache.dtype], "VEC": vector, "ROPE": parts - 1,
            "TOKENS": per_thread, "THREADS": THREADS,
        }  # fmt: skip
        self.device = keys.device
        self.args = (
            keys, TokenStrides.of(keys), values, TokenStrides.of(values),
            key_cache, SlotStrides.of(key_cache), value_cache, SlotStrides.of(value_cache),
        )  # fmt: skip

    def launch(self, entry: str, *args: torch.Tensor | TokenStrides | None) -> None:
        """Start the kernel, unless there is nothing to move."""
        if self.threads:
            grid = (-(-self.threads // THREADS), 1, 1)
            kernel(SOURCES / "cache.cu", self.defines, entry, self.device).launch(
                grid, THREADS, 0, (*self.args, *args, self.sizes), pdl=True
            )


def copy_blocks(cache: torch.Tensor, pairs: torch.Tensor) -> None:
    """See `cache_ops.copy_blocks`; every block is contiguous, and `pairs` has at most `MOST_PAIRS`."""
    layers, kinds, num_blocks = cache.shape[:3]
    block_bytes = cache[0, 0, 0].numel() * cache.element_size()
    strides = [stride * cache.element_size() for stride in cache.stride()[:3]]
    unit = width_of(ACCESS_BYTES, block_bytes | cache.data_ptr() | strides[0] | strides[1] | strides[2])
    units, count = block_bytes // unit, len(pairs)
    if count == 0 or layers * kinds == 0:
        return
    width = min(units, max(1, SLICE_BYTES // (count * unit)))
    kernel(SOURCES / "copy_blocks.cu", {"UNIT": unit}, "copy_blocks", cache.device).launch(
        (-(-units // width), kinds, layers), 256, count * width * unit,
        (cache, Planes(*(stride // unit for stride in strides)), pairs, c_int32(count), c_int64(num_blocks),
         c_int32(units), c_int32(width)),
    )  # fmt: skip
