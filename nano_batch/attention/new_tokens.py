"""The keys, values and queries of a step, checked before a cache writes any of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nano_batch.attention.checks import FLOATS
from nano_batch.attention.fp8 import QUANTISED
from nano_batch.attention.rope import Rope
from nano_batch.errors import DeviceError, DtypeError, InvalidArgumentError, ShapeError


@dataclass(frozen=True)
class NewTokens:
    """What the tokens of a step must look like for a cache."""

    tokens: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype  # of the cache
    device: torch.device

    def check(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Raise `ShapeError`, `DtypeError` or `DeviceError` unless both can be written."""
        needed = [self.tokens, self.num_kv_heads, self.head_dim]
        for name, tensor in (("keys", keys), ("values", values)):
            if list(tensor.shape) != needed:
                raise ShapeError(f"{name} has shape {list(tensor.shape)}; {self.tokens} slots need {needed}")
            fits = tensor.dtype in FLOATS if self.dtype == QUANTISED else tensor.dtype == self.dtype
            if not fits:
                raise DtypeError(f"{name} is {tensor.dtype}; the cache holds {self.dtype}")
            if tensor.device != self.device:
                raise DeviceError(f"{name} is on {tensor.device}; the cache is on {self.device}")
        if values.dtype != keys.dtype:
            raise DtypeError(f"values is {values.dtype}; keys is {keys.dtype}")

    def check_rope(self, rope: Rope | None, query: torch.Tensor | None, dtype: torch.dtype) -> None:
        """Raise the same, or `InvalidArgumentError`, unless `rope` can rotate keys and query of `dtype`."""
        if rope is not None:
            rope.check(self.tokens, self.head_dim, self.device)
        if query is None:
            return
        if rope is None:
            raise InvalidArgumentError("query is given, which only rope would change")
        if query.dim() != 3 or len(query) > self.tokens or query.shape[2] != self.head_dim:
            needed = f"[at most {self.tokens}, num_heads, {self.head_dim}]"
            raise ShapeError(f"query has shape {list(query.shape)}; it needs {needed}")
        if query.dtype != dtype:
            raise DtypeError(f"query is {query.dtype}; keys is {dtype}")
        if query.device != self.device:
            raise DeviceError(f"query is on {query.device}; the cache is on {self.device}")
