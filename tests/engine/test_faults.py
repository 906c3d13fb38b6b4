"""What goes wrong in a step ends the requests at fault, and no others; no block is lost."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from small_engines import GREEDY, Model, assert_idle, prompts_of, run_to_end  # noqa: E402

from nano_batch import SamplingParams, errors  # noqa: E402

PROMPTS = prompts_of(9, 14, 5, 21, seed=30)
IN_FLIGHT = pytest.mark.parametrize("in_flight", [0, 1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model(tmp_path_factory.mktemp("checkpoint"), num_hidden_layers=2)


class Faulty:
    """The model, but a function sees each step's inputs and logits first, and may raise or change them."""

    def __init__(self, model, monkeypatch):
        self.paged, self.steps = model.paged.paged, 0
        self.before = self.after = lambda inputs, logits: None
        monkeypatch.setattr(model.paged, "paged", self.step)

    def step(self, inputs, cache):
        self.steps += 1
        self.before(inputs, None)
        logits = self.paged(inputs, cache)
        self.after(inputs, logits)
        return logits


@pytest.fixture
def faulty(model, monkeypatch):
    return Faulty(model, monkeypatch)


def add_all(engine, params=GREEDY):
    return [engine.add_request(f"r{at}", prompt, params) for at, prompt in enumerate(PROMPTS)]


def raising(error, when):
    def before(inputs, _):
        if when(inputs):
            raise error

    return before


def holds(*tokens):
    """Whether a step computes these tokens, one after another."""

    def found(inputs):
        given = inputs.token_ids.tolist()
        return any(given[at : at + len(tokens)] == list(tokens) for at in range(len(given)))

    return found


@IN_FLIGHT
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_steps_too_large_for_the_memory_are_computed_in_parts(model, faulty, rows, in_flight):
    sizes = []

    def before(inputs, _):
        sizes.append(len(inputs.context_lens))
        if sizes[-1] > rows:
            raise torch.OutOfMemoryError(f"{sizes[-1]} rows")

    faulty.before = before
    outputs = model.engine(steps_in_flight=in_flight).generate(PROMPTS, GREEDY, progress=False)
    model.assert_greedy(*outputs, count=24)
    assert max(sizes) == 4
    assert min(sizes) <= rows


@IN_FLIGHT
@pytest.mark.parametrize("budget", [128, 8])
def test_a_row_too_large_for_the_memory_ends_alone(model, faulty, budget, in_flight):
    """Its prompt may be in the middle, so that no token is sampled of it."""
    engine = model.engine(steps_in_flight=in_flight, max_num_batched_tokens=budget)
    faulty.before = raising(torch.OutOfMemoryError("too large"), holds(*PROMPTS[3][4:6]))
    outputs = add_all(engine)
    run_to_end(engine)
    assert [output.finish_reason for output in outputs] == ["length"] * 3 + ["out_of_memory"]
    assert outputs[3].token_ids == []
    model.assert_greedy(*outputs[:3], count=24)
    assert_idle(engine)
    # What it left behind is not in the prefix cache.
    faulty.before = lambda inputs, _: None
    (again,) = engine.generate(PROMPTS[3], GREEDY, progress=False)
    model.assert_greedy(again, count=24)


@IN_FLIGHT
def test_a_decode_too_large_for_the_memory_keeps_its_tokens(model, faulty, in_flight):
    engine = model.engine(steps_in_flight=in_flight)
    faulty.before = raising(torch.OutOfMemoryError(), lambda inputs: (inputs.context_lens == 27).any())
    outputs = add_all(engine)
    run_to_end(engine)
    assert [output.finish_reason for output in outputs] == ["out_of_memory"] * 4
    for output in outputs:
        model.assert_greedy(output, count=27 - len(output.prompt_token_ids))
    assert_idle(engine)


def spoiled(row_holds, value=math.nan):
    """Logits of the steps' rows for which `row_holds(inputs, row)`."""

    def after(inputs, logits):
        ends = (inputs.query_start_loc[1:] - 1).tolist()
        for sample, token in enumerate(inputs.logit_tokens.tolist()):
            if row_holds(inputs, ends.index(token)):
                logits[sample, 5] = value

    return after


