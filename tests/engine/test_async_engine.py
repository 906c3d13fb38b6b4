"""Coroutines share the engine's batch; whatever ends one of them leaves the others to go on."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from small_engines import GREEDY, Model, assert_idle, prompts_of  # noqa: E402

from nano_batch import SamplingParams, errors  # noqa: E402
from nano_batch.engine import AsyncInferenceEngine  # noqa: E402


def run(coroutine):
    """In a thread of its own: the browser tests leave an event loop running in this one."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, coroutine).result()


PROMPTS = prompts_of(9, 14, 5, 21, seed=40)
IN_FLIGHT = pytest.mark.parametrize("in_flight", [0, 1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model(tmp_path_factory.mktemp("checkpoint"), num_hidden_layers=2)


async def last_of(serving, prompt, params=GREEDY):
    output = None
    async for output in serving.generate(prompt, params):  # noqa: B007
        pass
    return output


async def after(serving, prompt, tokens):
    """Begin a request, and return its iterator once it has so many tokens."""
    outputs = serving.generate(prompt, GREEDY)
    async for output in outputs:
        if len(output.token_ids) >= tokens:
            return outputs
    raise AssertionError("it ended before")


@IN_FLIGHT
def test_many_coroutines_share_the_batch(model, in_flight):
    engine, rows = model.engine(steps_in_flight=in_flight), []
    launch = engine.runner.launch

    def counted(counts, *given, **options):
        rows.append(counts.rows)
        return launch(counts, *given, **options)

    engine.runner.launch = counted

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            return await asyncio.gather(*(last_of(serving, prompt) for prompt in PROMPTS * 3))

    outputs = run(main())
    assert [output.prompt_token_ids for output in outputs] == PROMPTS * 3
    model.assert_greedy(*outputs, count=24)
    assert max(rows) == 8  # all lanes
    assert_idle(engine)


def test_outputs_grow_and_are_copies(model):
    engine = model.engine()

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            return [output async for output in serving.generate(PROMPTS[0], SamplingParams(n=2, seed=1))]

    outputs = run(main())
    lengths = [[len(one.token_ids) for one in output.sequences] for output in outputs]
    assert lengths == sorted(lengths)
    assert lengths[0] == [1, 1]
    assert lengths[-1] == [16, 16]
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]


def test_the_event_loop_stays_free_during_a_step(model, monkeypatch):
    """A step waits until the loop has run something else."""
    engine, ran, threads = model.engine(), threading.Event(), set()
    paged = model.paged.paged

    def slow(*given):
        threads.add(threading.get_ident())
        assert ran.wait(timeout=20)
        return paged(*given)

    monkeypatch.setattr(model.paged, "paged", slow)

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            task = asyncio.create_task(last_of(serving, PROMPTS[0]))
            while not threads:
                await asyncio.sleep(0.001)
            ran.set()
            return await task

    model.assert_greedy(run(main()), count=24)
    assert threading.get_ident() not in threads


@IN_FLIGHT
@pytest.mark.parametrize("tokens", [0, 3])
def test_a_cancelled_coroutine_aborts_its_request_only(model, tokens, in_flight):
    engine = model.engine(steps_in_flight=in_flight)

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            other = asyncio.create_task(last_of(serving, PROMPTS[1]))
            if tokens:
                outputs = await after(serving, PROMPTS[0], tokens)
                mine = asyncio.create_task(outputs.__anext__())
            else:
                mine = asyncio.create_task(last_of(serving, PROMPTS[0]))
            await asyncio.sleep(0)
            mine.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mine
            result = await other
            assert list(engine._requests) == []
            return result

    model.assert_greedy(run(main()), count=24)
    assert_idle(engine)


def test_leaving_the_iterator_aborts(model):
    engine = model.engine()

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            outputs = await after(serving, PROMPTS[0], 2)
            await outputs.aclose()
            deadline = time.monotonic() + 20
            while engine.has_unfinished:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)

    run(main())
    assert_idle(engine)


def test_bad_input_reaches_its_coroutine_only(model):
    engine = model.engine()

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            good = asyncio.create_task(last_of(serving, PROMPTS[0]))
            with pytest.raises(errors.EmptyPromptError):
                await last_of(serving, [])
            with pytest.raises(errors.InvalidTokenError):
                await last_of(serving, [-1])
            return await good

    model.assert_greedy(run(main()), count=24)
    assert_idle(engine)


@IN_FLIGHT
def test_an_exception_of_a_step_reaches_those_it_ended(model, monkeypatch, in_flight):
    engine = model.engine(steps_in_flight=in_flight, max_num_seqs=2)
    paged, steps = model.paged.paged, []

    def broken(*given):
        steps.append(1)
        if len(steps) == 6:
            raise RuntimeError("broken")
        return paged(*given)

    monkeypatch.setattr(model.paged, "paged", broken)

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            tasks = [last_of(serving, prompt) for prompt in PROMPTS]
            return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(main())
    assert [str(one) for one in results[:2]] == ["broken"] * 2
    model.assert_greedy(*results[2:], count=24)
    assert_idle(engine)


def test_an_engine_that_cannot_go_on_tells_all(model, monkeypatch):
    engine = model.engine()

    def stalled():
        raise errors.StalledError("no progress")

    monkeypatch.setattr(engine, "step", stalled)

    async def main():
        async with AsyncInferenceEngine(engine) as serving:
            return await asyncio.gather(*(last_of(serving, one) for one in PROMPTS), return_exceptions=True)

    assert [type(one) for one in run(main())] == [errors.StalledError] * 4
    assert_idle(engine)


@IN_FLIGHT
def test_closing_ends_all_with_what_they_have(model, in_flight):
    engine = model.engine(steps_in_flight=in_flight, max_num_seqs=2)

    async def main():
        serving = AsyncInferenceEngine(engine)
        tasks = [asyncio.create_task(last_of(serving, prompt)) for prompt in PROMPTS]
        await (await after(serving, PROMPTS[0], 1)).aclose()
        await serving.aclose()
        assert_idle(engine)
        results = await asyncio.gather(*tasks)
        with pytest.raises(errors.EngineClosedError):
            await last_of(serving, PROMPTS[0])
        await serving.aclose()
        return results

    outputs = run(main())
    assert "abort" in {output.finish_reason for output in outputs}
    model.assert_greedy(*outputs)
    # The engine itself goes on.
    model.assert_greedy(*engine.generate(PROMPTS, GREEDY, progress=False), count=24)


def test_an_event_loop_that_ends_leaves_no_request_behind(model):
    engine = model.engine()
    serving = AsyncInferenceEngine(engine)

    async def main():
        tasks.extend(asyncio.create_task(last_of(serving, prompt)) for prompt in PROMPTS)
        await after(serving, PROMPTS[0], 2)

    tasks = []
    run(main())
    assert all(task.cancelled() for task in tasks)
    assert_idle(engine)
    model.assert_greedy(run(last_of(serving, PROMPTS[0])), count=24)  # in another loop
