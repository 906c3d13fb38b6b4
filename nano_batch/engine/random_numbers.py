"""Random numbers without a state: a function of a request's seed, a sequence's index and a token's place.

So a request draws the same numbers whatever is served beside it, on any device, and after a preemption.
Source: the finaliser of SplitMix64, in Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators" (2014), over counters as in Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def uniform(seed: torch.Tensor, sequence: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Numbers above 0 and below 1, float64, of int64 tensors of one shape."""
    state = _mixed(_mixed(seed + _GOLDEN) ^ ((sequence + 1) * _GOLDEN))
    bits = _mixed(state + (place + 1) * _GOLDEN)
    return (_shifted(bits, 12).double() + 0.5) * 2.0**-52


def _mixed(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right as if unsigned, which PyTorch has no integer for."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
