"""Writing, rotating, quantising, gathering and copying on the host, as operators and through the cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch import errors
from nano_batch.attention import cache_ops
from nano_batch.attention.fp8 import QUANTISED, as_bits, dequantised, quantised
from nano_batch.attention.rope import Rope, rope_tables, rotated
from nano_batch.kv_cache import KVCache

SLOTS = torch.tensor([5, -1, 0, 22, 99])


def new_tokens(seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(5, heads, 8, generator=rng).to(dtype) for heads in (2, 2, 6)]


def a_rope(seed=0):
    positions = torch.randint(0, 50, (5,), generator=torch.Generator().manual_seed(seed))
    return Rope(positions, *rope_tables(50, 8))


def empty_cache(dtype=torch.float32, layout="NHD", **options):
    cache = KVCache(6, 4, 2, 8, dtype, "cpu", num_layers=2, layout=layout, **options)
    for layer in range(2):
        for view in cache.layer(layer):
            as_bits(view).fill_(7)
    return cache


def operands(kind):
    keys, values, query = new_tokens()
    quantise = kind == "quantised"
    caches = [torch.zeros(6, 4, 2, 8, dtype=QUANTISED if quantise else torch.float32) for _ in range(2)]
    scales = [torch.full((2,), 0.01) for _ in range(2)] if quantise else [None, None]
    rope = a_rope()
    turn = (rope.positions, rope.cosines, rope.sines, query) if kind == "rotated" else 4 * [None]
    return keys, values, *caches, SLOTS, *scales, *turn


def checks_of(kind):
    """What `opcheck` tests; its test of the schema multiplies, which PyTorch cannot in float8."""
    names = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    return names[1:] if kind == "quantised" else names


@pytest.mark.parametrize("kind", ["plain", "rotated", "quantised"])
def test_write_kv_is_an_operator(kind):
    torch.library.opcheck(torch.ops.nano_batch.write_kv.default, operands(kind), test_utils=checks_of(kind))


@pytest.mark.parametrize("kind", ["plain", "quantised"])
def test_gather_kv_is_an_operator(kind):
    torch.library.opcheck(
        torch.ops.nano_batch.gather_kv.default, operands(kind)[:7], test_utils=checks_of(kind)
    )


def test_copy_blocks_is_an_operator():
    pairs = torch.tensor([[0, 1], [1, 0], [-1, -1]])
    torch.library.opcheck(torch.ops.nano_batch.copy_blocks.default, (torch.randn(2, 2, 6, 4, 2, 8), pairs))


def test_a_trace_keeps_what_is_written():
    def step(keys, values, cached_keys, cached_values, slots):
        cache_ops.write_kv(keys, values, cached_keys, cached_values, slots, *6 * [None])
        return cached_keys.sum() + cached_values.sum()

    eager, traced = operands("plain")[:5], operands("plain")[:5]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(*eager), compiled(*traced))
    for left, right in zip(eager, traced, strict=True):
        assert torch.equal(left, right)


@given(seed=st.integers(0, 999), longest=st.integers(1, 300), base=st.sampled_from([100.0, 10_000.0, 5e5]))
@settings(max_examples=40, deadline=None)
def test_rotation_is_that_of_complex_numbers(seed, longest, base):
    rng = torch.Generator().manual_seed(seed)
    heads = torch.randn(7, 3, 10, generator=rng)
    positions = torch.randint(0, longest, (7,), generator=rng)
    angle = positions[:, None, None].double() * base ** (-torch.arange(5).double() * 2 / 10)
    turned = torch.complex(*heads.double().chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], -1)
    cosines, sines = rope_tables(longest, 10, base)
    torch.testing.assert_close(
        rotated(heads, positions, cosines, sines).double(), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("queries", [0, 2, 5])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, QUANTISED])
def test_keys_are_rotated_on_their_way_and_queries_in_place(dtype, layout, queries):
    """Those of the first tokens."""
    of_tokens = torch.bfloat16 if dtype == QUANTISED else dtype
    keys, values, query = new_tokens(dtype=of_tokens)
    rope = a_rope()
    slots = torch.tensor([5, -1, 0, 22, 11])
    turned_keys = rotated(keys, rope.positions, rope.cosines, rope.sines)
    turned_query = rotated(query, rope.positions, rope.cosines, rope.sines).to(of_tokens)
    turned_query[queries:] = query[queries:]
    options = {"key_scale": 0.02, "value_scale": torch.tensor([0.01, 0.03])} if dtype == QUANTISED else {}
    cache = empty_cache(dtype, layout, **options)
    cache.write_kv(keys, values, slots, layer=1, rope=rope, query=query[:queries])
    assert torch.equal(query, turned_query)
    for view, expected, scale in zip(cache.layer(1), (turned_keys, values), cache.scales(1), strict=True):
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0:
                stored = view[slot // 4, slot % 4]
                wanted = expected[token].to(dtype) if scale is None else quantised(expected[token], scale)
                assert torch.equal(as_bits(stored), as_bits(wanted))


def test_what_is_too_large_saturates():
    scale = torch.tensor([0.5, 2.0])
    given = torch.tensor([[1e30, -1e30], [300.0, 890.0]]).T[:, :, None]
    read = dequantised(quantised(given, scale), scale, torch.float32)
    assert read.flatten(1).tolist() == [[224.0, 288.0], [-224.0, 896.0]]
    assert quantised(torch.tensor([[[float("nan")], [0.0]]]), scale).float()[0, 0].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, QUANTISED])
def test_gathering_brings_back_what_was_written(dtype):
    cache = empty_cache(dtype)
    keys, values, _ = new_tokens()
    cache.write_kv(keys, values, [5, 9, 0, 22, 11])
    read = [torch.full((3, 2, 8), float("nan")) for _ in range(2)]
    cache_ops.gather_kv(*read, *cache.layer(0), torch.tensor([22, -1, 9]), *cache.scales(0))
    for got, wrote in zip(read, (keys, values), strict=True):
        torch.testing.assert_close(
            got[[0, 2]], wrote[[3, 1]], rtol=2**-4 if dtype == QUANTISED else 0, atol=2e-3
        )
        assert got[1].eq(0).all()


def test_slots_on_the_device_may_stay_unread():
    cache, checked = empty_cache(), empty_cache()
    keys, values, _ = new_tokens()
    cache.write_kv(keys, values, SLOTS, validate=False)
    checked.write_kv(keys[:4], values[:4], SLOTS[:4])
    for left, right in zip(cache.layer(0), checked.layer(0), strict=True):
        assert torch.equal(left, right)
    with pytest.raises(errors.SlotRangeError, match="slot 99 of token 4"):
        cache.write_kv(keys, values, SLOTS)
    with pytest.raises(errors.SlotRangeError, match="slot 99 of token 4"):
        cache.write_kv(keys, values, SLOTS.tolist(), validate=False)


def test_a_quantised_cache_moves_its_blocks():
    cache = empty_cache(QUANTISED, num_swap_blocks=3)
    bits = [as_bits(view).random_(0, 120) for layer in range(2) for view in cache.layer(layer)]
    before = torch.stack([one.clone() for one in bits])
    cache.swap_out([(0, 2), (4, 0)])
    cache.copy_blocks([(0, 1), (1, 0), (2, 5)])
    cache.swap_in([(2, 3), (0, 4)])
    after = torch.stack(bits)
    assert torch.equal(after, before[:, [1, 0, 2, 0, 4, 2]])


def test_scales_of_layers_and_heads():
    for_layers = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    cache = empty_cache(QUANTISED, key_scale=for_layers, value_scale=0.5)
    assert cache.scales(1)[0].tolist() == [3.0, 4.0]
    assert cache.scales(1)[1].tolist() == [0.5, 0.5]
    assert empty_cache().scales(0) == (None, None)
    with pytest.raises(errors.InvalidArgumentError, match="layer=2"):
        cache.scales(2)
    with pytest.raises(errors.ShapeError, match="key_scale has 3 rows; there are 2 layers"):
        empty_cache(QUANTISED, key_scale=torch.ones(3, 2))
    with pytest.raises(errors.ShapeError, match=r"value_scale has shape \[3\]; it needs \[2\]"):
        empty_cache(QUANTISED, value_scale=torch.ones(3))
    with pytest.raises(errors.InvalidArgumentError, match="key_scale is given, and the cache is torch"):
        empty_cache(key_scale=1.0)


def with_rope(**change):
    return {"rope": lambda rope: replace(rope, **{name: new(rope) for name, new in change.items()})}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": lambda values: values.half()}, errors.DtypeError, "values is torch.float16"),
        (
            {"query": lambda query: torch.cat([query, query])},
            errors.ShapeError,
            r"it needs \[at most 5, num_heads, 8\]",
        ),
        (
            {"query": lambda query: query.half()},
            errors.DtypeError,
            "query is torch.float16; keys is torch.float32",
        ),
        ({"query": lambda query: query.to("meta")}, errors.DeviceError, "query is on meta"),
        ({"rope": lambda rope: None}, errors.InvalidArgumentError, "which only rope would change"),
        (
            with_rope(positions=lambda rope: rope.positions[:4]),
            errors.ShapeError,
            r"it needs contiguous \[5\]",
        ),
        (
            with_rope(positions=lambda rope: rope.positions.repeat_interleave(2)[::2]),
            errors.ShapeError,
            r"stride \(2,\)",
        ),
        (
            with_rope(positions=lambda rope: rope.positions.int()),
            errors.DtypeError,
            "positions is torch.int32",
        ),
        (with_rope(cosines=lambda rope: rope.cosines[:, :3]), errors.ShapeError, "cosines has shape"),
        (with_rope(sines=lambda rope: rope.sines[:9]), errors.ShapeError, "differ"),
        (with_rope(sines=lambda rope: rope.sines.double()), errors.DtypeError, "sines is torch.float64"),
        (with_rope(sines=lambda rope: rope.sines.to("meta")), errors.DeviceError, "sines is on meta"),
    ],
)
def test_bad_tokens_are_refused_and_nothing_is_written(change, error, message):
    keys, values, query = new_tokens()
    call = {
        "keys": keys,
        "values": values,
        "query": query,
        "rope": a_rope(),
        "slot_mappings": [5, -1, 0, 22, 11],
    }
    call |= {name: value(call[name]) for name, value in change.items()}
    cache = empty_cache()
    with pytest.raises(error, match=message):
        cache.write_kv(**call)
    assert all(view.eq(7).all() for view in cache.layer(0))


@pytest.mark.parametrize(
    ("sizes", "message"), [((9, 7), "head_dim=7"), ((0, 8), "longest=0"), ((9, 8, 0.0), "base=0.0")]
)
def test_bad_tables_are_refused(sizes, message):
    with pytest.raises(errors.InvalidArgumentError, match=message):
        rope_tables(*sizes)
