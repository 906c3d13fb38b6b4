"""Cost models by hand, their cards, and the features that they are given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nano_batch import Constant, Engine, Profile, Roofline, drive, simulate
from nano_batch.errors import InvalidArgumentError, ProfileError, UnknownOptionError
from nano_batch.simulator import StepFeatures, hardware_card, memory_tokens, model_card
from nano_batch.simulator.cards import HardwareName, ModelName
from nano_batch.simulator.costs import as_cost
from nano_batch.simulator.profiles import ProfileName
from nano_batch.workloads import Workload

LINE = {"pairs": [10, 20], "rows": [1, 3], "tokens": [8, 16, 32], "seconds": [1.0, 3.0]}


def profile(**changed):
    tables = {
        "linear": {"tokens": [8, 16, 32], "seconds": [1.0, 1.5, 3.5]},
        "decode_attention": {"sequences": [1, 4], "context": [100, 300], "seconds": [[1, 3], [2, 8]]},
        "prefill_attention": LINE,
        "sampling": LINE,
    }
    numbers = {"overhead_s": 10.0, "host_s": 0.5, "host_per_sequence_s": 0.25}
    moves = {"block_copy_s": 0.125, "block_swap_s": 0.0625}
    return {"version": 1, "tables": tables, **numbers, **moves, "batch_sizes": [4, 16], **changed}


def seconds(cost, **features):
    return as_cost(cost).core().step_time(StepFeatures(**features))


def test_a_roofline_by_hand():
    roofline = Roofline(
        flops_per_s=100.0, bytes_per_s=10.0, weight_bytes=50.0, flops_per_token=20.0, kv_bytes_per_token=2.0,
        flops_per_pair=4.0, flops_per_sample=30.0, block_bytes=8.0, host_bytes_per_s=4.0, overhead_s=1.0,
        host_s=0.5, host_per_sequence_s=0.25,
    )  # fmt: skip
    # Decodes: weights 5 s against (3 x 20 + 3 x 30) / 100; keys and values 2 x 40 / 10 against 4 x 40 / 100.
    decodes = {"decode_sequences": 3, "decode_context": 40, "sampled": 3}
    assert seconds(roofline, **decodes) == (0.5 + 3 * 0.25, 1.0 + 5.0 + 8.0)
    # A prompt: 60 x 20 / 100 s of matrices, 1,830 pairs x 4 / 100 against 60 x 2 / 10 of traffic.
    prompt = {"prefill_tokens": 60, "prefill_sequences": 1, "prefill_context": 60, "prefill_pairs": 1830}
    assert seconds(roofline, **prompt) == pytest.approx((0.75, 1.0 + 12.0 + 73.2))
    # Only movement: 3 blocks to and from the host, 2 copied.
    moved = {"blocks_swapped_in": 1, "blocks_swapped_out": 2, "blocks_copied": 2}
    assert seconds(roofline, **moved) == (0.5, 1.0 + 3 * 8 / 4 + 2 * 2 * 8 / 10)


def test_a_profile_by_hand():
    cost = Profile(profile())
    # 3 decodes are padded to 4, below the first point; 3 of mean context 200: between all four corners.
    at = 1.0 + (3 - 1) / 3 * (2.0 - 1.0), 3.0 + (3 - 1) / 3 * (8.0 - 3.0)
    attention = (at[0] + at[1]) / 2
    given = {"decode_sequences": 3, "decode_context": 600, "sampled": 2}
    assert seconds(cost, **given) == pytest.approx((0.5 + 0.75, 10 + 1.0 + attention + 2.0))
    # 5 decodes are padded to 16; context and sequences beyond the last point go on in a line.
    beyond = {"decode_sequences": 5, "decode_context": 5 * 400}
    corner = (2 + (8 - 2) * 1.5) + ((2 + (8 - 2) * 1.5) - (1 + (3 - 1) * 1.5)) / 3
    assert seconds(cost, **beyond)[1] == pytest.approx(10 + 1.5 + corner)
    # A prompt is not padded: 24 tokens lie halfway; 25 pairs beyond the end.
    prompt = {"prefill_tokens": 20, "decode_sequences": 4, "decode_context": 400, "prefill_sequences": 1}
    assert seconds(cost, **prompt, prefill_pairs=25)[1] == pytest.approx(10 + 2.5 + 2.0 + 4.0)
    assert seconds(cost, blocks_copied=2, blocks_swapped_in=4)[1] == pytest.approx(10 + 0.25 + 0.25)


@pytest.mark.parametrize("name", ProfileName.__args__)
def test_a_profile_that_comes_with_the_package_tells_the_steps_it_was_held_against(name):
    shipped = Profile.of(name)
    errors = []
    for row in shipped.content["fit_error"]["steps"]:
        decodes, prompt = row["decodes"], row["prompt"]
        told = (
            seconds(
                shipped,
                prefill_tokens=prompt,
                prefill_sequences=int(prompt > 0),
                decode_sequences=decodes,
                decode_context=decodes * row["context"],
                prefill_pairs=prompt * (prompt + 1) // 2,
                sampled=decodes + int(prompt > 0),
            )[1]
            - shipped.content["overhead_s"]
        )
        errors.append(abs(told - row["measured_s"]) / row["measured_s"])
    assert max(errors) == pytest.approx(shipped.content["fit_error"]["max"])
    assert np.median(errors) == pytest.approx(shipped.content["fit_error"]["median"])
    assert np.median(errors) < 0.03
    assert {"device", "date", "commit", "versions"} <= shipped.content.keys()


@pytest.mark.parametrize("gpu", ["h100", "h200"])
def test_a_measured_step_is_never_faster_than_its_roofline(gpu):
    bound = Roofline.of(gpu, "mistral-7b-v0.3", overhead_s=0.0)
    for row in Profile.of(f"{gpu}-mistral-7b").content["fit_error"]["steps"]:
        decodes, prompt = row["decodes"], row["prompt"]
        least = seconds(
            bound,
            prefill_tokens=prompt,
            decode_sequences=decodes,
            decode_context=decodes * row["context"],
            prefill_context=prompt,
            prefill_pairs=prompt * (prompt + 1) // 2,
            sampled=decodes + int(prompt > 0),
        )[1]
        assert least < row["measured_s"]


def test_a_profile_goes_through_its_file(tmp_path):
    Profile(profile(device="x")).save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again.content == profile(device="x")
    assert again.describe()["profile"]["device"] == "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this package reads 1"),
        ({"overhead_s": -1.0}, "device time of a step is -1"),
        ({"batch_sizes": [4, 2]}, r"batch_sizes is \[4, 2\]"),
        ({"tables": {}}, "lacks 'linear'"),
        ({"tables": profile()["tables"] | {"linear": {"tokens": [2, 1], "seconds": [1, 1]}}}, "ascending"),
        ({"tables": profile()["tables"] | {"sampling": {"rows": [1, 2], "seconds": [1]}}}, "1 times"),
        ({"tables": profile()["tables"] | {"sampling": {"rows": [1], "seconds": [-1]}}}, "at least 0"),
    ],
)
def test_a_bad_profile_fails_by_name(tmp_path, change, message):
    (tmp_path / "bad.json").write_text(json.dumps(profile(**change)))
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.load(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)


def test_a_constant_and_a_function():
    assert seconds(Constant(0.02, host_s=0.01)) == (0.01, 0.02)
    assert seconds(0.5) == (0.0, 0.5)
    assert seconds(lambda features: features.sampled * 0.1, sampled=3) == pytest.approx((0.0, 0.3))
    assert seconds(lambda features: (1, 2.0)) == (1.0, 2.0)


@pytest.mark.parametrize(
    "bad", [float("nan"), -1.0, float("inf"), lambda features: float("nan"), lambda _: -2]
)
def test_times_that_are_none_are_refused(bad):
    with pytest.raises(InvalidArgumentError, match="time of a step is"):
        simulate(Workload([0.0], [4], [2]), cost=bad, num_blocks=8)


def test_what_a_cost_function_raises_comes_through():
    def fails(features):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        simulate(Workload([0.0], [4], [2]), cost=fails, num_blocks=8)
    with pytest.raises(InvalidArgumentError, match="cost is 'fast'"):
        simulate(Workload([0.0], [4], [2]), cost="fast", num_blocks=8)


@pytest.mark.parametrize("window", [None, 6, 20])
def test_features_of_every_step_are_those_of_its_rows(window):
    """Against the rows of a hand-driven engine's steps."""
    workload = Workload.synthetic(30, seed=2, rate=30.0, prompts=40, outputs=12)
    options = {"num_blocks": 60, "block_size": 4, "max_num_seqs": 6, "max_num_batched_tokens": 32}
    seen = []

    def notes(features):
        seen.append({name: getattr(features, name) for name in dir(features) if name[0] != "_"})
        return 0.05

    simulate(workload, cost=notes, sliding_window=window, **options)
    wanted = []

    def expected(output):
        rows = list(zip(output.num_computed_tokens, output.num_tokens_per_request, strict=True))
        decodes, chunks = rows[: output.num_decodes], rows[output.num_decodes :]
        seen_keys = [min(start + 1, window or 10**9) for start, _ in decodes]
        pairs = sum(min(p + 1, window or 10**9) for start, n in chunks for p in range(start, start + n))
        wanted.append(
            {
                "prefill_tokens": sum(n for _, n in chunks),
                "prefill_sequences": len(chunks),
                "decode_sequences": len(decodes),
                "decode_context": sum(seen_keys),
                "decode_context_max": max(seen_keys, default=0),
                "prefill_context": sum(min(s + n, (window or 10**9) + n) for s, n in chunks),
                "prefill_pairs": pairs,
                "sampled": len(output.sampled_requests),
                "blocks_copied": len(output.copies),
                "blocks_swapped_out": len(output.swap_out),
                "blocks_swapped_in": len(output.swap_in),
            }
        )
        return 0.05

    drive(Engine(sliding_window=window, **options), workload, step_time_s=expected)
    assert seen == wanted


