"""The records of a recorded engine are what the scheduler did, its outputs, and the clock's times."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

from nano_batch import SamplingParams
from nano_batch.engine import InferenceEngine, RecordedEngine
from nano_batch.metrics.slots import waste
from nano_batch.models import load_mistral
from nano_batch.records import Kind, Run, Schedule, replay

SETUPS = {
    "roomy": {"num_blocks": 80},
    "preempted": {"num_blocks": 12, "watermark": 0.0},
    "swapped": {"num_blocks": 12, "watermark": 0.0, "preemption": "swap", "num_swap_blocks": 40},
    "chunks": {"num_blocks": 80, "max_num_batched_tokens": 12},
}


@pytest.fixture(scope="module")
def model():
    return load_mistral("tiny", load_format="dummy", seed=3)


def served(model, seed, *, kind=RecordedEngine, copies=(1, 1, 2), **options):
    """Random requests, some of several sequences, that arrive while others run."""
    draw = random.Random(seed)
    sizes = {"block_size": 8, "max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 64}
    engine = kind(model, **{**sizes, **options})
    outputs = []
    for number in range(7):
        prompt = [
            *range(10, 10 + draw.choice((0, 17))),
            *(draw.randrange(4096) for _ in range(draw.randint(1, 20))),
        ]
        least = 5 if number == 6 else 1  # it is there still when it is aborted
        params = SamplingParams(temperature=0.0, max_tokens=draw.randint(least, 20), n=draw.choice(copies))
        outputs.append(engine.add_request(f"r{number}", prompt, params))
        for _ in range(draw.randint(0, 3)):
            engine.step()
    engine.abort("r6")
    while engine.has_unfinished:
        engine.step()
    return engine, outputs


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("setup", SETUPS)
def test_steps_are_those_of_the_events(model, setup, in_flight):
    seed = random.randrange(10**6)
    print("seed", seed)
    engine, _ = served(model, seed, steps_in_flight=in_flight, **SETUPS[setup])
    run = engine.run()
    log, steps = run.events, run.steps
    assert steps.step.tolist() == list(range(1, len(steps) + 1))
    scheduled = log.kind == Kind.SCHEDULED
    computed = np.bincount(log.step[scheduled], log.argument[scheduled], len(steps) + 1)[1:]
    assert (steps.prefill_tokens + steps.decode_tokens == computed).all()
    preempted = np.bincount(log.step[log.kind == Kind.PREEMPTED], minlength=len(steps) + 1)[1:]
    assert (steps.preemptions == preempted).all()
    blocks = steps.blocks_used + steps.blocks_cached + steps.blocks_free
    assert (blocks == SETUPS[setup]["num_blocks"]).all()
    assert (Schedule(run).work.tokens.sum()) == computed.sum()


def test_a_step_whose_end_changes_nothing_is_the_replayed_state(model):
    engine, _ = served(model, 4, copies=(1,), steps_in_flight=0, num_blocks=80)
    run = engine.run()
    steps = run.steps
    assert (steps.slots_used + steps.slots_reserved + steps.slots_internal == 8 * steps.blocks_used).all()
    ended = set(run.events.step[run.events.kind == Kind.FINISHED].tolist())
    compared = 0
    for row, step in enumerate(run.steps.step.tolist()):
        if step not in ended:
            state = replay(run.events, step=step)
            assert run.steps.blocks_used[row] == state.block_counts[0]
            assert run.steps.slots_used[row] == waste(state, 8).used
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("setup", SETUPS)
def test_requests_are_the_outputs(model, setup):
    engine, outputs = served(model, 11, **SETUPS[setup])
    requests = engine.run().requests
    rows = {str(name): row for row, name in enumerate(requests.request_id)}
    named = [
        (output, one, output.request_id if len(output.sequences) == 1 else f"{output.request_id}/{one.index}")
        for output in outputs
        for one in output.sequences
    ]
    seen = 0
    for output, one, name in named:
        if name not in rows:  # it was aborted before its prompt was computed: one row for all
            assert output.request_id in rows
            continue
        row, metrics, seen = rows[name], output.metrics, seen + 1
        assert requests.output_tokens[row] == len(one.token_ids)
        assert requests.finish_reason[row] == one.finish_reason
        assert requests.prompt_tokens[row] == len(output.prompt_token_ids)
        assert requests.cached_tokens[row] == metrics.cached_tokens
        first = outputs[0].metrics.arrival_s
        assert requests.arrival_s[row] == metrics.arrival_s - first
        assert requests.finish_s[row] == pytest.approx(metrics.finish_s - first, nan_ok=True)
    assert seen >= 6
    assert (sum(requests.preemptions) > 0) == (SETUPS[setup]["num_blocks"] < 80)
    assert sum(requests.preemptions) == engine.run().steps.preemptions.sum()


def test_times_are_in_order(model):
    run = served(model, 5, num_blocks=80)[0].run()
    ends = run.steps.start_s + run.steps.duration_s
    assert (run.steps.duration_s > 0).all()
    assert (run.steps.start_s[1:] >= ends[:-1]).all()
    done = run.requests.finish_reason == "length"
    order = [getattr(run.requests, name)[done] for name in
             ("arrival_s", "first_scheduled_s", "first_token_s", "finish_s")]  # fmt: skip
    assert all((one <= other).all() for one, other in pairwise(order))
    assert order[-1].max() <= ends[-1]


def test_recording_changes_no_token(model):
    plain = served(model, 6, kind=InferenceEngine, num_blocks=80)[1]
    recorded = served(model, 6, num_blocks=80)[1]
    tokens = [
        [one.token_ids for output in outputs for one in output.sequences] for outputs in (plain, recorded)
    ]
    assert tokens[0] == tokens[1]


def test_an_id_that_comes_again_has_a_row_of_its_own(model):
    engine = RecordedEngine(model, num_blocks=16, max_num_seqs=2, max_model_len=64)
    for count in (3, 5):
        engine.add_request("a", [1, 2, 3], SamplingParams(temperature=0.0, max_tokens=count))
        while engine.has_unfinished:
            engine.step()
    assert engine.run().requests.output_tokens.tolist() == [3, 5]
    number, output, index = engine.sequences()["a"]
    assert (number, len(output.token_ids), index) == (1, 5, 0)


def test_a_run_is_saved_and_read(model, tmp_path):
    run = served(model, 7, num_blocks=80)[0].run({"note": "x"})
    run.save(tmp_path / "run.npz")
    back = Run.load(tmp_path / "run.npz")
    assert back.settings == run.settings
    assert back.settings["note"] == "x"
    assert back.events == run.events
    assert back.steps == run.steps
