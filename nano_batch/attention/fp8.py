"""A cache in float8_e4m3fn: what is stored is x / scale, and x is read as stored * scale.

The format has 4 bits of exponent and 3 of mantissa, no infinity, and ends at 448.
Source: Micikevicius et al., "FP8 Formats for Deep Learning" (2022).
"""

from __future__ import annotations

import torch

QUANTISED = torch.float8_e4m3fn
LARGEST = 448.0


def quantised(new: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """Divide [..., heads, head_dim] by a scale, or by scales [heads], and round to nearest, saturating."""
    divided = new.float() / _of_heads(scale)
    # PyTorch's own rounding may make NaN of what is too large.
    return divided.clamp(-LARGEST, LARGEST).to(QUANTISED)


def dequantised(stored: torch.Tensor, scale: float | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return [..., heads, head_dim] times a scale, or scales [heads]: computed in float32, then `dtype`."""
    exact = torch.promote_types(dtype, torch.float32)
    return (stored.to(exact) * _of_heads(scale)).to(dtype)


def as_bits(cache: torch.Tensor) -> torch.Tensor:
    """Return a quantised tensor seen as uint8, for which PyTorch has every move; others as they are."""
    return cache.view(torch.uint8) if cache.dtype == QUANTISED else cache


def _of_heads(scale: float | torch.Tensor) -> float | torch.Tensor:
    return scale[:, None] if isinstance(scale, torch.Tensor) else scale
