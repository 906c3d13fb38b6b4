"""What a device's memory is for: prepared weights, and as many KV blocks as fit, or as requests fill."""

from __future__ import annotations

import logging
import os

import torch

from nano_batch.display import readable_bytes
from nano_batch.errors import CacheAllocationError, InvalidArgumentError
from nano_batch.models import PagedInputs, PagedMistral

_log = logging.getLogger("nano_batch.engine")
HOST_SHARE = 0.25
"""Of the host's free memory, on a CPU: others live there, too."""
PREPARED_SHARE, STEP_SHARE = 0.1, 0.1
"""Of the KV cache's room, what prepared weights may take unasked; of the device, what is left for a step."""


def prepared_fit(
    model: PagedMistral,
    block_size: int,
    dtype: torch.dtype,
    *,
    fraction: float,
    num_blocks: int | None,
    most_blocks: int,
) -> bool:
    """Whether prepared weights (`PagedMistral.prepare`) cost a KV cache little, or nothing.

    Nothing where as many blocks as it is to have fit beside them, little where they take at most
    `PREPARED_SHARE` of its room. On a CPU never: they take longer to make there, for less.

    Args:
        block_size, dtype: of the cache.
        fraction, most_blocks: as in `blocks_that_fit`.
        num_blocks: that it is to have at any rate; None: as many as fit.
    """
    needed, device = model.preparing_bytes, model.device
    if needed == 0:
        return True
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    room = free if num_blocks is not None else free - (1 - fraction) * total
    if num_blocks is None and needed <= PREPARED_SHARE * room:
        return True
    blocks = most_blocks if num_blocks is None else num_blocks
    return needed + blocks * _block_bytes(model, block_size, dtype) + STEP_SHARE * total <= room


def _block_bytes(model: PagedMistral, block_size: int, dtype: torch.dtype) -> int:
    return model.new_cache(1, block_size, dtype=dtype).get_memory_usage().per_block_bytes


def blocks_that_fit(
    model: PagedMistral,
    block_size: int,
    dtype: torch.dtype,
    *,
    fraction: float,
    step_tokens: int,
    most_blocks: int,
    beside: int = 0,
) -> int:
    """Return how many blocks of a KV cache in `dtype` to allocate; the log says of what.

    On CUDA: `fraction` of the device's whole memory, less what is in use, what the largest step takes (one is
    run, to see) and `beside`, bytes that are still to be taken. On a CPU: a quarter of the memory that is
    free. Never more than `most_blocks`, which is what as many sequences as may run fill at their longest.

    Raises:
        InvalidArgumentError: the fraction is not above 0 and at most 1.
        CacheAllocationError: there is no room for a single block.
    """
    if not 0 < fraction <= 1:
        raise InvalidArgumentError(f"gpu_memory_fraction={fraction} is not above 0 and at most 1")
    block_bytes = _block_bytes(model, block_size, dtype)
    if model.device.type == "cuda":
        room = _room_on_cuda(model, block_size, fraction, step_tokens) - beside
        source = f"{fraction:.0%} of {model.device}"
    else:
        room, source = int(HOST_SHARE * _free_host_bytes()), "a quarter of the host's free memory"
    blocks = min(room // block_bytes, most_blocks)
    if blocks < 1:
        raise CacheAllocationError(
            f"{readable_bytes(max(room, 0))} are left for the KV cache ({source}); "
            f"a block takes {readable_bytes(block_bytes)}"
        )
    _log.info(
        "KV cache: %s blocks of %s tokens, %s of %s left in %s: room for %s tokens",
        f"{blocks:,}", block_size, readable_bytes(blocks * block_bytes), readable_bytes(room), source,
        f"{blocks * block_size:,}",
    )  # fmt: skip
    return blocks


def _room_on_cuda(model: PagedMistral, block_size: int, fraction: float, step_tokens: int) -> int:
    device = model.device
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _largest_step(model, block_size, step_tokens)
    step = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return int(total * fraction) - (total - free) - step


def _largest_step(model: PagedMistral, block_size: int, tokens: int) -> None:
    """Run one prompt of as many tokens as a step has, in a cache of its own."""
    tokens = min(tokens, model.config.max_position_embeddings)
    cache = model.new_cache(-(-tokens // block_size), block_size)
    positions = torch.arange(tokens, device=model.device)
    table = torch.arange(cache.num_blocks, dtype=torch.int32, device=model.device)[None]
    starts = torch.tensor([0, tokens], dtype=torch.int32, device=model.device)
    token_ids = positions % model.config.vocab_size
    model.paged(
        PagedInputs(
            token_ids, positions, positions, table, starts[1:], starts, positions[-1:], num_decodes=0,
            trusted=True,
        ), cache,
    )  # fmt: skip


def _free_host_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30  # a system that does not say
