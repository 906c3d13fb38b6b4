"""The paged KV cache against plain indexing, in both layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch import errors
from nano_batch.kv_cache import KVCache

LAYOUTS = ["NHD", "HND"]


def filled(layout, *, num_blocks=6, block_size=3, layers=2, swap=4, dtype=torch.float32, seed=0):
    """A cache with random content, every element different."""
    cache = KVCache(num_blocks, block_size, 2, 4, dtype, "cpu", num_layers=layers, layout=layout,
                    num_swap_blocks=swap)  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for view in all_views(cache):
        view.copy_(torch.randn(view.shape, generator=generator, dtype=torch.float64))
    return cache


def all_views(cache):
    return [view for layer in range(cache.num_layers) for view in cache.layer(layer)]


def contents(cache):
    return torch.stack([view.clone() for view in all_views(cache)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_have_one_logical_shape_over_one_allocation(layout):
    cache = filled(layout, layers=3)
    views = all_views(cache)
    assert {tuple(view.shape) for view in views} == {(6, 3, 2, 4)}
    assert {view.stride(-1) for view in views} == {1}
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1
    assert views[0].untyped_storage().nbytes() == cache.get_memory_usage().total_bytes
    inner = {"NHD": (8, 4), "HND": (4, 12)}[layout]
    assert {view.stride()[1:3] for view in views} == {inner}
    for again, view in zip(cache.get_kv_cache(2), cache.layer(2), strict=True):
        assert again.data_ptr() == view.data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_write_kv_stores_each_token_in_its_slot_and_nothing_else(layout, data):
    num_blocks, block_size = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    cache = filled(layout, num_blocks=num_blocks, block_size=block_size)
    total = num_blocks * block_size
    slots = data.draw(st.lists(st.integers(0, total - 1), unique=True, max_size=total))
    slots = data.draw(st.permutations(slots + [-1] * data.draw(st.integers(0, 3))))
    layer = data.draw(st.integers(0, 1))
    form = data.draw(st.sampled_from([list, np.array, torch.tensor]))
    new = torch.randn(2, 4, len(slots), 2).permute(0, 2, 3, 1)  # no dimension is where memory order has it
    given_slots = form(slots) if slots else torch.zeros(0, dtype=torch.int64)
    if form is np.array and slots:
        given_slots = given_slots.astype(np.int64)

    expected = contents(cache)
    for token, slot in enumerate(slots):
        if slot >= 0:
            expected[2 * layer : 2 * layer + 2, slot // block_size, slot % block_size] = new[:, token]
    cache.write_kv(new[0], new[1], given_slots, layer=layer)
    assert torch.equal(contents(cache), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slot_minus_one_alone_writes_nothing(layout):
    cache = filled(layout)
    before = contents(cache)
    cache.write_kv(torch.ones(2, 2, 4), torch.ones(2, 2, 4), [-1, -1])
    cache.write_kv(torch.ones(0, 2, 4), torch.ones(0, 2, 4), [])
    assert torch.equal(contents(cache), before)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_copies_read_every_source_before_any_destination_is_written(layout, data):
    cache = filled(layout, num_blocks=6)
    targets = data.draw(st.lists(st.integers(0, 5), unique=True, max_size=6))
    pairs = [(data.draw(st.integers(0, 5)), target) for target in targets]
    before, expected = contents(cache), contents(cache)
    for source, target in pairs:
        expected[:, target] = before[:, source]
    cache.copy_blocks(np.array(pairs, dtype=np.int32) if pairs and data.draw(st.booleans()) else pairs)
    assert torch.equal(contents(cache), expected)


def test_copying_in_a_ring_rotates():
    cache = filled("NHD")
    before = contents(cache)
    cache.copy_blocks(torch.tensor([[0, 1], [1, 2], [2, 0]], dtype=torch.int32))
    assert torch.equal(contents(cache)[:, :3], before[:, [2, 0, 1]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("staging_blocks", [1, 2, 100])
def test_swapping_out_and_in_restores_all_layers(layout, staging_blocks, monkeypatch):
    cache = filled(layout, num_blocks=9, swap=7)
    per_block = cache.get_memory_usage().per_block_bytes
    monkeypatch.setattr("nano_batch.kv_cache.STAGING_BYTES", staging_blocks * per_block)
    before = contents(cache)
    cache.swap_out([(8, 2), (0, 3), (4, 4), (5, 0)])
    assert torch.equal(contents(cache), before)
    for view in all_views(cache):
        view.fill_(float("nan"))
    cache.swap_in([(3, 1), (2, 0), (0, 7), (4, 8)])
    after = contents(cache)
    assert torch.equal(after[:, [1, 0, 7, 8]], before[:, [0, 8, 5, 4]])
    assert after[:, 2:7].isnan().all()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_swaps_follow_a_naive_model(data):
    cache = filled("HND", num_blocks=5, swap=4)
    device = {block: contents(cache)[:, block] for block in range(5)}
    host = {block: torch.zeros_like(device[0]) for block in range(4)}
    for _ in range(data.draw(st.integers(1, 6))):
        out = data.draw(st.booleans())
        source, target, pools = (5, 4, (device, host)) if out else (4, 5, (host, device))
        chosen = data.draw(st.lists(st.integers(0, target - 1), unique=True, min_size=1))
        pairs = [(data.draw(st.integers(0, source - 1)), block) for block in chosen]
        (cache.swap_out if out else cache.swap_in)(pairs)
        pools[1].update({block: pools[0][origin].clone() for origin, block in pairs})
    cache.swap_in([(block, block) for block in host])
    assert torch.equal(contents(cache), torch.stack([*host.values(), device[4]], dim=1))


def test_memory_usage_counts_keys_and_values_of_all_layers():
    usage = KVCache(10, 16, 8, 128, torch.bfloat16, "cpu", num_layers=3, num_swap_blocks=2).get_memory_usage()
    assert usage.per_token_bytes == 3 * 2 * 8 * 128 * 2
    assert usage.per_block_bytes == 16 * usage.per_token_bytes
    assert usage.total_bytes == 10 * usage.per_block_bytes
    assert usage.swap_bytes == 2 * usage.per_block_bytes


def test_addresses_beyond_32_bits(monkeypatch):
    """The last slot lies beyond 2^32 elements; pages that are never touched take no memory."""
    monkeypatch.setattr(torch, "zeros", torch.empty)
    try:
        cache = KVCache(2**18 + 1, 64, 1, 256, torch.float16, "cpu")
    except errors.CacheAllocationError:
        pytest.skip("this system lends no 16 GiB of untouched pages")
    keys, values = cache.layer(0)
    assert keys.numel() > 2**32
    ones = torch.ones(1, 1, 256, dtype=torch.float16)
    cache.write_kv(ones, 2 * ones, [2**18 * 64 + 63])
    assert keys[-1, -1].eq(1).all()
    assert values[-1, -1].eq(2).all()
    cache.copy_blocks([(2**18, 7)])
    assert values[7, -1].eq(2).all()


GOOD = {"num_blocks": 4, "block_size": 2, "num_kv_heads": 2, "head_dim": 4, "dtype": torch.float32,
        "device": "cpu"}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_blocks": 0}, errors.InvalidArgumentError, "num_blocks=0"),
        ({"num_blocks": 2**31}, errors.InvalidArgumentError, "2147483647"),
        ({"block_size": -1}, errors.InvalidArgumentError, "block_size=-1"),
        ({"block_size": 1.5}, errors.InvalidArgumentError, "block_size=1.5"),
        ({"num_kv_heads": 0}, errors.InvalidArgumentError, "num_kv_heads=0"),
        ({"head_dim": True}, errors.InvalidArgumentError, "head_dim=True"),
        ({"num_layers": 0}, errors.InvalidArgumentError, "num_layers=0"),
        ({"num_swap_blocks": -1}, errors.InvalidArgumentError, "num_swap_blocks=-1"),
        ({"dtype": torch.int8}, errors.DtypeError, "torch.int8"),
        ({"dtype": "float32"}, errors.DtypeError, "'float32'"),
        ({"device": "nowhere"}, errors.DeviceError, "'nowhere'"),
        ({"layout": "NHDD"}, errors.UnknownOptionError, "did you mean 'NHD'"),
        ({"num_blocks": 2**31 - 1, "head_dim": 2**20}, errors.CacheAllocationError, "TiB"),
    ],
)
def test_bad_sizes_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message) as caught:
        KVCache(**{**GOOD, **change})
    assert isinstance(caught.value, errors.NanoBatchError)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"keys": torch.ones(3, 2, 4)}, errors.ShapeError, r"keys has shape \[3, 2, 4\]; 2 slots"),
        ({"values": torch.ones(2, 1, 4)}, errors.ShapeError, "values has shape"),
        ({"keys": torch.ones(2, 2, 4).double()}, errors.DtypeError, "keys is torch.float64"),
        ({"values": torch.ones(2, 2, 4, device="meta")}, errors.DeviceError, "values is on meta"),
        ({"slots": [0, 18]}, errors.SlotRangeError, r"slot 18 of token 1 .* \[0, 18\)"),
        ({"slots": [-2, 0]}, errors.SlotRangeError, "slot -2 of token 0"),
        ({"slots": [0.0, 1.0]}, errors.DtypeError, "float64"),
        ({"slots": torch.tensor([0, 1], dtype=torch.int32)}, errors.DtypeError, "slots are int64"),
        ({"slots": [[0, 1]]}, errors.ShapeError, "one dimension"),
        ({"slots": [0, 2**70]}, errors.DtypeError, "object"),
        ({"layer": 2}, errors.InvalidArgumentError, "layer=2"),
    ],
)
def test_bad_writes_change_nothing(change, error, message):
    cache = filled("NHD")
    before = contents(cache)
    call = {"keys": torch.ones(2, 2, 4), "values": torch.ones(2, 2, 4), "slots": [0, 1], "layer": 0, **change}
    with pytest.raises(error, match=message) as caught:
        cache.write_kv(call["keys"], call["values"], call["slots"], layer=call["layer"])
    assert isinstance(caught.value, ValueError)
    assert torch.equal(contents(cache), before)


@pytest.mark.parametrize("move", ["copy_blocks", "swap_out", "swap_in"])
@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([(0, 1), (6, 2)], errors.BlockRangeError, "block 6 of pair 1"),
        ([(0, 1), (1, -1)], errors.BlockRangeError, "block -1 of pair 1"),
        ([(0, 6)], errors.BlockRangeError, "block 6 of pair 0"),
        ([(0, 2), (1, 2)], errors.BlockConflictError, "block 2 is the destination"),
        ([(0, 1, 2)], errors.ShapeError, r"\[1, 3\]"),
        ([(0, 1), (2,)], errors.ShapeError, "different lengths"),
        ([0, 1], errors.ShapeError, r"\[2\]"),
        ([(0.0, 1.0)], errors.DtypeError, "float64"),
    ],
)
def test_bad_pairs_change_nothing(move, pairs, error, message):
    cache = filled("NHD", swap=6)
    before = contents(cache)
    with pytest.raises(error, match=message):
        getattr(cache, move)(pairs)
    assert torch.equal(contents(cache), before)


def test_swapping_without_a_host_pool_is_refused():
    with pytest.raises(errors.BlockRangeError, match=r"host block 0 .* \[0, 0\)"):
        filled("NHD", swap=0).swap_out([(0, 0)])


def test_what_a_cell_shows():
    cache = KVCache(**GOOD)
    assert repr(cache) == repr(KVCache(**GOOD))
    assert len(repr(cache).splitlines()) <= 3
    assert "4 of 2 tokens" in cache._repr_html_()
    assert "512 B" in cache.get_memory_usage()._repr_html_()
    assert "script" not in cache._repr_html_()
