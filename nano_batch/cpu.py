"""The core's kernels for a processor (`nano_batch_rs/src/cpu.rs`), over PyTorch's tensors of float32.

They run on PyTorch's own threads, as many as it uses: others beside these would be in their way. What the
kernels do not take, plain PyTorch computes.
"""

from __future__ import annotations

import ctypes
import logging

import torch

from nano_batch import _core

MOST_ROWS = 16
"""Rows of `linear` up to which it is faster than PyTorch's library (docs/notes/engine.md)."""
HEAD_LANES = 16
"""What the size of a head is a multiple of in `paged_attention`."""
_AVAILABLE = _core.cpu_available()


def _use_pytorchs_threads() -> None:
    """Hand over the function that sets OpenMP's threads to work, of the library that PyTorch is linked to."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError) as error:
        message = "kernels for a processor use one thread: PyTorch's OpenMP has no GOMP_parallel (%s)"
        logging.getLogger("nano_batch.cpu").warning(message, error)
        return
    address = ctypes.cast(parallel, ctypes.c_void_p).value
    assert address is not None
    _core.cpu_use_threads(address)


_use_pytorchs_threads()


def takes(*tensors: torch.Tensor) -> bool:
    """Whether the kernels compute these: float32 on a CPU, no gradients, and no traces of tensors."""
    if not _AVAILABLE:
        return False
    for tensor in tensors:  # a loop, as this is called for every operation of a step
        if type(tensor) is not torch.Tensor or tensor.dtype is not torch.float32 or not tensor.is_cpu:
            return False
        if tensor.requires_grad:
            return False
    return True


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x weightᵀ, [m, n] of contiguous [m, k] and [n, k]."""
    out = torch.empty(x.shape[0], weight.shape[0])
    _core.cpu_linear(x.numpy(), weight.numpy(), out.numpy(), torch.get_num_threads())
    return out


def rms_norm(
    hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Return the norm of contiguous [tokens, size], or of the residual after hidden was added to it."""
    out = torch.empty_like(hidden)
    sums = None if residual is None else residual.numpy()
    threads = torch.get_num_threads()
    _core.cpu_rms_norm(hidden.numpy(), sums, weight.numpy(), eps, out.numpy(), threads)
    return out


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up, [tokens, size] of contiguous [tokens, 2 * size]."""
    out = torch.empty(gate_up.shape[0], gate_up.shape[1] // 2)
    _core.cpu_silu_mul(gate_up.numpy(), out.numpy(), torch.get_num_threads())
    return out


def write_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    query: torch.Tensor | None,
) -> None:
    """Do what `cache_ops.write_kv` does, of vectors that each lie in a row.

    `rope` is (positions, cosines, sines).
    """
    _core.cpu_write_kv(
        keys.numpy(), values.numpy(), key_cache.numpy(), value_cache.numpy(), slots.numpy(),
        None if rope is None else (rope[0].numpy(), rope[1].numpy(), rope[2].numpy()),
        None if query is None else query.numpy(),
    )  # fmt: skip


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    query_start_loc: torch.Tensor,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """Do what `paged_attention_prefill` does, of vectors that each lie in a row and of int32.

    Raises `InvalidArgumentError` for a row that names what is not there.
    """
    out = torch.empty(query.shape)
    _core.cpu_paged_attention(
        query.numpy(), key_cache.numpy(), value_cache.numpy(), block_table.numpy(), context_lens.numpy(),
        query_start_loc.numpy(), scale, sliding_window, out.numpy(), torch.get_num_threads(),
    )  # fmt: skip
    return out
