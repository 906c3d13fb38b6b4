"""write_kv, gather_kv and copy_blocks, run on the CPU (cuda_on_cpu), against the plain forms."""

from __future__ import annotations

import pytest
import torch
from cuda_on_cpu.device import cpu_device
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch.attention import cache_ops
from nano_batch.attention.cuda import cache as kernels
from nano_batch.attention.fp8 import QUANTISED, as_bits
from nano_batch.attention.rope import Rope, rope_tables

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
KINDS = [  # of tokens, of the cache, head_dim
    (BF16, BF16, 64),
    (FP32, FP32, 12),
    (FP16, QUANTISED, 64),
    (FP32, QUANTISED, 6),
]
UNITS = {FP32: 1e-6, FP16: 1e-3, BF16: 8e-3, QUANTISED: 0.13}
"""One unit in the last place: a product summed in another order may round the other way."""
orders = pytest.mark.parametrize("backwards", [False, True])
some = settings(max_examples=15, deadline=None)


def a_step(data, of_tokens, stored, head_dim):
    """Keys, values, caches, slots (some twice negative or past the cache), scales."""
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    blocks, size, heads = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)), 2
    slots = data.draw(st.lists(st.integers(0, blocks * size - 1), unique=True, max_size=9))
    slots = torch.tensor([*slots, -1, blocks * size], dtype=torch.int64)
    tokens = torch.randn(2, len(slots), heads, head_dim, generator=draw).to(of_tokens)
    cache = torch.randn(2, blocks, size, heads, head_dim, generator=draw).to(stored)
    scales = torch.rand(2, heads, generator=draw) + 0.1 if stored == QUANTISED else (None, None)
    return [*tokens], [*cache], slots, [*scales]


def copies(tensors):
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("rotates", [False, True])
@pytest.mark.parametrize(("of_tokens", "stored", "head_dim"), KINDS, ids=str)
@orders
@given(data=st.data())
@some
def test_writing_equals_the_plain_form(libraries, of_tokens, stored, head_dim, rotates, backwards, data):
    tokens, cache, slots, scales = a_step(data, of_tokens, stored, head_dim)
    rope, turned = None, [None, None]
    if rotates:
        rope = Rope(torch.arange(len(slots)) * 7 % 50, *rope_tables(50, head_dim))
        first, heads = data.draw(st.integers(0, len(slots))), data.draw(st.sampled_from([None, 0, 4]))
        if heads is not None:
            turned = copies([torch.cat([*tokens, *tokens], 1)[:first, :heads]] * 2)
    expected = copies(cache)
    cache_ops._write_plainly(*tokens, *expected, slots, *scales, rope, turned[0])
    with cpu_device(libraries, backwards=backwards):
        kernels.write_kv(*tokens, *cache, slots, *scales, rope, turned[1])
    for ours, plain in zip(cache, expected, strict=True):
        slack = UNITS[stored] if rotates else 0
        torch.testing.assert_close(ours.float(), plain.float(), rtol=slack, atol=1e-6 if rotates else 0)
    if turned[1] is not None:
        torch.testing.assert_close(turned[1], turned[0], rtol=UNITS[of_tokens], atol=1e-6)


@pytest.mark.parametrize(("of_tokens", "stored", "head_dim"), KINDS, ids=str)
@orders
@given(data=st.data())
@some
def test_gathering_equals_the_plain_form(libraries, of_tokens, stored, head_dim, backwards, data):
    tokens, cache, slots, scales = a_step(data, of_tokens, stored, head_dim)
    expected = copies(tokens)
    cache_ops.gather_kv(*expected, *cache, slots, *scales)
    with cpu_device(libraries, backwards=backwards):
        kernels.gather_kv(*tokens, *cache, slots, *scales)
    for ours, plain in zip(tokens, expected, strict=True):
        assert torch.equal(ours, plain)
        assert ours[-2:].eq(0).all()


@pytest.mark.parametrize("dtype", [FP32, QUANTISED])
@orders
@given(data=st.data())
@some
def test_copying_reads_every_source_first(libraries, dtype, backwards, data):
    blocks = data.draw(st.integers(1, 7))
    cache = torch.randn(2, 2, blocks, 3, 2, 4).to(dtype)
    block = st.integers(-1, blocks)
    targets = data.draw(st.lists(block, unique=True, max_size=9))
    pairs = torch.tensor([[data.draw(block), target] for target in targets], dtype=torch.int64).view(-1, 2)
    expected = cache.clone()
    cache_ops.copy_blocks(expected, pairs)
    with cpu_device(libraries, backwards=backwards):
        kernels.copy_blocks(cache, pairs)
    assert torch.equal(as_bits(cache), as_bits(expected))
