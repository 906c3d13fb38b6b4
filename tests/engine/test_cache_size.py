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
from nano_batch.lessons.same_model import paged_logits
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


@pytest.fixture
def prepared(model):
    model.prepare()
    return model


def is_current(model):
    """Of what is prepared, whether it is read."""
    projected, *panels = model._prepared
    return [projected.of(*model._first_weights) is projected.tensor] + [
        each.of(layer.gate_up) is each.tensor for each, layer in zip(panels, model.layers, strict=True)
    ]


def test_what_is_prepared_is_of_the_weights_and_always_in_one_place(model):
    taken = model.preparing_bytes
    assert taken == sum(layer.gate_up.nbytes for layer in model.layers) + 4096 * 12 * 32 * 4
    model.prepare()
    assert (model.is_prepared, model.preparing_bytes) == (True, 0)
    assert sum(each.tensor.nbytes for each in model._prepared) == taken
    assert f"<td>prepared</td><td>{readable_bytes(taken)}" in model._repr_html_()
    places = [each.tensor.data_ptr() for each in model._prepared]
    for _ in range(2):
        assert is_current(model) == [True] * 5
        _, *panels = model._prepared
        for each, layer in zip(panels, model.layers, strict=True):
            assert each.tensor.is_contiguous()
            assert torch.equal(columns_of(each.tensor), layer.gate_up)
            layer.gate_up.mul_(-2)
        assert is_current(model) == [True, *[False] * 4]
        model.prepare()
    assert [each.tensor.data_ptr() for each in model._prepared] == places
    model.state_dict()["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    assert is_current(model) == [True, True, False, True, True]


def test_no_panels_where_nothing_reads_them():
    made = load_mistral("tiny", load_format="dummy")
    assert made.preparing_bytes == 4096 * 12 * 32 * 4
    made.prepare()
    assert len(made._prepared) == 1


WORDS = torch.tensor([4095, 0, 7, 7, 1024])


def check_start(model):
    ours, plain = (model._started(WORDS, prepared=prepared) for prepared in (True, False))
    assert torch.equal(ours[0], model.embedding[WORDS])
    assert torch.equal(ours[0], plain[0])
    torch.testing.assert_close(ours[1], plain[1], rtol=1e-5, atol=1e-5 * float(plain[1].abs().max()))


def change_words(model):
    model.state_dict()["model.embed_tokens.weight"].mul_(-2)


def change_norm(model):
    model.layers[0].attention_norm[3:] += 1


def change_keys(model):
    model.state_dict()["model.layers.0.self_attn.k_proj.weight"].mul_(-2)


def other_words(model):
    model.embedding = model.embedding.flip(0)


def other_layer(model):
    model.layers[0] = replace(model.layers[0], qkv=-model.layers[0].qkv)


@pytest.mark.parametrize("change", [change_words, change_norm, change_keys, other_words, other_layer])
def test_prepared_or_not_the_first_layer_starts_alike(prepared, change):
    """Also when weights have changed, before and after they are prepared anew."""
    check_start(prepared)
    change(prepared)
    assert is_current(prepared)[0] is False
    check_start(prepared)
    prepared.prepare()
    assert is_current(prepared)[0]
    check_start(prepared)


def test_steps_read_what_is_prepared_and_the_reference_does_not(prepared):
    tokens = [5, 4000, 17]
    dense, paged = prepared.dense(tokens), paged_logits(prepared, tokens)
    torch.testing.assert_close(paged, dense, rtol=1e-4, atol=1e-4)
    prepared._prepared[0].tensor.zero_()
    assert torch.equal(prepared.dense(tokens), dense)
    assert not torch.allclose(paged_logits(prepared, tokens), dense, atol=1e-2)


def test_a_trace_computes_from_the_weights(prepared):
    traced = torch.compile(
        lambda words: prepared._started(words, prepared=True), fullgraph=True, backend="eager"
    )
    for _ in range(2):
        plain = prepared._started(WORDS, prepared=False)[1]
        assert torch.equal(traced(WORDS)[1], plain)
        prepared.layers[0].qkv.mul_(-2)


@pytest.mark.parametrize("inside", ["weights", "preparing", "both"])
def test_weights_of_inference_mode_are_prepared_too(inside):
    """And anew outside of it, by an engine."""
    with torch.inference_mode(inside != "preparing"):
        made = load_mistral("tiny", load_format="dummy")
        made._few_rows = replace(made._few_rows, panels=True)
    with torch.inference_mode(inside != "weights"):
        made.prepare()
        assert is_current(made) == [True] * 5
        check_start(made)
    made.prepare()
    InferenceEngine(made, num_blocks=50, prepare_weights=False)
    assert is_current(made) == [True] * 5


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
    assert is_current(model) == [False] * 5
    again = InferenceEngine(model, num_blocks=50, prepare_weights=False)
    assert is_current(model) == [True] * 5
    assert tokens_of(again) == changed


def test_an_engine_refused_for_its_arguments_takes_nothing(model, monkeypatch):
    InferenceEngine(model, num_blocks=50, prepare_weights=False)
    for wrong in ({"num_blocks": 0}, {"block_size": 0}, {"num_blocks": None, "gpu_memory_fraction": 2.0}):
        with pytest.raises(errors.InvalidArgumentError):
            InferenceEngine(model, prepare_weights=True, **{"num_blocks": 50, **wrong})
    assert not model.is_prepared


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])  # of CUDA, of a CPU
def test_without_room_nothing_is_prepared(model, monkeypatch, error):
    def no_room(*_):
        raise error("none")

    monkeypatch.setattr(model, "_empty", no_room)
    with pytest.raises(errors.CacheAllocationError, match="13 MiB of prepared weights do not fit on cpu"):
        InferenceEngine(model, num_blocks=50, prepare_weights=True)
    assert not model.is_prepared


def test_what_could_not_be_prepared_anew_is_not_read(prepared, monkeypatch):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("none")

    with monkeypatch.context() as patched:
        patched.setattr(prepared, "_product", no_room)
        with pytest.raises(torch.OutOfMemoryError):
            prepared.prepare()
    assert is_current(prepared) == [False] * 5
    check_start(prepared)
