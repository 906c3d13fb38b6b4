"""Cases of the operators of a decoder layer, drawn for the host's tests and the device's."""

from __future__ import annotations

import torch

FP16, BF16, FP32 = torch.float16, torch.bfloat16, torch.float32
ROUNDING = {FP32: 4e-6, FP16: 1e-3, BF16: 8e-3}
"""One unit in the last place, and for float32 what a sum in another order may be off by: relative."""
DTYPES = [FP32, FP16, BF16]
EPS = 1e-5


def rows(tokens, size, dtype, *, apart=0, device="cpu"):
    """Random [tokens, size] whose rows begin `apart` elements after the end of the last."""
    return torch.randn(tokens, size + apart, device=device).to(dtype)[:, :size]


def assert_close(ours, plain, *, scale=0.0, roundings=1):
    """Equal up to so many roundings, or `scale` where sums cancel."""
    assert ours.shape == plain.shape
    assert ours.is_contiguous()
    unit = ROUNDING[plain.dtype]
    torch.testing.assert_close(ours.float(), plain.float(), rtol=roundings * unit, atol=1e-6 + scale * unit)


def check_norms(norm, add_norm, plain_norm, tokens, size, dtype, apart, device="cpu"):
    """Run both norms against the plain form; the residual must come out with the very bits."""
    hidden = rows(tokens, size, dtype, apart=apart, device=device)
    residual = 3 * rows(tokens, size, dtype, apart=apart, device=device)
    weight = rows(1, size, dtype, device=device)[0]
    assert_close(norm(hidden, weight, EPS), plain_norm(hidden, (size,), weight, EPS))
    summed = residual + hidden
    assert_close(add_norm(hidden, residual, weight, EPS), plain_norm(summed, (size,), weight, EPS))
    assert torch.equal(residual, summed)


def check_embedded(embed_norm, plain_norm, count, size, dtype, apart=0, device="cpu"):
    """The rows of a table must come out with their very bits, and their norm; of no row there is none."""
    table = rows(7, size, dtype, apart=apart, device=device)[1:6]  # what lies around it are numbers, too
    weight = rows(1, size, dtype, device=device)[0]
    ids = torch.randint(5, (count,), device=device)
    found, normed = embed_norm(ids, table, weight, EPS)
    assert torch.equal(found, table[ids])
    assert_close(normed, plain_norm(found, (size,), weight, EPS))
    for missing in (-1, 5):
        assert embed_norm(torch.full_like(ids, missing), table, weight, EPS)[1].isnan().all()


def check_taken(take, count, sizes, dtype, apart=0, device="cpu"):
    """The rows of two tables must come out with their very bits; of no row there are none."""
    one, other = (rows(7, size, dtype, apart=apart, device=device)[1:6] for size in sizes)
    ids = torch.randint(5, (count,), device=device)
    for taken, table in zip(take(ids, one, other), (one, other), strict=True):
        assert torch.equal(taken, table[ids])
        assert taken.is_contiguous()
    for missing in (-1, 5):
        assert all(taken.isnan().all() for taken in take(torch.full_like(ids, missing), one, other))


def check_norm_of_parts(add_norm, plain_norm, parts, tokens, size, dtype, device="cpu"):
    """The same of what is added in parts: added in their order, then to the residual, and rounded once."""
    given = torch.randn(parts, tokens, size, device=device).to(dtype)
    residual = 3 * rows(tokens, size, dtype, apart=8, device=device)
    weight = rows(1, size, dtype, device=device)[0]
    summed = (sum(given[1:].float(), start=given[0].float()) + residual).to(dtype)
    assert_close(add_norm(given, residual, weight, EPS), plain_norm(summed, (size,), weight, EPS))
    assert torch.equal(residual, summed)
