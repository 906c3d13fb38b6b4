"""The friendly form: what a driver sees of requests, steps, tokens, ends and forks."""

from __future__ import annotations

import math

import pytest

from nano_batch import Engine
from nano_batch.errors import MissingTokensError, NotSampledError, StepPendingError, WrongTokenCountError


def serve(engine: Engine, token: int = 7) -> list[tuple[str, str]]:
    """Step to the end, every sample the same token; what ended, in order."""
    ended = []
    while engine.has_unfinished:
        output = engine.step()
        ended += engine.update(dict.fromkeys(output.sampled_requests, token))
    return ended


def test_one_request_step_by_step() -> None:
    engine = Engine(num_blocks=100, block_size=4)
    engine.add_request(request_id="demo_1", prompt_token_ids=[1, 2, 3, 4, 5], max_tokens=3)
    output = engine.step()
    assert output.step == 1
    assert output.scheduled_requests == output.sampled_requests == ["demo_1"]
    assert output.block_tables == [[0, 1]]
    assert output.slot_mappings == [0, 1, 2, 3, 4]
    assert output.num_tokens_per_request == [5]
    assert output.num_computed_tokens == output.num_cached_tokens == [0]
    assert output.token_ids == [1, 2, 3, 4, 5]
    assert (output.num_decodes, output.finished, output.preempted) == (0, [], [])
    assert engine.update({"demo_1": 42}) == []
    output = engine.step()
    assert (output.num_decodes, output.token_ids, output.slot_mappings) == (1, [42], [5])
    assert output.num_computed_tokens == [5]
    assert engine.update({"demo_1": 43}) == []
    engine.step()
    assert engine.update({"demo_1": 44}) == [("demo_1", "length")]
    assert not engine.has_unfinished
    assert engine.step().finished == [("demo_1", "length")], "reported again by the next step"


def test_nothing_to_do_gives_an_empty_output() -> None:
    engine = Engine()
    for number in (1, 2):
        output = engine.step()
        assert (output.step, output.scheduled_requests, output.block_tables) == (number, [], [])
        assert (output.slot_mappings, output.sampled_requests, output.finished) == ([], [], [])
        assert engine.update({}) == []


def test_update_may_be_omitted_when_nothing_was_sampled() -> None:
    engine = Engine(num_blocks=100, block_size=4, max_num_batched_tokens=4)
    engine.add_request("a", list(range(10)), 1)
    assert [engine.step().sampled_requests for _ in range(3)] == [[], [], ["a"]]


def test_a_second_step_waits_for_the_tokens() -> None:
    engine = Engine()
    engine.add_request("a", [1], 5)
    engine.step()
    before = engine.snapshot()
    with pytest.raises(StepPendingError, match="limit is 1"):
        engine.step()
    assert engine.snapshot() == before
    engine.update({"a": 1})
    assert engine.step().scheduled_requests == ["a"]


def test_an_abort_between_step_and_update_needs_no_token() -> None:
    engine = Engine()
    engine.add_request("a", [1], 5)
    engine.add_request("b", [1], 5)
    engine.step()
    assert engine.abort("a") == [("a", "abort")]
    assert engine.snapshot().running == ["b"]
    assert engine.update({"a": 3, "b": 4}) == [], "a token for what ended in between is ignored"
    assert engine.step().finished == [("a", "abort")]


def test_a_step_whose_requests_all_ended_awaits_nothing() -> None:
    engine = Engine()
    engine.add_request("a", [1], 5)
    engine.step()
    engine.abort("a")
    assert engine.has_unfinished, "its blocks are in use until the step retires"
    assert engine.step().scheduled_requests == []
    assert not engine.has_unfinished
    assert engine.num_free_blocks + engine.num_cached_blocks == 100


def test_ids_can_be_used_again() -> None:
    engine = Engine()
    for round_ in range(3):
        engine.add_request("a", [1, 2], 2)
        engine.step()
        if round_ == 1:
            engine.abort("a")
            engine.add_request("a", [5], 1)
            assert engine.update({"a": 9}) == [], "the token is for the first of the name"
        else:
            engine.update({"a": 9})
        assert serve(engine)[-1] == ("a", "length")


@pytest.mark.parametrize(("stop", "reason", "outputs"), [([7], "stop", 1), ([8], "length", 4)])
def test_stop_tokens(stop: list[int], reason: str, outputs: int) -> None:
    engine = Engine()
    engine.add_request("a", [1], 4, stop_token_ids=stop)
    assert serve(engine) == [("a", reason)]
    assert engine.step().step == outputs + 1


def test_min_tokens_and_end_of_sequence() -> None:
    engine = Engine(eos_token_id=7)
    engine.add_request("patient", [1], 9, min_tokens=3)
    engine.add_request("plain", [1], 9)
    engine.add_request("deaf", [1], 5, ignore_eos=True)
    ends = {}
    for step in range(1, 6):
        output = engine.step()
        ended = engine.update(dict.fromkeys(output.sampled_requests, 7))
        ends.update({name: (step, reason) for name, reason in ended})
    assert ends == {"plain": (1, "stop"), "patient": (3, "stop"), "deaf": (5, "length")}


def test_finish_for_a_reason_of_the_drivers() -> None:
    engine = Engine(num_blocks=20, block_size=2)
    engine.add_request("a", [1, 2], 9)
    for _ in range(6):
        engine.step()
        engine.update({"a": 5})
    assert engine.finish("a", "stop_string", keep=2) == [("a", "stop_string")]
    assert engine.num_cached_blocks == 2, "prompt and 2 tokens: the blocks behind them are free at once"
    assert engine.num_free_blocks == 18


