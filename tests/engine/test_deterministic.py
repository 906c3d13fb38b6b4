"""deterministic=True: tokens and log probabilities do not depend, in a single bit, on what else is served."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from small_engines import Model, assert_idle, prompts_of, run_to_end

from nano_batch import SamplingParams

HEAD = prompts_of(9, seed=3)[0]
REQUESTS = [
    (prompts_of(5, seed=10)[0], SamplingParams(temperature=0, max_tokens=14, logprobs=3)),
    ([*HEAD, 5, 6], SamplingParams(seed=1, max_tokens=14, logprobs=3)),
    ([*HEAD, 7], SamplingParams(seed=2, top_p=0.9, n=3, max_tokens=12, logprobs=2)),
    (prompts_of(17, seed=11)[0], SamplingParams(seed=3, top_k=20, frequency_penalty=0.8, max_tokens=14,
                                                logprobs=0, repetition_penalty=1.1, n=2)),
    (HEAD, SamplingParams(seed=2**63 - 1, min_p=0.02, temperature=1.4, max_tokens=14, logprobs=5)),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model(tmp_path_factory.mktemp("checkpoint"), num_hidden_layers=2)


def content(output):
    return [(one.token_ids, one.logprobs, one.finish_reason) for one in output.sequences]


@pytest.fixture(scope="module")
def alone(model):
    """Each request in an engine of its own; greedy tokens are the reference's."""
    outputs = []
    for prompt, params in REQUESTS:
        engine = model.engine(deterministic=True, steps_in_flight=0, enable_prefix_caching=False)
        outputs += engine.generate([prompt], params, progress=False)
    model.assert_greedy(outputs[0], count=14)
    # Sequences of a request differ, and so do requests of different seeds.
    drawn = [tuple(one.token_ids) for output in outputs for one in output.sequences]
    assert len(set(drawn)) == len(drawn) == 8
    return [content(output) for output in outputs]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_in_flight": 0},
        {"enable_prefix_caching": False},
        {"max_num_batched_tokens": 9},
        {"num_blocks": 26},
        {"num_blocks": 26, "preemption": "swap", "num_swap_blocks": 100},
        {"max_num_seqs": 3},
    ],
    ids=str,
)
def test_a_request_gives_the_same_bits_alone_and_in_any_company(model, alone, options):
    engine = model.engine(deterministic=True, **options)
    prompts, params = zip(*REQUESTS, strict=True)
    outputs = engine.generate(prompts, params, progress=False)
    assert [content(output) for output in outputs] == alone
    preemptions = sum(output.metrics.preemptions for output in outputs)
    assert (preemptions > 0) == ("num_blocks" in options)
    assert_idle(engine)


def test_a_request_gives_the_same_bits_at_any_time_and_from_a_cached_prefix(model, alone):
    engine = model.engine(deterministic=True)
    outputs = [None] * len(REQUESTS)
    for at in (4, 2, 0, 3, 1):
        prompt, params = REQUESTS[at]
        outputs[at] = engine.add_request(f"r{at}", prompt, params)
        for _ in range(5):
            engine.step()
    run_to_end(engine)
    assert [content(output) for output in outputs] == alone
    assert [output.metrics.cached_tokens for output in outputs] == [0, 8, 8, 0, 0]
    assert_idle(engine)


def test_without_a_seed_sequences_and_requests_differ_and_the_engines_seed_repeats_them(model):
    def drawn(seed):
        engine = model.engine(seed=seed)
        params = SamplingParams(n=2, max_tokens=8)
        outputs = engine.generate([HEAD] * 3, params, progress=False)
        return [one.token_ids for output in outputs for one in output.sequences]

    first = drawn(1)
    assert len({tuple(tokens) for tokens in first}) == 6
    assert first == drawn(1)
    assert first != drawn(2)
    assert drawn(None) != drawn(None)