@pytest.mark.parametrize("name", ModelName.__args__)
def test_a_model_card_has_the_parameters_that_its_shape_has(name):
    card = model_card(name)
    embeddings = card.vocab_size * card.hidden_size * (1 if card.tied_embeddings else 2)
    norms = (2 * card.num_layers + 1) * card.hidden_size
    if not card.gated_mlp:  # OPT: biases, learned positions, norms with two vectors
        biases = 5 * card.hidden_size + card.intermediate_size
        norms = 2 * norms + card.num_layers * biases + (card.max_model_len + 2) * card.hidden_size
    assert card.linear_parameters + embeddings + norms == card.parameters


def test_mistral_on_an_h200_by_its_cards():
    card = model_card("mistral-7b-v0.1")
    assert card.kv_bytes_per_token == 131_072
    assert card.sliding_window == 4096
    roofline = Roofline.of("h200", "mistral-7b-v0.1", overhead_s=0.0)
    # One decode reads the weights but for the embedding: 14.2 GB at 4.8 TB/s.
    assert seconds(roofline, decode_sequences=1, decode_context=1, sampled=1)[1] == pytest.approx(
        2.96e-3, 2e-3
    )
    tokens = memory_tokens("h200", card, fraction=0.9)
    assert tokens * 131_072 + card.weight_bytes == pytest.approx(0.9 * 141e9, rel=1e-5)


