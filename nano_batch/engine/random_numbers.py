"""Random numbers without a state: each is a function of the seed, the sequence and the place in its output.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) is a counter, advanced by an odd constant, and a mixing of its
bits: its number at any place is computed at once. Every sequence has a stream of its own, and integer
arithmetic modulo 2⁶⁴ is the same on every device.
"""

from __future__ import annotations

import torch

GAMMA = 0x9E3779B97F4A7C15
# (shift right, multiplier) of the mixing's rounds; the last shift has none: Stafford's variant 13.
ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31
MASK = 2**64 - 1


def stream_of(seed: int, sequence_index: int) -> int:
    """The start of the stream of one of a request's sequences: the counter's value, as an int64."""
    return _signed(_mix((_mix((seed + GAMMA) & MASK) + (sequence_index + 1) * GAMMA) & MASK))


def random_bits(streams: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The 64 random bits at `places` of `streams`, all int64 [samples]."""
    bits = streams + (places + 1) * _signed(GAMMA)
    for shift, multiplier in ROUNDS:
        bits = (bits ^ _shift_right(bits, shift)) * _signed(multiplier)
    return bits ^ _shift_right(bits, LAST_SHIFT)


def uniforms(streams: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Numbers k / 2⁵³ in [0, 1) at `places` of `streams` (int64 [samples]): float64 [samples], exact."""
    return _shift_right(random_bits(streams, places), 11).double() * 2.0**-53


def _mix(value: int) -> int:
    """The same mixing of one number on the host, from 0 to 2⁶⁴ − 1."""
    for shift, multiplier in ROUNDS:
        value = (value ^ (value >> shift)) * multiplier & MASK
    return value ^ (value >> LAST_SHIFT)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shift_right(bits: torch.Tensor, shift: int) -> torch.Tensor:
    """A shift of unsigned numbers: that of int64 repeats the sign, which is masked away."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)
