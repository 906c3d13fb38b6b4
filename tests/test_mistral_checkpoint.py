"""Checkpoints of any form load to their numbers; what cannot be loaded is refused, all of it by name."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from mistral_checkpoints import VARIANTS, Reference, reference_of, saved

from nano_batch import errors
from nano_batch.models import RopeScaling, load_mistral
from nano_batch.models.mistral_config import config_of, read_config

safetensors = pytest.importorskip("safetensors.torch")
PROMPT = [5, 17, 3, 90, 41, 8, 8, 60, 2, 77, 31]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "model", reference_of())


def weights_of(folder):
    return safetensors.load_file(folder / "model.safetensors")


def change_config(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))


def same_weights(model, reference):
    """Whether every weight of our model is bit for bit that of a state dict."""
    ours = model.state_dict()
    assert len(ours) > 20
    return all(torch.equal(view, reference[name].to(view.dtype)) for name, view in ours.items())


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", [None, *DTYPES, torch.float64])
def test_dtypes(tmp_path, stored, wanted):
    """A checkpoint of any dtype loads to its own numbers, rounded once to the dtype asked for."""
    reference = reference_of(dtype=stored)
    model = load_mistral(saved(tmp_path, reference), dtype=wanted)
    assert model.dtype == (wanted or stored)
    assert same_weights(model, reference.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_nearly_the_same(tmp_path, dtype):
    """The error that the dtype makes is as large in Transformers."""
    reference = reference_of(dtype=dtype)
    model = load_mistral(saved(tmp_path, reference))
    exact = Reference(reference_of(dtype=dtype).float()).dense(PROMPT)
    theirs = (Reference(reference).dense(PROMPT).float() - exact).abs().mean()
    ours = (model.dense(PROMPT).float() - exact).abs().mean()
    assert 0 < ours < 1.5 * theirs
    assert theirs < 0.1


@pytest.mark.parametrize("variant", ["plain", "tied"])
def test_shards(tmp_path, variant):
    reference = reference_of(**VARIANTS[variant])
    sharded = saved(tmp_path, reference, max_shard_size="60KB")
    assert len(list(sharded.glob("model-*-of-*.safetensors"))) > 3
    assert not (sharded / "model.safetensors").exists()
    assert same_weights(load_mistral(sharded), reference.state_dict())


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path):
    folder = saved(tmp_path, reference_of(tie_word_embeddings=True))
    weights = weights_of(folder)
    assert "lm_head.weight" not in weights
    head = weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    safetensors.save_file(weights, folder / "model.safetensors")
    model = load_mistral(folder)
    assert model.head is model.embedding
    head[3, 5] += 1
    safetensors.save_file(weights, folder / "model.safetensors")
    with pytest.raises(errors.CheckpointError, match=r"lm_head.weight differs from the embedding"):
        load_mistral(folder)


def test_all_that_is_wrong_with_tensors_is_listed_at_once(folder):
    weights = weights_of(folder)
    del weights["model.norm.weight"], weights["model.layers.2.mlp.up_proj.weight"]
    weights["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(16, 64)
    weights["model.layers.1.mlp.down_proj.weight"] = torch.zeros(64, 112, dtype=torch.int32)
    weights["model.layers.3.mlp.up_proj.weight"] = torch.zeros(2)
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
    safetensors.save_file(weights, folder / "model.safetensors")
    with pytest.raises(errors.CheckpointError) as caught:
        load_mistral(folder)
    listed = str(caught.value).split(": ", 1)[1].split("; ")
    assert sorted(listed[:2]) == listed[:2]
    assert {text.split(";")[0] for text in listed} >= {
        "model.norm.weight is missing",
        "model.layers.2.mlp.up_proj.weight is missing",
        "model.layers.3.mlp.up_proj.weight is unknown",
        "model.layers.0.self_attn.q_proj.bias is unknown",
        "model.layers.0.self_attn.k_proj.weight has shape [16, 64]",
        "model.layers.1.mlp.down_proj.weight is I32",
    }
    assert "it needs [32, 64]" in listed


def test_buffers_of_old_versions_are_no_weights(folder):
    weights = weights_of(folder)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    safetensors.save_file(weights, folder / "model.safetensors")
    load_mistral(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_never_opened(folder, name):
    class Trap:
        def __reduce__(self):
            return (exec, ("import sys; sys.trapped = True",))

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Trap()}, folder / name)
    with pytest.raises(errors.CheckpointError, match=f"{name}: pickles are never loaded"):
        load_mistral(folder)
    assert not hasattr(sys, "trapped")


def test_folders_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(errors.CheckpointError, match=r"neither model.safetensors nor model.*index.json$"):
        load_mistral(folder)
    with pytest.raises(errors.CheckpointError, match=r"nowhere is not a folder"):
        load_mistral(folder / "nowhere")
    with pytest.raises(errors.CheckpointError, match="load_format='dummy' only"):
        load_mistral("tiny")


def test_damaged_files(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.CheckpointError, match=r"model.safetensors cannot be read"):
        load_mistral(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not an index of shards"),
        ("[]", "is not an index of shards"),
        ('{"weight_map": {}}', "it names no file"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "'../other.safetensors' is no file of this folder"),
        ('{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}', "two.safetensors is missing"),
    ],
)
def test_indices(folder, index, message):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(errors.CheckpointError, match=message):
        load_mistral(folder)


def test_a_tensor_in_two_shards(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    safetensors.save_file({"model.norm.weight": torch.ones(64)}, folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(errors.CheckpointError, match=r"model.norm.weight is in two files"):
        load_mistral(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; it needs 'mistral'"),
        ({"architectures": ["MixtralForCausalLM"]}, "architectures is .'MixtralForCausalLM'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not read"),
        ({"hidden_size": "gone"}, "hidden_size is missing"),
        ({"vocab_size": 0}, "vocab_size is 0; it needs a whole number of at least 1"),
        ({"sliding_window": 1.5}, "sliding_window is 1.5"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"head_dim": 15}, "head_dim=15 is not even"),
        ({"num_key_value_heads": 3}, "num_kv_heads=3 does not divide num_heads=4"),
        ({"dtype": "int8"}, "dtype is 'int8'; it needs one of float16, bfloat16, float32"),
        ({"rms_norm_eps": "small"}, "not supported between"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type is 'longrope'; it needs one of default"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor of rope_parameters is None"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor of rope_parameters"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5; it needs 1"),
        ({"rope_parameters": [1]}, "rope_parameters is .1.; it needs an object"),
        ({"rope_parameters": {"rope_type": "linear", "factor": -1.0}}, "factor=-1.0 of rope is not above 0"),
    ],
)
def test_configs_that_are_refused(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(errors.CheckpointError, match=message):
        load_mistral(folder)


def test_all_that_is_wrong_with_a_config_is_listed_at_once(folder):
    change_config(folder, model_type="llama", hidden_size="gone", vocab_size=-1, dtype="int8")
    with pytest.raises(errors.CheckpointError, match=r"model_type .*; hidden_size .*; vocab_size .*; dtype "):
        load_mistral(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "holds list; it needs an object")]
)
def test_configs_that_are_none(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(errors.CheckpointError, match=message):
        load_mistral(folder)
    (folder / "config.json").unlink()
    with pytest.raises(errors.CheckpointError, match=r"config.json cannot be read: No such file"):
        load_mistral(folder)


def test_older_configs(folder):
    """What Transformers wrote before version 5: theta on its own, `rope_scaling`, `torch_dtype`."""
    change_config(
        folder, rope_parameters="gone", dtype="gone", torch_dtype="bfloat16", rope_theta=500_000.0,
        rope_scaling={"type": "linear", "factor": 2.0},
    )  # fmt: skip
    config = read_config(folder)
    assert config.rope_theta == 500_000.0
    assert config.rope_scaling == RopeScaling("linear", 2.0, original_max_position_embeddings=512)
    assert config.dtype == torch.bfloat16
    change_config(folder, rope_scaling=None, head_dim="gone", sliding_window=4096)
    config = read_config(folder)
    assert config.rope_scaling == RopeScaling(original_max_position_embeddings=512)
    assert (config.head_dim, config.sliding_window) == (16, 4096)


def test_what_a_config_leaves_out_is_what_transformers_takes():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MistralConfig()
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    ours = config_of({"model_type": "mistral", "num_attention_heads": 8, **sizes})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.sliding_window == theirs.sliding_window
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_dummy_weights():
    """A seed is a model; a lower precision rounds the same numbers."""
    first, again, other = (load_mistral("tiny", load_format="dummy", seed=seed) for seed in (4, 4, 5))
    assert same_weights(again, first.state_dict())
    assert not same_weights(other, first.state_dict())
    rounded = load_mistral("tiny", load_format="dummy", seed=4, dtype=torch.bfloat16)
    assert same_weights(rounded, first.state_dict())
    assert first.layers[2].down.std() == pytest.approx(896**-0.5, rel=0.02)
    assert (first.final_norm == 1).all()
    assert first.dense(PROMPT).std() > 0.1


def test_dummy_weights_of_a_folder(folder):
    (folder / "model.safetensors").unlink()
    assert load_mistral(folder, load_format="dummy").config == read_config(folder)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True])
def test_seeds_that_are_refused(seed):
    with pytest.raises(errors.InvalidArgumentError, match=f"seed={seed}"):
        load_mistral("tiny", load_format="dummy", seed=seed)


def test_names_and_formats_that_are_unknown():
    with pytest.raises(errors.UnknownOptionError, match=r"did you mean 'mistral-7b-v0.3'"):
        load_mistral("mistral-7b-v03", load_format="dummy")
    with pytest.raises(errors.UnknownOptionError, match="did you mean 'dummy'"):
        load_mistral("tiny", load_format="dumy")


def test_without_safetensors(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(errors.MissingExtraError, match=r"nano-batch\[engine\]"):
        load_mistral(folder)
    assert load_mistral(folder, load_format="dummy").config.num_layers == 3
