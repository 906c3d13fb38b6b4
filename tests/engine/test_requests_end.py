"""How requests end, and what generate, stream and abort give."""

from __future__ import annotations

import json
import math

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from small_engines import GREEDY, VOCAB, Model, assert_idle, prompts_of, run_to_end  # noqa: E402
from small_tokenizers import byte_level  # noqa: E402

from nano_batch import InferenceEngine, SamplingParams, errors  # noqa: E402
from nano_batch.engine.text import CheckpointTokenizer  # noqa: E402

PROMPT, OTHER, THIRD = prompts_of(9, 14, 5, seed=20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model(tmp_path_factory.mktemp("checkpoint"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def plain(model):
    """24 greedy tokens."""
    (output,) = model.engine().generate(PROMPT, GREEDY, progress=False)
    model.assert_greedy(output, count=24)
    return output.token_ids


@pytest.fixture(params=[0, 1], ids=["waiting", "one in flight"])
def in_flight(request):
    return request.param


def greedy(**changes):
    return SamplingParams(**{"temperature": 0, "max_tokens": 24, **changes})


def only(engine, prompt, params):
    (output,) = engine.generate(prompt, params, progress=False)
    assert_idle(engine)
    return output


def first_place(tokens, least):
    """A place from `least` on whose token comes nowhere before."""
    return next(at for at in range(least, len(tokens)) if tokens[at] not in tokens[:at])


def test_a_stop_token_is_the_last(model, plain, in_flight):
    at = first_place(plain, 5)
    output = only(model.engine(steps_in_flight=in_flight), PROMPT, greedy(stop_token_ids=[plain[at], 96]))
    assert (output.token_ids, output.finish_reason) == (plain[: at + 1], "stop")


def test_the_end_of_sequence_token_ends_unless_ignored(model, plain, in_flight):
    at = first_place(plain, 7)
    engine = model.engine(steps_in_flight=in_flight, eos_token_ids=[plain[at]])
    params = [greedy(), greedy(ignore_eos=True), greedy(max_tokens=3), greedy(stop_token_ids=[plain[0]])]
    outputs = engine.generate([PROMPT] * 4, params, progress=False)
    assert [output.token_ids for output in outputs] == [plain[: at + 1], plain, plain[:3], plain[:1]]
    assert [output.finish_reason for output in outputs] == ["stop", "length", "length", "stop"]
    assert_idle(engine)


def test_min_tokens_come_before_a_stop_token(model, plain, in_flight):
    """Where the stop token would come, the next likeliest does."""
    engine = model.engine(steps_in_flight=in_flight, eos_token_ids=[plain[4]])
    output = only(engine, PROMPT, greedy(min_tokens=8))
    assert plain[4] not in output.token_ids[:8]
    assert len(output.token_ids) >= 8
    assert output.token_ids[: plain.index(plain[4])] == plain[: plain.index(plain[4])]
    # With the token out of reach for good it is the same request.
    ignoring = only(model.engine(), PROMPT, greedy(min_tokens=24, stop_token_ids=[plain[4]]))
    assert ignoring.token_ids[:8] == output.token_ids[:8]


def tokenizer_in(folder):
    byte_level(VOCAB).save(str(folder / "tokenizer.json"))
    return CheckpointTokenizer(folder)


def test_a_stop_string_cuts_the_text(model, plain, in_flight, tmp_path):
    tokenizer = tokenizer_in(tmp_path)
    text = tokenizer.decode(plain)
    engine = model.engine(tokenizer, steps_in_flight=in_flight)
    assert only(engine, PROMPT, GREEDY).text == text
    for stop in (text[5:8], [text[9], text[3:9]], text[-2:]):
        output = only(engine, PROMPT, greedy(stop=stop))
        place = min(
            at for word in ([stop] if isinstance(stop, str) else stop) if (at := text.find(word)) >= 0
        )
        assert output.text == text[:place]
        assert output.finish_reason == "stop"
        assert output.token_ids == plain[: len(output.token_ids)]
        assert output.metrics.output_tokens == len(output.token_ids)
    never = only(engine, PROMPT, greedy(stop="\u20ac"))
    assert (never.text, never.finish_reason) == (text, "length")


def test_strings_are_prompts(model, tmp_path):
    tokenizer = tokenizer_in(tmp_path)
    engine = model.engine(tokenizer)
    outputs = engine.generate(["hello", "ab"], GREEDY, progress=False)
    assert [output.prompt_token_ids for output in outputs] == [
        tokenizer.encode("hello"),
        tokenizer.encode("ab"),
    ]
    model.assert_greedy(*outputs, count=24)
    assert all(output.text == tokenizer.decode(output.token_ids) for output in outputs)
    assert only(engine, "hello", GREEDY).token_ids == outputs[0].token_ids


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor, lambda ids: list(np.array(ids))])
def test_ids_come_in_any_sequence_and_are_the_request_s_own(model, plain, make):
    given = make(PROMPT)
    engine = model.engine()
    output = engine.add_request("a", given, GREEDY)
    if not isinstance(given, tuple):
        given[0] = given[1]  # the caller's to change
    run_to_end(engine)
    assert output.token_ids == plain
    assert output.prompt_token_ids == PROMPT
    assert {type(token) for token in output.prompt_token_ids} == {int}


@pytest.mark.parametrize("prompt", [[True, False], [1.5], [[1], [2]], [1, [2]], [5, -1], [VOCAB], ["a"]])
def test_what_is_no_prompt_is_refused(model, prompt):
    engine = model.engine()
    with pytest.raises(errors.InvalidTokenError):
        engine.add_request("a", prompt, GREEDY)
    assert_idle(engine)


def test_sequences_of_one_prompt(model, in_flight):
    engine = model.engine(steps_in_flight=in_flight)
    output = only(engine, PROMPT, greedy(n=3, logprobs=1))
    model.assert_greedy(output, count=24)
    assert [one.index for one in output.sequences] == [0, 1, 2]
    assert len({tuple(one.token_ids) for one in output.sequences}) == 1
    assert output.metrics.output_tokens == 72
    output = only(engine, PROMPT, SamplingParams(n=8, max_tokens=20, seed=4, stop_token_ids=range(0, 97, 20)))
    long = [tuple(one.token_ids) for one in output.sequences if len(one.token_ids) > 3]
    assert len(set(long)) == len(long) >= 4
    for one in output.sequences:
        stops = [token % 20 == 0 for token in one.token_ids]
        assert not any(stops[:-1])
        assert one.finish_reason == ("stop" if stops[-1] else "length")
        assert stops[-1] or len(one.token_ids) == 20
    assert {one.finish_reason for one in output.sequences} == {"stop", "length"}


def test_a_seed_repeats_its_tokens_in_any_batch_position(model):
    engine = model.engine()
    params = SamplingParams(seed=5, max_tokens=12)
    first = only(engine, PROMPT, params).token_ids
    other = SamplingParams(seed=6, max_tokens=12)
    outputs = engine.generate([OTHER, THIRD, PROMPT, PROMPT], [other, GREEDY, params, other], progress=False)
    assert outputs[2].token_ids == first != outputs[3].token_ids


def test_logprobs_are_those_of_the_reference(model, in_flight):
    engine = model.engine(steps_in_flight=in_flight)
    output = only(engine, PROMPT, SamplingParams(seed=1, temperature=0.7, top_k=5, max_tokens=10, logprobs=4))
    with torch.no_grad():
        logits = model.reference(torch.tensor([[*PROMPT, *output.token_ids]])).logits[0]
    expected = logits[len(PROMPT) - 1 : -1].double().log_softmax(1)
    assert len(output.logprobs) == 10
    for told, token, row in zip(output.logprobs, output.token_ids, expected, strict=True):
        assert told.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert told.top_logprobs == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
        assert told.top_ids == row.topk(4).indices.tolist()
    assert only(engine, PROMPT, GREEDY).logprobs is None


def test_metrics(model, in_flight):
    engine = model.engine(steps_in_flight=in_flight)
    for output in engine.generate([PROMPT, OTHER], [GREEDY, greedy(max_tokens=1)], progress=False):
        told = output.metrics
        assert told.arrival_s <= told.first_scheduled_s < told.first_token_s <= told.finish_s
        assert told.ttft_s + told.tpot_s * (told.output_tokens - 1) == pytest.approx(told.e2e_s) or (
            told.output_tokens == 1 and math.isnan(told.tpot_s)
        )
        assert told.output_tokens == len(output.token_ids)
        assert told.prompt_tokens == len(output.prompt_token_ids)
        assert told.preemptions == told.cached_tokens == 0


def test_what_generate_takes(model, plain):
    engine = model.engine()
    assert engine.generate([], GREEDY, progress=False) == []
    for one in (PROMPT, tuple(PROMPT), np.array(PROMPT), [PROMPT], [np.array(PROMPT)]):
        assert only(engine, one, GREEDY).token_ids == plain
    assert len(only(engine, PROMPT, None).token_ids) <= 16
    outputs = engine.generate(np.array([PROMPT, PROMPT]), [GREEDY, greedy(max_tokens=2)], progress=False)
    assert [output.token_ids for output in outputs] == [plain, plain[:2]]
    with pytest.raises(errors.InvalidArgumentError, match="1 sampling parameters are given for 2 prompts"):
        engine.generate([PROMPT, PROMPT], [GREEDY], progress=False)
    assert_idle(engine)


def test_generate_shows_a_bar_unless_told_not_to(model, capsys):
    engine = model.engine()
    engine.generate([PROMPT, OTHER], greedy(max_tokens=2), progress=False)
    assert capsys.readouterr().err == ""
    engine.generate([PROMPT, OTHER], greedy(max_tokens=2))
    assert "2/2" in capsys.readouterr().err


def test_generate_leaves_requests_of_others_to_go_on(model, plain):
    engine = model.engine()
    mine = engine.add_request("mine", PROMPT, GREEDY)
    engine.generate(OTHER, greedy(max_tokens=3), progress=False)
    assert 0 < len(mine.token_ids) < 24
    run_to_end(engine)
    assert mine.token_ids == plain
    assert_idle(engine)


def test_stream(model, plain, in_flight):
    engine = model.engine(steps_in_flight=in_flight)
    outputs = list(engine.stream(PROMPT, GREEDY))
    assert [output.token_ids for output in outputs] == [plain[: at + 1] for at in range(24)]
    assert [output.finish_reason for output in outputs] == [None] * 23 + ["length"]
    assert_idle(engine)


def test_leaving_a_stream_aborts_its_request(model, in_flight):
    engine = model.engine(steps_in_flight=in_flight)
    mine = engine.add_request("mine", OTHER, GREEDY)
    for output in engine.stream(PROMPT, GREEDY):
        if len(output.token_ids) == 4:
            break
    del output
    assert list(engine._requests) == ["mine"]
    run_to_end(engine)
    model.assert_greedy(mine, count=24)
    assert_idle(engine)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("steps", range(8))
def test_abort_in_every_state(model, steps, n, in_flight):
    """Waiting, in the middle of a prompt, at its end, decoding, preempted, with a token on its way."""
    engine = model.engine(steps_in_flight=in_flight, max_num_batched_tokens=8, num_blocks=18)
    mine = engine.add_request("mine", OTHER, greedy(n=n))
    others = [engine.add_request(f"other{at}", prompt, GREEDY) for at, prompt in enumerate([PROMPT, THIRD])]
    for _ in range(steps):
        engine.step()
    told = [list(one.token_ids) for one in mine.sequences]
    assert engine.abort("mine") is mine
    assert {one.finish_reason for one in mine.sequences} == {"abort"}
    with pytest.raises(errors.UnknownRequestError, match="mine"):
        engine.abort("mine")
    again = engine.add_request("mine", PROMPT, GREEDY)  # the name is free at once
    run_to_end(engine)
    assert [one.token_ids for one in mine.sequences] == told
    model.assert_greedy(*others, again, count=24)
    assert_idle(engine)


def test_abort_of_a_preempted_request(model, in_flight):
    for options in ({}, {"preemption": "swap", "num_swap_blocks": 60}):
        engine = model.engine(steps_in_flight=in_flight, num_blocks=14, **options)
        outputs = [
            engine.add_request(f"r{at}", prompt, GREEDY) for at, prompt in enumerate([PROMPT, OTHER, THIRD])
        ]
        while not (victims := [one for one in outputs if one.metrics.preemptions]):
            engine.step()
        engine.abort(victims[0].request_id)
        run_to_end(engine)
        model.assert_greedy(*(one for one in outputs if one is not victims[0]), count=24)
        assert victims[0].finish_reason == "abort"
        assert_idle(engine)


BAD = {
    "empty": ("b", [], {}, errors.EmptyPromptError),
    "negative": ("b", [1, -1], {}, errors.InvalidTokenError),
    "past the vocabulary": ("b", [1, VOCAB], {}, errors.InvalidTokenError),
    "float": ("b", [1.5], {}, errors.InvalidTokenError),
    "bool": ("b", [True], {}, errors.InvalidTokenError),
    "nested": ("b", [[1, 2]], {}, errors.InvalidTokenError),
    "ragged": ("b", [[1], [2, 3]], {}, errors.InvalidTokenError),
    "huge": ("b", [2**70], {}, errors.InvalidTokenError),
    "none": ("b", None, {}, errors.InvalidTokenError),
    "words": ("b", ["a", "b"], {}, errors.InvalidTokenError),
    "a string without a tokenizer": ("b", "hello", {}, errors.InvalidArgumentError),
    "stop without a tokenizer": ("b", [1], {"stop": "x"}, errors.InvalidArgumentError),
    "unknown stop token": ("b", [1], {"stop_token_ids": [VOCAB]}, errors.InvalidTokenError),
    "known": ("a", [1], {}, errors.DuplicateRequestError),
    "reserved": ("b/1", [1], {}, errors.ReservedRequestIdError),
    "longer than the model": ("b", [1] * 500, {"max_tokens": 20}, errors.RequestTooLargeError),
    "longer than the cache": ("b", [1] * 50, {"max_tokens": 200}, errors.RequestTooLargeError),
    "more sequences than lanes": ("b", [1], {"n": 9}, errors.RequestTooLargeError),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error_by_name_and_changes_nothing(model, plain, case):
    name, prompt, changes, error = BAD[case]
    engine = model.engine(num_blocks=40)
    mine = engine.add_request("a", PROMPT, GREEDY)
    engine.step()
    before = (
        list(engine._requests),
        list(engine._sequences),
        engine.engine.num_waiting,
        engine.engine.num_running,
    )
    with pytest.raises(error):
        engine.add_request(name, prompt, SamplingParams(**changes))
    after = (
        list(engine._requests),
        list(engine._sequences),
        engine.engine.num_waiting,
        engine.engine.num_running,
    )
    assert after == before
    if name == "b":
        with pytest.raises(error):
            engine.generate([OTHER, prompt], SamplingParams(**changes), progress=False)
    run_to_end(engine)
    assert mine.token_ids == plain
    assert_idle(engine)


OPTIONS = [
    ({"steps_in_flight": 2}, errors.InvalidArgumentError, "steps_in_flight=2"),
    ({"kv_cache_dtype": "fp8"}, errors.UnknownOptionError, "fp8_e4m3"),
    ({"max_model_len": 0}, errors.InvalidArgumentError, "max_model_len=0"),
    ({"max_model_len": 513}, errors.InvalidArgumentError, "512"),
    ({"policy": "fifo"}, errors.UnknownOptionError, "fifo"),
    (
        {"num_blocks": None, "gpu_memory_fraction": 1.5},
        errors.InvalidArgumentError,
        "gpu_memory_fraction=1.5",
    ),
    ({"cuda_graphs": True}, errors.NanoBatchError, "cuda_graphs=True"),
    ({"block_size": 0}, errors.InvalidArgumentError, "block_size"),
]


@pytest.mark.parametrize(("options", "error", "words"), OPTIONS, ids=str)
def test_bad_options_are_errors_by_name(model, options, error, words):
    with pytest.raises(error, match=words):
        model.engine(**options)


def test_from_pretrained(model, plain, tmp_path):
    at = first_place(plain, 5)
    model.reference.save_pretrained(tmp_path)
    tokenizer = tokenizer_in(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [plain[at], 96]}))
    options = {"block_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 64, "device": "cpu"}
    engine = InferenceEngine.from_pretrained(tmp_path, **options)
    assert engine.eos_token_ids == (plain[at], 96)
    assert engine.cache.num_blocks == 4 * 512 // 4  # as many as the sequences can fill
    output = only(engine, PROMPT, GREEDY)
    assert (output.token_ids, output.finish_reason) == (plain[: at + 1], "stop")
    assert output.text == tokenizer.decode(plain[: at + 1])
    engine = InferenceEngine.from_pretrained(str(tmp_path), eos_token_ids=[], num_blocks=64, **options)
    assert only(engine, PROMPT, GREEDY).token_ids == plain
    with pytest.raises(errors.CheckpointError, match="nowhere"):
        InferenceEngine.from_pretrained(tmp_path / "nowhere")


def test_from_pretrained_draws_weights_of_a_named_shape():
    def tokens(seed):
        engine = InferenceEngine.from_pretrained(
            "tiny", load_format="dummy", model_seed=seed, device="cpu", num_blocks=32, max_num_seqs=2,
            max_num_batched_tokens=64,
        )  # fmt: skip
        assert engine.tokenizer is None
        return only(engine, [1, 2, 3], greedy(max_tokens=6)).token_ids

    assert tokens(0) == tokens(0) != tokens(1)


def test_a_quantised_cache_serves(model, plain):
    engine = model.engine(kv_cache_dtype="fp8_e4m3")
    assert engine.cache.dtype == torch.float8_e4m3fn
    assert only(engine, PROMPT, GREEDY).token_ids[0] == plain[0]


def test_max_model_len_bounds_prompt_and_output(model, plain):
    engine = model.engine(max_model_len=20)
    assert only(engine, PROMPT, greedy(max_tokens=11)).token_ids == plain[:11]
    with pytest.raises(errors.RequestTooLargeError):
        engine.add_request("a", PROMPT, greedy(max_tokens=13))
