"""What a device's memory is for: when weights are kept a second time, and what they then are."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from nano_batch import InferenceEngine, errors
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
    ("needed", "free", "num_blocks", "most_blocks", "fraction", "fits"),
    [
        (5, 60, None, 10**6, 0.9, True),  # of 52 that are the cache's
        (5, 57, None, 10**6, 0.9, False),
        (5, 57, None, 30 * 1024, 0.9, True),  # it takes no more
        (5, 57, None, 37 * 1024, 0.9, False),  # with a tenth of 80 for a step
        (5, 66, None, 10**6, 0.3, False),
        (8, 60, 44 * 1024, 10**6, 0.1, True),
        (8, 60, 45 * 1024, 1, 0.9, False),
        (0, 0, 10**9, 10**9, 0.9, True),
    ],
)
def test_panels_are_kept_where_they_cost_little(
    monkeypatch, needed, free, num_blocks, most_blocks, fraction, fits
):
    """Of 80 GiB, of which 3 are PyTorch's own and free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: ((free - 3) * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * GIB)
    sizes = {"fraction": fraction, "num_blocks": num_blocks, "most_blocks": most_blocks}
    assert panels_fit(a_model(needed * GIB), 16, torch.float16, **sizes) is fits


@pytest.fixture
def model():
    """Laid out as on Hopper, though nothing reads it here."""
    made = load_mistral("tiny", load_format="dummy")
    assert made.panel_bytes == 0
    made.lay_out_panels()
    assert not made.has_panels
    made._few_rows = replace(made._few_rows, panels=True)
    return made


def columns_of(panels):
    """Of the matrix of which they are panels."""
    return torch.cat(list(panels), dim=1)


def test_each_layer_s_panels_are_its_weight_always_in_one_place(model):
    taken = model.panel_bytes
    assert taken == sum(layer.gate_up.nbytes for layer in model.layers)
    model.lay_out_panels()
    assert (model.has_panels, model.panel_bytes) == (True, 0)
    assert "gate and up in panels" in model._repr_html_()
    places = [panels.data_ptr() for panels in model._panels]
    for _ in range(2):
        for panels, layer in zip(model._panels, model.layers, strict=True):
            assert panels.is_contiguous()
            assert torch.equal(columns_of(panels), layer.gate_up)
            layer.gate_up.mul_(-2)
        assert model._unchanged_panels(1) is None
        model.lay_out_panels()
        assert model._unchanged_panels(1) is model._panels[1]
    assert [panels.data_ptr() for panels in model._panels] == places
    view = model.state_dict()["model.layers.1.mlp.up_proj.weight"]
    view[0, 0] += 1
    assert model._unchanged_panels(0) is model._panels[0]
    assert model._unchanged_panels(1) is None


def test_weights_of_inference_mode_have_panels_too():
    with torch.inference_mode():
        made = load_mistral("tiny", load_format="dummy")
        made._few_rows = replace(made._few_rows, panels=True)
        made.lay_out_panels()
        assert made._unchanged_panels(0) is made._panels[0]


def test_an_engine_lays_out_what_has_changed(model):
    engine = InferenceEngine(model, num_blocks=50, weight_panels=True)
    assert len(engine.generate([[1, 2, 3]], progress=False)) == 1
    model.layers[1].gate_up.mul_(-2)
    assert not torch.equal(columns_of(model._panels[1]), model.layers[1].gate_up)
    InferenceEngine(model, num_blocks=50, weight_panels=False)
    assert torch.equal(columns_of(model._panels[1]), model.layers[1].gate_up)


def test_an_engine_that_is_not_made_takes_nothing(model, monkeypatch):
    InferenceEngine(model, num_blocks=50, weight_panels=False)
    for wrong in ({"num_blocks": 0}, {"block_size": 0}, {"num_blocks": None, "gpu_memory_fraction": 2.0}):
        with pytest.raises(errors.InvalidArgumentError):
            InferenceEngine(model, weight_panels=True, **{"num_blocks": 50, **wrong})
    assert not model.has_panels

    def no_room(*_):
        raise torch.OutOfMemoryError("none")

    monkeypatch.setattr(model, "_empty", no_room)
    with pytest.raises(errors.CacheAllocationError, match=r"MiB of weights in panels do not fit on cpu"):
        InferenceEngine(model, num_blocks=50, weight_panels=True)
    assert not model.has_panels