@IN_FLIGHT
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(temperature=0, max_tokens=24, n=2, logprobs=1)], ids=repr
)
def test_logits_that_are_no_numbers_end_their_request(model, faulty, params, value, in_flight):
    engine = model.engine(steps_in_flight=in_flight)
    faulty.after = spoiled(lambda inputs, row: int(inputs.context_lens[row]) == 14, value)
    outputs = add_all(engine, params)
    run_to_end(engine)
    # r1 has nothing; r0 and r2 come there after 5 and 9 tokens.
    assert [output.finish_reason for output in outputs] == ["nan_logits"] * 3 + ["length"]
    assert [len(output.token_ids) for output in outputs] == [5, 0, 9, 24]
    model.assert_greedy(*outputs)
    assert all(one.token_ids == output.token_ids for output in outputs for one in output.sequences)
    assert_idle(engine)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_a_step_that_failed_no_other_s_arrays_are_written_over(model, faulty, monkeypatch, error):
    """It took its turn of the two sets: the next step's are those of the step before it."""
    engine = model.engine(steps_in_flight=1, max_num_seqs=2)
    on_their_way, plan = [], type(engine.engine).step_arrays

    def step_arrays(self, pad_to=None):
        on_their_way.append(len(engine._pending))
        return plan(self, pad_to)

    monkeypatch.setattr(type(engine.engine), "step_arrays", step_arrays)
    faulty.before = raising(error, lambda _: faulty.steps == 4)
    outputs = add_all(engine)
    with pytest.raises(error):
        run_to_end(engine)
    assert on_their_way == [0, 1, 1, 1]
    run_to_end(engine)
    assert on_their_way[4:6] == [0, 1]
    model.assert_greedy(*outputs)
    assert_idle(engine)


@IN_FLIGHT
@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize("n", [1, 2])
def test_an_exception_ends_the_requests_of_its_step(model, faulty, step, n, in_flight):
    """At a prompt's first part, its end, the step after, and while decoding; who waits is served later."""
    engine = model.engine(steps_in_flight=in_flight, max_num_batched_tokens=16, max_num_seqs=4)
    faulty.before = raising(RuntimeError("broken"), lambda _: faulty.steps == step)
    params = SamplingParams(temperature=0, max_tokens=24, n=n)
    outputs = add_all(engine, params)
    with pytest.raises(RuntimeError, match="broken"):
        run_to_end(engine)
    ended = [output for output in outputs if output.finished]
    assert {output.finish_reason for output in ended} == {"RuntimeError"}
    assert 1 <= len(ended) <= 4
    run_to_end(engine)
    model.assert_greedy(*outputs)
    others = [output for output in outputs if output not in ended]
    model.assert_greedy(*others, count=24)
    assert_idle(engine)
    model.assert_greedy(*engine.generate(PROMPTS, params, progress=False), count=24)


@IN_FLIGHT
@pytest.mark.parametrize("part", ["admit", "sample"])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_an_exception_of_the_sampler_ends_the_requests_of_its_step(model, monkeypatch, part, call, in_flight):
    engine, calls = model.engine(steps_in_flight=in_flight, max_num_seqs=2), []
    real = getattr(engine.runner.sampler, part)

    def broken(*given):
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("broken")
        return real(*given)

    monkeypatch.setattr(engine.runner.sampler, part, broken)
    params = SamplingParams(temperature=0, max_tokens=24, logprobs=0)
    outputs = add_all(engine, params)
    with pytest.raises(RuntimeError, match="broken"):
        run_to_end(engine)
    run_to_end(engine)
    assert {output.finish_reason for output in outputs} == {"RuntimeError", "length"}
    model.assert_greedy(*outputs)
    assert_idle(engine)


@IN_FLIGHT
@pytest.mark.parametrize("length", [5, 6, 7])
def test_a_step_that_fails_has_swapped_out_those_who_wait(model, monkeypatch, length, in_flight):
    """The sampler fails in the very step that preempts; who was swapped out goes on with his blocks."""
    engine = model.engine(steps_in_flight=in_flight, num_blocks=16, preemption="swap", num_swap_blocks=60)
    real, calls = engine.runner.sampler.sample, []

    def broken(*given):
        preempted = sum(output.metrics.preemptions for output in outputs)
        if preempted and not calls:
            calls.append(1)
            raise RuntimeError("broken")
        return real(*given)

    monkeypatch.setattr(engine.runner.sampler, "sample", broken)
    params = SamplingParams(temperature=0, max_tokens=24, logprobs=0)
    outputs = [engine.add_request(f"r{at}", prompt[:length], params) for at, prompt in enumerate(PROMPTS)]
    with pytest.raises(RuntimeError, match="broken"):
        run_to_end(engine)
    run_to_end(engine)
    assert {output.finish_reason for output in outputs} == {"RuntimeError", "length"}
    model.assert_greedy(*outputs)
    assert_idle(engine)


