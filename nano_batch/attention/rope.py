"""Rotary position embedding: what `write_kv` can apply to keys and queries on their way.

Element d of a head turns together with element d + head_dim / 2 ("rotate half", as the models of the Llama
and Mistral families store their weights) by the angle position * base ** (-2 d / head_dim).

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nano_batch.display import Shown
from nano_batch.errors import DeviceError, DtypeError, InvalidArgumentError, ShapeError


@dataclass(frozen=True, repr=False)
class Rope(Shown):
    """Where the tokens of a step stand, and the turn of every position."""

    positions: torch.Tensor  # [tokens] int64, contiguous, in [0, len(cosines)), also those of padding
    cosines: torch.Tensor  # [longest, head_dim / 2] float32, contiguous
    sines: torch.Tensor  # the same

    def __repr__(self) -> str:
        return f"Rope: {len(self.positions):,} tokens, positions below {len(self.cosines):,}"

    def check(self, tokens: int, head_dim: int, device: torch.device) -> None:
        """Raise `ShapeError`, `DtypeError` or `DeviceError` unless all fits the keys of a step."""
        if self.positions.dtype != torch.int64:
            raise DtypeError(f"positions is {self.positions.dtype}; it needs int64")
        if tuple(self.positions.shape) != (tokens,) or not self.positions.is_contiguous():
            shape = f"shape {list(self.positions.shape)} and stride {self.positions.stride()}"
            raise ShapeError(f"positions has {shape}; it needs contiguous [{tokens}]")
        for name in ("cosines", "sines"):
            table = getattr(self, name)
            if table.dtype != torch.float32:
                raise DtypeError(f"{name} is {table.dtype}; it needs float32")
            if table.dim() != 2 or 2 * table.shape[1] != head_dim or not table.is_contiguous():
                raise ShapeError(
                    f"{name} has shape {list(table.shape)}; head_dim {head_dim} needs contiguous "
                    f"[positions, {head_dim / 2:g}]"
                )
        if self.cosines.shape != self.sines.shape:
            raise ShapeError(f"cosines {list(self.cosines.shape)} and sines {list(self.sines.shape)} differ")
        for name in ("positions", "cosines", "sines"):
            if getattr(self, name).device != device:
                raise DeviceError(f"{name} is on {getattr(self, name).device}; the keys are on {device}")


def rope_tables(
    longest: int, head_dim: int, base: float = 10_000.0, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position's angles, each [longest, head_dim / 2] float32.

    Raises `InvalidArgumentError` for an odd head_dim, a base that is not above 0, or no position.
    """
    if head_dim < 2 or head_dim % 2:
        raise InvalidArgumentError(f"head_dim={head_dim} is not an even number of at least 2")
    if not base > 0 or longest < 1:
        raise InvalidArgumentError(f"base={base!r} and longest={longest!r} need to be above 0")
    return turns(
        longest, base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim), device=device
    )


def turns(
    longest: int, frequencies: torch.Tensor, factor: float = 1.0, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of position * frequency, times `factor`: [longest, head_dim / 2] float32 each.

    `frequencies` is [head_dim / 2] float64, in radians a position.
    """
    angles = torch.arange(longest, dtype=torch.float64)[:, None] * frequencies
    return (angles.cos() * factor).float().to(device), (angles.sin() * factor).float().to(device)


def rotated(
    heads: torch.Tensor, positions: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
) -> torch.Tensor:
    """Turn [tokens, heads, head_dim] of any float dtype, computed and returned in float32."""
    first, second = heads.float().chunk(2, dim=-1)
    cosine, sine = cosines[positions, None], sines[positions, None]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
