"""What paged attention refuses, each by name, before anything is computed."""

from __future__ import annotations

import math

import torch

from nano_batch.attention.fp8 import QUANTISED
from nano_batch.errors import (
    BlockRangeError,
    ContextLengthError,
    DeviceError,
    DtypeError,
    InvalidArgumentError,
    ShapeError,
)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)


def check_cache(
    query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, block_size: int | None
) -> None:
    """Check a query [*, num_heads, head_dim] against the two caches; None for any size of blocks."""
    num_heads, head_dim = query.shape[-2:]
    if query.dtype not in FLOATS:
        raise DtypeError(f"query is {query.dtype}; attention takes float16, bfloat16, float32 and float64")
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
        if cache.dim() != 4 or min(cache.shape) < 1:
            needed = "[num_blocks, block_size, num_kv_heads, head_dim]"
            raise ShapeError(f"{name} has shape {list(cache.shape)}; it needs {needed}, all at least 1")
        if cache.shape[3] != head_dim:
            raise ShapeError(f"{name} has head_dim {cache.shape[3]}; the query has {head_dim}")
        _check_device(name, cache, query.device)
        if cache.dtype not in (query.dtype, QUANTISED):
            raise DtypeError(f"{name} is {cache.dtype}; the query is {query.dtype}")
    if key_cache.dtype != value_cache.dtype:
        raise DtypeError(f"key_cache is {key_cache.dtype} and value_cache {value_cache.dtype}")
    if key_cache.shape != value_cache.shape:
        raise ShapeError(
            f"key_cache {list(key_cache.shape)} and value_cache {list(value_cache.shape)} differ"
        )
    if block_size not in (None, key_cache.shape[1]):
        raise ShapeError(f"block_size={block_size}; the caches have blocks of {key_cache.shape[1]}")
    if num_heads < 1 or num_heads % key_cache.shape[2]:
        raise ShapeError(f"{key_cache.shape[2]} key/value heads do not divide {num_heads} query heads")


def check_rows(
    rows: int, block_table: torch.Tensor, context_lens: torch.Tensor, device: torch.device
) -> None:
    """Check block_table [rows, max_blocks] and context_lens [rows], both integers on `device`."""
    check_table(rows, block_table, device)
    check_lengths(rows, context_lens, device)


def check_table(rows: int, block_table: torch.Tensor, device: torch.device) -> None:
    """Check block_table [rows, max_blocks], integers on `device`."""
    if block_table.dim() != 2 or len(block_table) != rows:
        raise ShapeError(
            f"block_table has shape {list(block_table.shape)}; {rows} rows need [rows, max_blocks]"
        )
    _check_integers("block_table", block_table, device)


def check_lengths(rows: int, context_lens: torch.Tensor, device: torch.device) -> None:
    """Check context_lens [rows], integers on `device`."""
    if context_lens.dim() != 1 or len(context_lens) != rows:
        raise ShapeError(f"context_lens has shape {list(context_lens.shape)}; it needs [{rows}]")
    _check_integers("context_lens", context_lens, device)


def check_starts(rows: int, query_start_loc: torch.Tensor, device: torch.device) -> None:
    """Check query_start_loc [rows + 1], integers on `device`."""
    if query_start_loc.dim() != 1 or len(query_start_loc) != rows + 1:
        raise ShapeError(f"query_start_loc has shape {list(query_start_loc.shape)}; it needs [{rows + 1}]")
    _check_integers("query_start_loc", query_start_loc, device)


def check_start_values(query_start_loc: torch.Tensor, tokens: int) -> None:
    """Check that the starts begin at 0, never decrease and end within the tokens."""
    starts = query_start_loc.cpu()
    if int(starts[0]) != 0:
        raise ShapeError(f"query_start_loc begins at {int(starts[0])}; it needs 0")
    falling = torch.nonzero(starts.diff() < 0)
    if len(falling):
        row = int(falling[0])
        raise ShapeError(
            f"query_start_loc falls from {int(starts[row])} to {int(starts[row + 1])} in row {row}"
        )
    if int(starts[-1]) > tokens:
        raise ShapeError(f"query_start_loc ends at {int(starts[-1])}; there are {tokens} tokens")


def check_values(
    key_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    query_lens: torch.Tensor | None,
    window: int | None,
) -> int:
    """Check context lengths, and the table entries that some query sees; return the longest context.

    `query_lens` [rows] counts each row's queries; None means one each. A row with context 0 has no keys and
    may have any number of queries (it is padding). The values are looked at where they lie: the host waits
    once, for two numbers, and for more only where there is an error to name.
    """
    num_blocks, size = key_cache.shape[:2]
    capacity = block_table.shape[1] * size
    lens = context_lens.long()
    if len(lens) == 0:
        return 0
    queries = torch.ones_like(lens) if query_lens is None else query_lens.long()
    negative, too_long, too_many = lens < 0, lens > capacity, (lens > 0) & (queries > lens)
    first = (lens - queries).clamp(min=0)
    oldest = torch.zeros_like(lens) if window is None else (first - window + 1).clamp(min=0)
    block_start = torch.arange(block_table.shape[1], device=lens.device) * size
    seen = (block_start < lens[:, None]) & (block_start + size > oldest[:, None]) & (queries > 0)[:, None]
    outside = seen & ((block_table < 0) | (block_table >= num_blocks))
    bad = (negative | too_long | too_many | outside.any(1)).any()
    found, longest = torch.stack([bad.long(), lens.max()]).tolist()
    if not found:
        return int(longest)
    _refuse(negative, lens, "context length {} of row {} is negative")
    _refuse(too_long, lens, "context length {} of row {} exceeds the " + f"{capacity} of its table")
    _refuse(too_many, queries, "{} queries of row {} exceed its context, which counts them")
    row, column = torch.nonzero(outside)[0].tolist()
    block = int(block_table[row, column])
    raise BlockRangeError(f"block_table[{row}, {column}] = {block} is seen, and not in [0, {num_blocks})")


