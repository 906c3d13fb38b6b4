"""`PagedMistral` computes what Transformers' `MistralForCausalLM` computes on the same checkpoint."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_checkpoints import VARIANTS, Reference, reference_of, saved
from paged_serving import ArrayServing, Serving
from test_tiny_model import Paged, prompts_of

from nano_batch import errors
from nano_batch.kv_cache import KVCache
from nano_batch.models import MistralConfig, PagedInputs, PagedMistral, load_mistral
from nano_batch.models.mistral import SHAPES
from nano_batch.simulator import model_card

TOLERANCE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Make (our model, the reference) of a variant, each once."""
    made = {}

    def make(variant="plain"):
        if variant not in made:
            reference = reference_of(seed=len(made), **VARIANTS[variant])
            folder = saved(tmp_path_factory.mktemp("checkpoint"), reference)
            made[variant] = load_mistral(folder), Reference(reference)
        return made[variant]

    return make


@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_prompts(pair, variant):
    model, reference = pair(variant)
    for prompt in prompts_of(model, [1, 2, 150], seed=1):
        torch.testing.assert_close(model.dense(prompt), reference.dense(prompt), **TOLERANCE)


def test_every_variant_is_another_model(pair):
    """What the comparison rests on: leaving a setting out changes the logits by far more than the bound."""
    (prompt,) = prompts_of(pair()[0], [150], seed=1)
    for variant, changes in VARIANTS.items():
        if {"sliding_window", "rope_parameters", "rms_norm_eps"} & changes.keys():
            reference = pair(variant)[1]
            plain = Reference(reference_of(tie_word_embeddings=variant == "tied"))
            plain.model.load_state_dict(reference.model.state_dict())
            assert (plain.dense(prompt) - reference.dense(prompt)).abs().max() > 1e-2, variant


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("block_size", [1, 5, 16])
def test_chunks_and_decodes(pair, variant, block_size):
    model, reference = pair(variant)
    prompts = prompts_of(model, [30, 7, 11], seed=block_size)
    paged = Paged(model, block_size, prompts)
    parts = [[], [], []]
    for counts in ([1, 1, 4], [1, 3, 5], [27, 1, 1], [1, 2, 1]):
        for row, logits in enumerate(paged.step(counts)):
            parts[row].append(logits)
    for prompt, logits in zip(prompts, parts, strict=True):
        torch.testing.assert_close(torch.cat(logits), reference.dense(prompt), **TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(), variant=st.sampled_from(["plain", "window", "yarn"]), block_size=st.integers(1, 20),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)  # fmt: skip
def test_any_chunks(pair, data, variant, block_size, lengths):
    model, reference = pair(variant)
    prompts = prompts_of(model, lengths, seed=sum(lengths))
    paged = Paged(model, block_size, prompts)
    parts, left = [[] for _ in prompts], list(lengths)
    while any(left):
        counts = [data.draw(st.integers(0, most)) for most in left]
        if not any(counts):
            counts = left
        left = [most - count for most, count in zip(left, counts, strict=True)]
        for row, logits in enumerate(paged.step(counts)):
            parts[row].append(logits)
    for prompt, logits in zip(prompts, parts, strict=True):
        torch.testing.assert_close(torch.cat(logits), reference.dense(prompt), **TOLERANCE)


class Greedy(Serving):
    """Serves the likeliest tokens, and holds them against the reference."""

    def __init__(self, model, reference, *args, **options):
        super().__init__(model, *args, **options)
        self.model = reference

    def choose(self, name, logits, rank=None):
        return super().choose(name, logits, 0)