def test_n_sequences_of_one_prompt() -> None:
    engine = Engine(num_blocks=20, block_size=2)
    engine.add_request("a", [1, 2, 3], 3, n=2)
    output = engine.step()
    assert output.scheduled_requests == output.sampled_requests == ["a"]
    assert engine.update({"a": [42, 17]}) == []
    output = engine.step()
    assert output.scheduled_requests == ["a/0", "a/1"]
    assert output.token_ids == [42, 17]
    assert output.block_tables[0][0] == output.block_tables[1][0], "the full block is shared"
    assert [copy[0] for copy in output.copies] == [1], "the partial one is copied for one of them"
    engine.update({"a/0": 1, "a/1": 2})
    assert engine.finish("a/0", "stop") == [("a/0", "stop")]
    engine.step()
    assert engine.update({"a/1": 3}) == [("a/1", "length")]


def test_n_awaits_as_many_tokens() -> None:
    engine = Engine()
    engine.add_request("a", [1], 3, n=3)
    engine.step()
    for given in (1, [1, 2], [1, 2, 3, 4]):
        with pytest.raises(WrongTokenCountError, match="sampled 3"):
            engine.update({"a": given})
    with pytest.raises(NotSampledError):
        engine.update({"a/0": 1, "a/1": 2, "a/2": 3})
    engine.abort("a/1")
    assert engine.update({"a": [1, 2, 3]}) == [], "the aborted one's token is ignored"
    assert engine.step().token_ids == [1, 3]
    assert sorted(engine.abort("a")) == [("a/0", "abort"), ("a/2", "abort")], "the request is all of them"


def test_fork_between_step_and_update_awaits_a_token_of_its_own() -> None:
    engine = Engine(num_blocks=20, block_size=4)
    engine.add_request("a", [1, 2], 4)
    engine.step()
    engine.fork("a", "b")
    with pytest.raises(MissingTokensError, match="b"):
        engine.update({"a": 5})
    engine.update({"a": 5, "b": 6})
    output = engine.step()
    assert dict(zip(output.scheduled_requests, output.token_ids, strict=True)) == {"a": 5, "b": 6}
    assert len(output.copies) == 1


def log_probabilities(tokens: tuple[int, ...]) -> dict[int, float]:
    """A made-up model: what follows depends on the last two tokens."""
    weights = {token: 1 + (7 * tokens[-1] + 3 * tokens[-2] + 5 * token * token) % 11 for token in range(5)}
    total = sum(weights.values())
    return {token: math.log(weight / total) for token, weight in weights.items()}


def beams(width: int, length: int, prompt: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Beam search without an engine."""
    alive = [(0.0, prompt)]
    for _ in range(length):
        grown = [(s + p, (*b, t)) for s, b in alive for t, p in log_probabilities(b).items()]
        alive = sorted(grown, reverse=True)[:width]
    return [beam for _, beam in alive]


def test_a_small_beam_search_is_built_on_fork() -> None:
    engine = Engine(num_blocks=40, block_size=4, max_num_seqs=6)
    prompt, width, length = (1, 2, 3, 4, 0), 3, 6
    engine.add_request("beam", list(prompt), length + 1)
    alive, names = {"beam": (0.0, prompt)}, iter(range(100))
    copies = 0
    for _ in range(length):
        output = engine.step()
        copies += len(output.copies)
        grown = [
            (s + p, (*b, t), name) for name, (s, b) in alive.items() for t, p in log_probabilities(b).items()
        ]
        chosen: dict[str, tuple[float, tuple[int, ...]]] = {}
        for score, beam, parent in sorted(grown, reverse=True)[:width]:
            name = parent if parent not in chosen else f"beam-{next(names)}"
            if name != parent:
                engine.fork(parent, name)
            chosen[name] = (score, beam)
        for dropped in alive.keys() - chosen.keys():
            engine.abort(dropped)
        engine.update({name: beam[-1] for name, (_, beam) in chosen.items()})
        alive = chosen
    assert sorted(beam for _, beam in alive.values()) == sorted(beams(width, length, prompt))
    assert copies > 0
    for name in alive:
        engine.abort(name)
    assert engine.num_free_blocks + engine.num_cached_blocks == 40


def test_everything_a_cell_can_end_with_shows_itself() -> None:
    engine = Engine(num_blocks=20, block_size=4, event_log=True, max_num_seqs=4, max_num_batched_tokens=8)
    for at in range(14):
        engine.add_request(f"<b>{at}</b>", [1, 2, 3], 4)
    output = engine.step()
    engine.bind([engine.array_buffers(), engine.array_buffers()])
    shown = [engine, output, engine.snapshot(), engine.events(), engine.events().keyframes[0]]
    for thing in shown:
        assert repr(thing) == repr(thing)
        assert len(repr(thing).splitlines()) <= 3, type(thing)
        assert " at 0x" not in repr(thing)
    for thing in shown[:4]:
        html = thing._repr_html_()
        assert "<table" in html, type(thing)
        assert "<script" not in html
        assert "<b>" not in html, "ids are escaped"
        assert html.count("<tr>") <= 13, "small"
    engine.update(dict.fromkeys(output.sampled_requests, 1))
    assert len(repr(engine.step_arrays()).splitlines()) <= 3
