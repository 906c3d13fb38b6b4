"""What a device's memory is for: when weights are prepared, and what is then kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from nano_batch import InferenceEngine, errors
from nano_batch.display import readable_bytes
from nano_batch.engine import SamplingParams
from nano_batch.engine.cache_size import prepared_fit
from nano_batch.kv_cache import KVCache
from nano_batch.models import load_mistral

GIB = 2**30


def a_model(preparing_bytes, device="cuda"):
    """One whose cache has blocks of a MiB."""

    def new_cache(num_blocks, block_size, dtype):
        return KVCache(num_blocks, block_size, 8, 1024, dtype, "cpu", num_layers=2)

    return SimpleNamespace(preparing_bytes=preparing_bytes, device=torch.device(device), new_cache=new_cache)


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
def test_weights_are_prepared_where_that_costs_little(
    monkeypatch, needed, free, num_blocks, most_blocks, fraction, fits
):
    """Of 80 GiB, of which 3 are PyTorch's own and free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: ((free - 3) * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * GIB)
    sizes = {"fraction": fraction, "num_blocks": num_blocks, "most_blocks": most_blocks}
    assert prepared_fit(a_model(needed * GIB), 16, torch.float16, **sizes) is fits


def test_a_cpu_s_weights_are_prepared_when_asked_for():
    sizes = {"fraction": 0.9, "num_blocks": 4, "most_blocks": 4}
    assert not prepared_fit(a_model(1, "cpu"), 16, torch.float32, **sizes)
    assert prepared_fit(a_model(0, "cpu"), 16, torch.float32, **sizes)


@pytest.fixture
def model():
    """With panels, as on Hopper, though nothing reads them here."""
    made = load_mistral("tiny", load_format="dummy")
    made._few_rows = replace(made._few_rows, panels=True)
    return made


def columns_of(panels):
    """Of the matrix of which they are panels."""
    return torch.cat(list(panels), dim=1)


def kept(model):
    return [made.tensor for made in (model._projected, *model._panels)]


def test_each_layer_s_panels_are_its_weight_always_in_one_place(model):
    taken = model.preparing_bytes
    assert taken == sum(layer.gate_up.nbytes for layer in model.layers) + 4096 * 12 * 32 * 4
    model.prepare()
    assert (model.is_prepared, model.preparing_bytes) == (True, 0)
    assert sum(tensor.nbytes for tensor in kept(model)) == taken
    assert f"<td>prepared</td><td>{readable_bytes(taken)}" in model._repr_html_()
    places = [tensor.data_ptr() for tensor in kept(model)]
    for _ in range(2):
        for made, layer in zip(model._panels, model.layers, strict=True):
            assert made.tensor.is_contiguous()
            assert torch.equal(columns_of(made.unchanged), layer.gate_up)
            layer.gate_up.mul_(-2)
            assert made.unchanged is None
        assert model._projected.unchanged is not None
        model.prepare()
    assert [tensor.data_ptr() for tensor in kept(model)] == places
    view = model.state_dict()["model.layers.1.mlp.up_proj.weight"]
    view[0, 0] += 1
    assert [made.unchanged is None for made in model._panels] == [False, True, False, False]


def test_no_panels_where_nothing_reads_them():
    made = load_mistral("tiny", load_format="dummy")
    assert made.preparing_bytes == 4096 * 12 * 32 * 4
    made.prepare()
    assert made._panels == []


@pytest.mark.parametrize("part", ["model.embed_tokens", "model.layers.0.input_layernorm",
                                  "model.layers.0.self_attn.k_proj"])  # fmt: skip
def test_prepared_or_not_a_model_computes_the_same(part):
    """Also of words whose rows have changed since, before and after they are prepared anew."""
    model = load_mistral("tiny", load_format="dummy")
    words = torch.tensor([4095, 0, 7, 7, 128])

    def check(ready):
        ours, plain = (model._started(words, prepared) for prepared in (True, False))
        assert all(map(torch.equal, ours, plain))
        assert torch.equal(plain[0], model.embedding[words])
        tensor = model._projected.unchanged
        assert (tensor is not None) == ready
        assert not ready or torch.equal(tensor[words], ours[1])

    model.prepare()
    check(True)
    model.state_dict()[f"{part}.weight"].mul_(-2)
    check(False)
    model.prepare()
    check(True)


def test_weights_of_inference_mode_are_prepared_too():
    with torch.inference_mode():
        made = load_mistral("tiny", load_format="dummy")
        made._few_rows = replace(made._few_rows, panels=True)
        made.prepare()
        assert all(each.unchanged is each.tensor for each in (made._projected, *made._panels))


def test_an_engine_prepares_what_has_changed(model):
    prompts = [[1, 2, 3], [4, 5]]

    def tokens_of(engine):
        params = SamplingParams(temperature=0.0, max_tokens=9)
        return [output.token_ids for output in engine.generate(prompts, params, progress=False)]

    expected = tokens_of(InferenceEngine(model, num_blocks=50))
    assert not model.is_prepared
    engine = InferenceEngine(model, num_blocks=50, prepare_weights=True)
    assert tokens_of(engine) == expected
    for layer in model.layers:
        layer.gate_up.mul_(-2)
        layer.qkv.mul_(-2)
    changed = tokens_of(engine)
    assert changed != expected
    assert all(made.unchanged is None for made in (model._projected, *model._panels))
    again = InferenceEngine(model, num_blocks=50, prepare_weights=False)
    assert all(made.unchanged is not None for made in (model._projected, *model._panels))
    assert tokens_of(again) == changed


def test_an_engine_that_is_not_made_takes_nothing(model, monkeypatch):
    InferenceEngine(model, num_blocks=50, prepare_weights=False)
    for wrong in ({"num_blocks": 0}, {"block_size": 0}, {"num_blocks": None, "gpu_memory_fraction": 2.0}):
        with pytest.raises(errors.InvalidArgumentError):
            InferenceEngine(model, prepare_weights=True, **{"num_blocks": 50, **wrong})
    assert not model.is_prepared

    def no_room(*_):
        raise torch.OutOfMemoryError("none")

    monkeypatch.setattr(model, "_empty", no_room)
    with pytest.raises(errors.CacheAllocationError, match=r"MiB of prepared weights do not fit on cpu"):
        InferenceEngine(model, num_blocks=50, prepare_weights=True)
    assert not model.is_prepared
