"""Greedy tokens are those of Transformers, however the engine is set up."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from small_engines import GREEDY, Model, assert_idle, prompts_of

from nano_batch import SamplingParams

LENGTHS = (1, 7, 40, 3, 64, 16, 29)
SETUPS = {
    "roomy": {},
    "chunks": {"max_num_batched_tokens": 13},
    "few lanes": {"max_num_seqs": 2},
    "recompute": {"num_blocks": 60},
    "recompute, no prefix cache": {"num_blocks": 60, "enable_prefix_caching": False},
    "swap": {"num_blocks": 60, "preemption": "swap", "num_swap_blocks": 200},
    "whole prompts": {"enable_chunked_prefill": False},
    "shortest first": {"policy": "sjf", "num_blocks": 60},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "full": Model(folder / "full"),
        "window": Model(folder / "window", sliding_window=11, seed=1),
    }


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("kind", ["full", "window"])
@pytest.mark.parametrize("setup", SETUPS)
def test_greedy_tokens_are_those_of_transformers(models, kind, setup, in_flight):
    engine = models[kind].engine(steps_in_flight=in_flight, **SETUPS[setup])
    params = SamplingParams(temperature=0, max_tokens=64)
    prompts = prompts_of(*LENGTHS)
    outputs = engine.generate(prompts, params, progress=False)
    assert [output.prompt_token_ids for output in outputs] == prompts
    models[kind].assert_greedy(*outputs, count=64)
    assert {output.finish_reason for output in outputs} == {"length"}
    preempted = sum(output.metrics.preemptions for output in outputs)
    # Windows give blocks back: with them there is room for all.
    assert kind == "window" or (preempted > 0) == ("num_blocks" in SETUPS[setup])
    assert_idle(engine)


def test_a_shared_prefix_is_computed_once(models):
    model = models["full"]
    head = prompts_of(33, seed=5)[0]
    prompts = [[*head, *tail] for tail in prompts_of(1, 5, 9, 14, seed=6)]
    engine = model.engine()
    first = engine.generate(prompts[:1], GREEDY, progress=False)
    outputs = first + engine.generate(prompts[1:], GREEDY, progress=False)
    model.assert_greedy(*outputs, count=24)
    assert [output.metrics.cached_tokens for output in outputs] == [0, 32, 32, 32]
    assert_idle(engine)


def test_requests_may_come_at_any_time(models):
    model, engine = models["full"], models["full"].engine(num_blocks=40)
    prompts = prompts_of(20, 3, 31, 8, 11, seed=7)
    outputs = []
    while len(outputs) < len(prompts) or engine.has_unfinished:
        if len(outputs) < len(prompts):
            outputs.append(engine.add_request(f"r{len(outputs)}", prompts[len(outputs)], GREEDY))
        engine.step()
        engine.step()
    model.assert_greedy(*outputs, count=24)
    assert_idle(engine)