def checked_scale(scale: float | None, head_dim: int) -> float:
    """Return the scale, 1 / sqrt(head_dim) for None."""
    if scale is None:
        return 1 / math.sqrt(head_dim)
    if not math.isfinite(scale):
        raise InvalidArgumentError(f"scale={scale!r} is not finite")
    return float(scale)


def checked_window(window: int | None) -> int | None:
    """Return the window, None or a whole number of at least 1."""
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise InvalidArgumentError(
            f"sliding_window={window!r} is neither None nor a whole number of at least 1"
        )
    return window


def checked_soft_cap(soft_cap: float | None) -> float | None:
    """Return the cap, None or a finite number above 0."""
    if soft_cap is None:
        return None
    if not (math.isfinite(soft_cap) and soft_cap > 0):
        raise InvalidArgumentError(f"soft_cap={soft_cap!r} is neither None nor a finite number above 0")
    return float(soft_cap)


def checked_kv_scale(
    name: str,
    scale: float | torch.Tensor | None,
    dtype: torch.dtype,
    kv_heads: int,
    device: torch.device | None = None,
) -> float | torch.Tensor:
    """Return what stored keys or values of a cache of `dtype` are multiplied by, 1.0 for None.

    It is a number above 0, or a float32 tensor [num_kv_heads] on `device` (None: any), whose values are not
    read.
    """
    if scale is None:
        return 1.0
    if dtype != QUANTISED:
        raise InvalidArgumentError(f"{name} is given, and the cache is {dtype}; only {QUANTISED} has scales")
    if not isinstance(scale, torch.Tensor):
        if not (math.isfinite(scale) and scale > 0):
            raise InvalidArgumentError(f"{name}={scale!r} is not a finite number above 0")
        return float(scale)
    if scale.dtype != torch.float32:
        raise DtypeError(f"{name} is {scale.dtype}; it needs float32")
    if tuple(scale.shape) != (kv_heads,):
        raise ShapeError(f"{name} has shape {list(scale.shape)}; it needs [{kv_heads}], one a key/value head")
    if device is not None:
        _check_device(name, scale, device)
    return scale


def checked_layer_scales(
    name: str,
    scale: float | torch.Tensor | None,
    dtype: torch.dtype,
    layers: int,
    kv_heads: int,
    device: torch.device,
) -> torch.Tensor | None:
    """Spread a scale, of all layers or [layers, num_kv_heads], to every layer and head of a cache of `dtype`.

    Returns [layers, num_kv_heads] float32 on `device`; None for a dtype that has no scales.
    """
    of_layers = [scale] * layers
    if isinstance(scale, torch.Tensor) and scale.dim() == 2:
        if len(scale) != layers:
            raise ShapeError(f"{name} has {len(scale)} rows; there are {layers} layers")
        of_layers = list(scale)
    checked = [checked_kv_scale(name, one, dtype, kv_heads) for one in of_layers]
    if dtype != QUANTISED:
        return None
    return torch.stack(
        [torch.as_tensor(one, dtype=torch.float32, device=device).expand(kv_heads) for one in checked]
    ).contiguous()


def _refuse(bad: torch.Tensor, values: torch.Tensor, message: str) -> None:
    rows = torch.nonzero(bad)
    if len(rows):
        row = int(rows[0])
        raise ContextLengthError(message.format(int(values[row]), row))


def _check_integers(name: str, tensor: torch.Tensor, device: torch.device) -> None:
    if tensor.dtype not in INTEGERS:
        raise DtypeError(f"{name} is {tensor.dtype}; it needs int32 or int64")
    _check_device(name, tensor, device)


def _check_device(name: str, tensor: torch.Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise DeviceError(f"{name} is on {tensor.device}; the query is on {device}")


def usable_device(
    dtype: torch.dtype, device: torch.device | str, dtypes: tuple[torch.dtype, ...]
) -> torch.device:
    """Return the device, its index included, that tensors of one of `dtypes` can live on.

    Raises `DtypeError` for another dtype, `DeviceError` for a device that cannot hold it.
    """
    if dtype not in dtypes:
        names = ", ".join(str(known) for known in dtypes)
        raise DtypeError(f"dtype={dtype!r} is not one of {names}")
    try:
        return torch.zeros(1, dtype=dtype, device=device).device
    # What PyTorch raises depends on its build and on what is missing: the device, its driver, the dtype.
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"device={str(device)!r} cannot hold {dtype}: {reason}") from error