@pytest.mark.parametrize("name", HardwareName.__args__)
def test_every_number_of_a_hardware_card_says_where_it_is_from(name):
    card = hardware_card(name)
    assert set(card.sources) == {"flops_per_s", "bytes_per_s", "memory_bytes", "host_bytes_per_s", "launch_s"}
    for kind, words in card.sources.values():
        assert kind in ("datasheet", "measured", "assumed")
        assert len(words) > 10


def test_misspelt_cards_and_memory_that_is_too_small():
    with pytest.raises(UnknownOptionError, match="did you mean 'h200'"):
        hardware_card("h20")
    with pytest.raises(UnknownOptionError, match="did you mean 'opt-125m'"):
        model_card("opt-125")
    with pytest.raises(InvalidArgumentError, match=r"Llama 2 7B has 12.6 GiB of weights"):
        memory_tokens("t4", "llama-2-7b", fraction=0.5)
    with pytest.raises(InvalidArgumentError, match="fraction is 0"):
        memory_tokens("t4", "opt-125m", fraction=0)


def test_numbers_of_a_roofline_are_checked():
    with pytest.raises(InvalidArgumentError, match="bytes_per_s is 0"):
        Roofline(1.0, 0.0, 1.0, 1.0).core()
    with pytest.raises(InvalidArgumentError, match="overhead_s is NaN"):
        Roofline(1.0, 1.0, 1.0, 1.0, overhead_s=np.nan).core()
