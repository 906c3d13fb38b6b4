"""What a device's memory is for: when weights are kept a second time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from nano_batch import InferenceEngine
from nano_batch.engine.cache_size import panels_fit
from nano_batch.kv_cache import KVCache
from nano_batch.models import load_mistral

GIB = 2**30


def a_model(panel_bytes):
    """One whose cache has blocks of a MiB."""

    def new_cache(num_blocks, block_size, dtype):
        return KVCache(num_blocks, block_size, 8, 1024, dtype, "cpu", num_layers=2)

    return SimpleNamespace(panel_bytes=panel_bytes, device=torch.device("cuda"), new_cache=new_cache)


@pytest.mark.parametrize(
    ("needed", "free", "num_blocks", "fits"),
    [
        (8, 60, None, True),
        (9, 60, None, False),  # more than a tenth of all
        (8, 17, None, True),
        (8, 15, None, False),  # a tenth is to be left
        (8, 60, 44 * 1024, True),
        (8, 60, 45 * 1024, False),
        (0, 0, 10**9, True),
    ],
)
def test_panels_are_kept_where_they_cost_little(monkeypatch, needed, free, num_blocks, fits):
    """Of 80 GiB, of which 3 are PyTorch's own and free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: ((free - 3) * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * GIB)
    assert panels_fit(a_model(needed * GIB), 16, torch.float16, num_blocks) is fits


@pytest.mark.parametrize("asked", [None, True, False])
def test_where_no_kernel_reads_panels_none_are_kept(asked):
    model = load_mistral("tiny", load_format="dummy")
    assert model.panel_bytes == 0
    engine = InferenceEngine(model, num_blocks=50, weight_panels=asked)
    assert model._panels is None
    assert len(engine.generate([[1, 2, 3]], progress=False)) == 1