# Many short prompts, which the window lets in together, so that later not even their windows fit.
CROWDS = {
    None: {"lengths": [12, 3, 40, 9, 22, 1, 31, 14, 5], "num_blocks": 60, "block_size": 4, "budget": 24},
    7: {
        "lengths": [4, 1, 2, 1, 1, 2, 1, 40, 1, 2, 22, 31, 1], "num_blocks": 14, "block_size": 2, "budget": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("variant", ["plain", "window", "tied", "llama3"])
def test_greedy_tokens_of_a_crowded_engine(pair, variant, preemption):
    """64 tokens each; prompts of mixed lengths, half of them with one beginning, and too few blocks.

    Without the prefix cache, which would know all blocks but the last, whole tables are swapped.
    """
    model, reference = pair(variant)
    crowd, swaps = CROWDS[model.config.sliding_window], preemption == "swap"
    serving = Greedy(
        model, reference, crowd["num_blocks"], crowd["block_size"], preemption=preemption,
        num_swap_blocks=40 if swaps else 0, enable_prefix_caching=not swaps, watermark=0.0,
        max_num_batched_tokens=crowd["budget"], max_num_seqs=8,
    )  # fmt: skip
    shared, *prompts = prompts_of(model, crowd["lengths"], seed=4)
    for index, prompt in enumerate(prompts):
        serving.add(f"r{index}", shared + prompt if index % 2 else prompt, 64)
    serving.run()
    assert {len(tokens) for tokens in serving.tokens.values()} == {64}
    seen = serving.seen
    assert seen["preempted"] > 0
    assert seen["mixed"] > 0
    assert (seen["cached"] > 0) == (not swaps)
    assert (seen["swap_in"] > 0) == swaps


def test_greedy_tokens_of_generate(pair):
    model, reference = pair("window")
    serving = Greedy(model, reference, 100, 8)
    for index, prompt in enumerate(prompts_of(model, [20, 1, 33], seed=9)):
        serving.add(f"r{index}", prompt, 64)
    serving.run()
    for name, tokens in serving.tokens.items():
        prompt = serving.prompts[name]
        given = reference.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert tokens == given[0, len(prompt) :].tolist()
        assert len(set(tokens)) > 8


@pytest.mark.parametrize("depth", [0, 1])
def test_the_array_form(pair, depth):
    model, reference = pair("yarn")
    serving = ArrayServing(
        model, 24, 4, depth=depth, padded=True, max_num_seqs=4, max_num_batched_tokens=24, watermark=0.0
    )
    serving.model = reference
    for index, prompt in enumerate(prompts_of(model, [20, 3, 11, 30, 8], seed=depth)):
        serving.add(f"r{index}", prompt, 40)
    serving.run()
    assert serving.seen["preempted"] > 0
    assert (serving.seen["unknown"] > 0) == (depth > 0)


def one_prompt(model, tokens, **changes):
    """The inputs of a prompt's only step, and a cache for it."""
    count = len(tokens)
    inputs = PagedInputs(
        torch.tensor(tokens), torch.arange(count), list(range(count)),
        torch.arange(-(-count // 4), dtype=torch.int32)[None], torch.tensor([count]),
        torch.tensor([0, count]), **changes,
    )  # fmt: skip
    return inputs, model.new_cache(-(-count // 4), 4)


def test_logits_of_the_tokens_asked_for(pair):
    model, reference = pair()
    (prompt,) = prompts_of(model, [20], seed=2)
    for wanted in ([19], [3, 0, 19], []):
        inputs, cache = one_prompt(model, prompt, logit_tokens=torch.tensor(wanted, dtype=torch.int32))
        logits = model.paged(inputs, cache)
        assert logits.shape == (len(wanted), 97)
        torch.testing.assert_close(logits, reference.dense(prompt)[wanted], **TOLERANCE)


def test_the_last_layer_computes_only_what_is_asked_for(pair, monkeypatch):
    model, _ = pair()
    rows, gated = [], PagedMistral._gated
    monkeypatch.setattr(PagedMistral, "_gated", lambda *args: rows.append(len(args[1].rows)) or gated(*args))
    (prompt,) = prompts_of(model, [20], seed=2)
    inputs, cache = one_prompt(model, prompt, logit_tokens=torch.tensor([19, 4], dtype=torch.int32))
    model.paged(inputs, cache)
    assert rows == [20] * (model.config.num_layers - 1) + [2]


@pytest.mark.parametrize("variant", ["plain", "tied"])
def test_norms_may_be_divided_by_the_product_after_them(pair, variant, monkeypatch):
    model, reference = pair(variant)
    monkeypatch.setattr(model, "_few_rows", replace(model._few_rows, linear=16, undivided=16))
    for prompt in prompts_of(model, [1, 9, 16, 17], seed=3):
        expected = reference.dense(prompt)
        torch.testing.assert_close(model.dense(prompt), expected, **TOLERANCE)
        last = len(prompt) - 1
        inputs, cache = one_prompt(model, prompt, logit_tokens=torch.tensor([last, 0], dtype=torch.int32))
        torch.testing.assert_close(model.paged(inputs, cache), expected[[last, 0]], **TOLERANCE)


def test_a_quantised_cache_is_read_with_its_scales(pair):
    """Scales far from 1: one that is left out anywhere is an error as large as the logits themselves."""
    model, reference = pair()
    (prompt,) = prompts_of(model, [20], seed=2)
    inputs, plain = one_prompt(model, prompt)
    cache = KVCache(
        plain.num_blocks, 4, 2, 16, torch.float8_e4m3fn, "cpu", num_layers=3, key_scale=0.03, value_scale=0.02
    )
    exact = reference.dense(prompt)
    again = PagedInputs(
        torch.tensor(prompt[-1:]), torch.tensor([19]), [19], inputs.block_tables, inputs.context_lens,
        torch.tensor([0, 1]),
    )  # fmt: skip
    logits = model.paged(inputs, cache)
    assert 0 < (logits - exact).abs().mean() < 0.1 * exact.std()
    torch.testing.assert_close(model.paged(again, cache), logits[-1:], **TOLERANCE)


def test_a_context_past_the_last_position_is_refused(pair):
    model, _ = pair()
    prompt = [1] * 513
    with pytest.raises(errors.ContextLengthError, match="513 tokens; max_position_embeddings is 512"):
        model.paged(*one_prompt(model, prompt))
    with pytest.raises(errors.ContextLengthError, match="513 tokens"):
        model.dense(prompt)
    assert model.paged(*one_prompt(model, prompt[1:])).isfinite().all()


def test_a_cache_of_another_model_is_refused(pair):
    model, _ = pair()
    inputs, _ = one_prompt(model, [1, 2])
    with pytest.raises(errors.ShapeError, match="the cache has 3 layers of 4 heads of 16"):
        model.paged(inputs, pair("one head each")[0].new_cache(4, 4))


@pytest.mark.parametrize("variant", ["plain", "tied"])
def test_every_weight_is_stored_once(pair, variant):
    model, reference = pair(variant)
    held = [model.embedding, model.head, model.final_norm]
    held += [weight for layer in model.layers for weight in vars(layer).values()]
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in held}
    numbers = sum(weight.numel() for weight in reference.model.parameters())
    assert sum(storages.values()) == model.weight_bytes == 4 * numbers
    assert {view.untyped_storage().data_ptr() for view in model.state_dict().values()} == storages.keys()


def test_transformers_takes_our_weights():
    """A model with random weights goes to Transformers by name, so that both can be compared at any size."""
    model = load_mistral("tiny", load_format="dummy", seed=3)
    c = model.config
    reference = reference_of(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads,
    )  # fmt: skip
    reference.load_state_dict(model.state_dict(), assign=True)
    (prompt,) = prompts_of(model, [60], seed=3)
    torch.testing.assert_close(model.dense(prompt), Reference(reference).dense(prompt), **TOLERANCE)


@pytest.mark.parametrize("name", ["mistral-7b-v0.1", "mistral-7b-v0.3"])
def test_a_named_shape_is_its_card(name):
    shape, card = MistralConfig.named(name), model_card(name)
    for field in (
        "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads",
        "head_dim", "sliding_window",
    ):  # fmt: skip
        assert getattr(shape, field) == getattr(card, field), field
    assert shape.max_position_embeddings == card.max_model_len
    assert shape.tie_word_embeddings == card.tied_embeddings
    model = PagedMistral(shape, device="meta")
    assert model.weight_bytes == card.parameters * card.bytes_per_parameter


def test_small_shapes():
    tiny, small = SHAPES["tiny"], SHAPES["small"]
    sizes = (tiny.num_layers, tiny.hidden_size, tiny.num_heads, tiny.num_kv_heads, tiny.head_dim)
    assert sizes == (4, 256, 8, 2, 32)
    assert (tiny.intermediate_size, tiny.vocab_size) == (896, 4096)
    sizes = (small.num_layers, small.hidden_size, small.num_heads, small.num_kv_heads, small.head_dim)
    assert sizes == (12, 768, 12, 4, 64)
    assert (small.intermediate_size, small.vocab_size) == (2048, 32_000)
    with pytest.raises(errors.UnknownOptionError, match="did you mean 'tiny'"):
        MistralConfig.named("tine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0"),
        ({"num_kv_heads": 5}, "num_kv_heads=5 does not divide num_heads=32"),
        ({"head_dim": 7}, "head_dim=7 is not even"),
        ({"sliding_window": 0}, "sliding_window=0"),
        ({"rope_theta": 1.0}, r"rope_theta=1.0"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps=-1e-05"),
    ],
)
def test_sizes_that_make_no_model_are_refused(change, message):
    with pytest.raises(errors.InvalidArgumentError, match=message):
        MistralConfig(**change)


def test_dtypes_and_devices_that_hold_no_model_are_refused():
    with pytest.raises(errors.DtypeError, match=r"dtype=torch.int8"):
        PagedMistral(SHAPES["tiny"], dtype=torch.int8)
    with pytest.raises(errors.DeviceError, match="device='nowhere'"):
        PagedMistral(SHAPES["tiny"], device="nowhere")


def test_random_prompts_part(pair):
    """Tokens of the crowded engine are no single word repeated, and prompts matter."""
    model, _ = pair()
    rng = random.Random(0)
    ends = {int(model.dense([rng.randrange(97) for _ in range(9)])[-1].argmax()) for _ in range(20)}
    assert len(ends) > 8
