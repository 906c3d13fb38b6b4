"""What the driver is told of a tensor: a stand-in keeps it."""

from __future__ import annotations

import ctypes

import pytest
import torch

from nano_batch.cuda import tensor_map

PANEL, ELEMENT_BYTES = 64, 2


@pytest.fixture
def told(monkeypatch):
    """(rank, sizes, strides, tile) of each map that is made."""
    maps = []

    def encode(_, __, rank, ___, sizes, strides, tile, *____):
        maps.append((rank, list(sizes), list(strides)[: rank - 1], list(tile)))
        return 0

    monkeypatch.setattr(tensor_map, "_encode", lambda: encode)
    tensor_map._encoded.cache_clear()
    yield maps
    tensor_map._encoded.cache_clear()


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_tile_of_a_cache_is_panels_of_one_heads_tokens(told, layout, head_dim):
    blocks, block_size, heads = 5, 32, 3
    if layout == "NHD":
        cache = torch.zeros(blocks, 2, block_size, heads, head_dim, dtype=torch.bfloat16)[:, 1]
    else:
        cache = torch.zeros(blocks, heads, block_size, head_dim, dtype=torch.bfloat16).transpose(1, 2)
    made = tensor_map.cache_map(cache, 16)
    assert ctypes.sizeof(made) == 128
    ((rank, sizes, strides, tile),) = told
    assert rank == 5
    assert sizes == [PANEL, block_size, head_dim // PANEL, heads, blocks]
    assert tile == [PANEL, 16, head_dim // PANEL, 1, 1]
    flat = cache.as_strided((cache.untyped_storage().nbytes() // ELEMENT_BYTES,), (1,), 0)
    for place in ((0, 1, 0, 0, 0), (3, 7, head_dim // PANEL - 1, 2, 4)):
        element, token, panel, head, block = place
        apart = sum(at * stride for at, stride in zip(place[1:], strides, strict=True)) // ELEMENT_BYTES
        flat.zero_()
        cache[block, token, head, panel * PANEL + element] = 1
        assert flat[cache.storage_offset() + apart + element] == 1


@pytest.mark.parametrize("halves", [False, True])
def test_a_tile_of_a_matrix_is_panels_of_its_rows(told, halves):
    matrix = torch.zeros(96, 256, dtype=torch.float16)
    tensor_map.tensor_map(matrix, 32, 2, halves=halves)
    parts = 1 + halves
    assert told == [
        (4, [PANEL, 96 // parts, parts, 4], [512, 96 // parts * 512, 128], [PANEL, 32 // parts, parts, 2])
    ]


@pytest.mark.parametrize("halves", [False, True])
def test_panels_are_described_wherever_they_lie(told, halves):
    matrix = torch.zeros(96, 256, dtype=torch.float16)
    panels = tensor_map.panels_of(matrix)
    assert panels.shape == (4, 96, PANEL)
    assert panels.data_ptr() == matrix.data_ptr()
    for weight in (matrix, panels):
        tensor_map._encoded.cache_clear()
        tensor_map.tensor_map(weight, 32, 2, halves=halves)
    tensor_map.tensor_map(panels.contiguous(), 32, 2, halves=halves)
    parts, (of_matrix, of_view, apart) = 1 + halves, told
    assert of_view == of_matrix
    assert apart == (*of_matrix[:2], [128, 96 // parts * 128, 96 * 128], of_matrix[3])


def test_a_refusal_is_an_error_that_tells_the_tensor(monkeypatch):
    monkeypatch.setattr(tensor_map, "_encode", lambda: lambda *_: 1)
    tensor_map._encoded.cache_clear()
    with pytest.raises(tensor_map.KernelLaunchError, match=r"sizes \(64, 8, 1, 1\).*CUresult 1"):
        tensor_map.tensor_map(torch.zeros(8, 64, dtype=torch.float16), 8, 1)
