"""Moves within the KV cache as operators of PyTorch: the plain form on any device, or kernels.

As operators they say what they change, so that `torch.compile` traces them; a CUDA graph can hold them, too,
for on CUDA the kernels wait for no host. No parameter has a default: PyTorch 2.11 drops trailing defaults
from a call, and then looks by place for what the operator changes.
"""

from __future__ import annotations

import torch

from nano_batch import cpu
from nano_batch.attention.cuda import cache as on_cuda
from nano_batch.attention.fp8 import as_bits, dequantised, quantised
from nano_batch.attention.rope import Rope, rotated
from nano_batch.cuda.available import why_not
from nano_batch.cuda.loud import say_once
from nano_batch.cuda.operator import operator
from nano_batch.errors import DtypeError, InvalidArgumentError, NanoBatchError, ShapeError


def _nothing(*args: object, **kwargs: object) -> None:
    return None


@operator(_nothing, "key_cache", "value_cache", "query")
def write_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    positions: torch.Tensor | None,
    cosines: torch.Tensor | None,
    sines: torch.Tensor | None,
    query: torch.Tensor | None,
) -> None:
    """Store the keys and values of tokens in their slots. `KVCache.write_kv` checks what this does not.

    Args:
        keys, values: [tokens, num_kv_heads, head_dim], floating point.
        key_cache, value_cache: [num_blocks, block_size, num_kv_heads, head_dim] of the same dtype, or
            float8_e4m3fn, which holds x / scale rounded to nearest, saturating at 448. Any strides with a
            contiguous last dimension.
        slots: [tokens] int64, block * block_size + offset; one outside the cache, such as -1, writes nothing.
        key_scale, value_scale: [num_kv_heads] float32, for float8_e4m3fn.
        positions, cosines, sines: as in `Rope`, all or none: keys are rotated first, in float32.
        query: [at most tokens, num_heads, head_dim], of the first tokens, rotated in place; only with
            positions.
    """
    rope = None
    if positions is not None and cosines is not None and sines is not None:
        rope = Rope(positions, cosines, sines)
    write = _write_plainly
    if keys.is_cuda:
        reason = why_not(keys.device) or _write_refusal(keys, key_cache, rope, query)
        if reason is None:
            write = on_cuda.write_kv
        else:
            say_once(f"keys and values are written by plain PyTorch: {reason}", warn=True)
    elif _written_by_core(keys, values, key_cache, value_cache, slots, rope, query):
        return
    write(keys, values, key_cache, value_cache, slots, key_scale, value_scale, rope, query)


def _write_refusal(
    keys: torch.Tensor, cache: torch.Tensor, rope: Rope | None, query: torch.Tensor | None
) -> NanoBatchError | None:
    if keys.dtype == torch.float64 and (rope is not None or cache.dtype != keys.dtype):
        return DtypeError("the kernel neither rotates nor quantises float64")
    if query is not None and query.stride(-1) != 1:
        return ShapeError(f"the query has strides {query.stride()}; the kernel needs the last to be 1")
    return None


def _written_by_core(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
    rope: Rope | None,
    query: torch.Tensor | None,
) -> bool:
    """Write where the core's kernel can: float32 on a CPU, every head in a row."""
    tensors = [keys, values, key_cache, value_cache, *([] if query is None else [query])]
    if not cpu.takes(*tensors) or any(tensor.stride(-1) != 1 for tensor in tensors):
        return False
    turns = None if rope is None else (rope.positions, rope.cosines, rope.sines)
    cpu.write_kv(keys, values, key_cache, value_cache, slots.contiguous(), turns, query)
    return True


def _write_plainly(
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
    if rope is not None:  # all keys before any query: a position without a turn changes nothing
        keys = rotated(keys, rope.positions, rope.cosines, rope.sines)
        if query is not None:
            query.copy_(rotated(query, rope.positions[: len(query)], rope.cosines, rope.sines))
    num_blocks, block_size = key_cache.shape[:2]
    kept = torch.nonzero((slots >= 0) & (slots < num_blocks * block_size)).flatten()
    if len(kept) < len(slots):
        keys, values, slots = keys[kept], values[kept], slots[kept]
    where = (slots // block_size, slots % block_size)
    for new, cache, scale in ((keys, key_cache, key_scale), (values, value_cache, value_scale)):
        as_bits(cache).index_put_(
            where, as_bits(new.to(cache.dtype) if scale is None else quantised(new, scale))
        )


@operator(_nothing, "keys", "values")
def gather_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
) -> None:
    """Fill keys and values of tokens from their slots: the way back of `write_kv`, with the same arguments.

    A slot outside the cache gives zeros; a float8_e4m3fn cache is multiplied by its scales.
    """
    reason = why_not(keys.device)
    if keys.is_cuda and reason is None:
        on_cuda.gather_kv(keys, values, key_cache, value_cache, slots.contiguous(), key_scale, value_scale)
        return
    if keys.is_cuda:
        say_once(f"keys and values are gathered by plain PyTorch: {reason}", warn=True)
    num_blocks, block_size = key_cache.shape[:2]
    inside = (slots >= 0) & (slots < num_blocks * block_size)
    chosen = torch.where(inside, slots, 0)
    where = (chosen // block_size, chosen % block_size)
    for tokens, cache, scale in ((keys, key_cache, key_scale), (values, value_cache, value_scale)):
        stored = as_bits(cache)[where].view(cache.dtype)
        read = stored if scale is None else dequantised(stored, scale, tokens.dtype)
        tokens.copy_(torch.where(inside[:, None, None], read, 0))


@operator(_nothing, "cache")
def copy_blocks(cache: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy blocks to others in all layers, as if every source were read first.

    Args:
        cache: [num_layers, 2, num_blocks, ...], any dtype, each block contiguous.
        pairs: [count, 2] int64 (source, destination), no destination twice; a pair with a block outside the
            cache, such as (-1, -1), copies nothing.
    """
    if cache.is_cuda:
        reason: NanoBatchError | None = why_not(cache.device)
        if reason is None and len(pairs) > on_cuda.MOST_PAIRS:
            reason = InvalidArgumentError(f"{len(pairs)} pairs; one launch takes {on_cuda.MOST_PAIRS}")
        if reason is None:
            on_cuda.copy_blocks(cache, pairs.contiguous())
            return
        say_once(f"blocks are copied by plain PyTorch: {reason}", warn=True)
    inside = ((pairs >= 0) & (pairs < cache.shape[2])).all(1)
    sources, targets = pairs[inside].unbind(1)
    bits = as_bits(cache)
    bits.index_copy_(2, targets, bits.index_select(2, sources))