@IN_FLIGHT
def test_an_interrupt_in_generate_aborts_what_it_added(model, faulty, in_flight):
    engine = model.engine(steps_in_flight=in_flight, max_num_seqs=2, max_num_batched_tokens=32)
    faulty.before = raising(KeyboardInterrupt(), lambda _: faulty.steps == 6)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, GREEDY, progress=False)
    assert_idle(engine)
    model.assert_greedy(*engine.generate(PROMPTS, GREEDY, progress=False), count=24)
    assert_idle(engine)


@IN_FLIGHT
def test_an_interrupt_in_generate_leaves_requests_that_wait_for_a_lane(model, faulty, in_flight):
    engine = model.engine(steps_in_flight=in_flight, max_num_seqs=2)
    faulty.before = raising(KeyboardInterrupt(), lambda _: faulty.steps == 3)
    first = [engine.add_request(f"first{at}", PROMPTS[at], GREEDY) for at in range(2)]
    others = [engine.add_request(f"other{at}", PROMPTS[at], GREEDY) for at in range(2)]
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, GREEDY, progress=False)
    assert {output.finish_reason for output in first} == {"KeyboardInterrupt"}
    run_to_end(engine)
    model.assert_greedy(*others, count=24)
    assert_idle(engine)


@IN_FLIGHT
def test_an_interrupt_while_waiting_for_the_device_loses_no_step(model, in_flight, monkeypatch):
    """Nobody's step fails then: the tokens are there once the engine goes on."""
    from nano_batch.engine.runner import Launched

    engine, waits = model.engine(steps_in_flight=in_flight), []
    wait = Launched.wait

    def interrupted(self):
        waits.append(self.step)
        if len(waits) in (3, 4, 9, 20):
            raise KeyboardInterrupt
        return wait(self)

    monkeypatch.setattr(Launched, "wait", interrupted)
    outputs = add_all(engine)
    interrupts = 0
    while engine.has_unfinished:
        try:
            engine.step()
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts >= 3
    model.assert_greedy(*outputs, count=24)
    assert_idle(engine)


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_at_a_step_without_rows_leaves_no_arrays_to_be_written_over(
    model, faulty, monkeypatch, fails
):
    """That step took a turn, too, and the step before it, which is still on its way, ended a request."""
    engine = model.engine(steps_in_flight=1, max_num_seqs=2)
    planned, plan, wait = [], type(engine.engine).step_arrays, engine._await
    interrupts = [KeyboardInterrupt()]

    def step_arrays(self, pad_to=None):
        planned.append((len(engine._pending), plan(self, pad_to)))
        return planned[-1][1]

    def interrupted(launched):
        if planned[-1][1].rows == 0 and interrupts:
            raise interrupts.pop()
        wait(launched)

    monkeypatch.setattr(type(engine.engine), "step_arrays", step_arrays)
    monkeypatch.setattr(engine, "_await", interrupted)
    first = engine.add_request("first", PROMPTS[0], GREEDY)
    with pytest.raises(KeyboardInterrupt):
        run_to_end(engine)
    assert len(engine._pending) == 1
    assert not first.finished
    steps, other = len(planned), engine.add_request("other", PROMPTS[1], GREEDY)
    if fails:
        faulty.before = raising(RuntimeError("broken"), lambda _: True)
        with pytest.raises(RuntimeError, match="broken"):
            engine.step()
        assert other.finish_reason == "RuntimeError"
    run_to_end(engine)
    assert planned[steps][0] == 0
    model.assert_greedy(first, *([] if fails else [other]), count=24)
    assert_idle(engine)


def test_a_request_that_nobody_can_schedule_is_an_error_and_can_be_aborted(model, monkeypatch):
    engine = model.engine()
    output = engine.add_request("a", PROMPTS[0], GREEDY)

    class Nothing:
        """The counts of a step without rows."""

        step = rows = decodes = tokens = samples = 0

    monkeypatch.setattr(type(engine.engine), "step_arrays", lambda self, pad_to=None: Nothing())
    with pytest.raises(errors.StalledError, match="1 requests wait"):
        run_to_end(engine)
    monkeypatch.undo()
    assert engine.abort("a") is output
    assert_idle(engine)
