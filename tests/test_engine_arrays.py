"""The array form: what `bind` refuses, and that it says the same as the friendly form."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from nano_batch import Engine
from nano_batch.errors import (
    InvalidArgumentError,
    InvalidBufferError,
    InvalidTokenError,
    RequestTooLargeError,
    StepPendingError,
    WrongStepError,
    WrongTokenCountError,
)

Buffers = list[dict[str, npt.NDArray[Any]]]
INT32 = ("token_ids", "positions", "lanes", "query_start_loc", "context_lens", "sample_rows", "sample_lanes")


def bound(engine: Engine) -> Buffers:
    buffers = [engine.array_buffers(), engine.array_buffers()]
    for one in buffers:
        for array in one.values():
            array.fill(77)
    engine.bind(buffers)
    return buffers


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)


BAD: list[tuple[str, Callable[[Any], Any], str]] = [
    ("read-only", read_only, "read-only"),
    ("misaligned", misaligned, "aligned"),
    ("big-endian", lambda array: array.astype(array.dtype.newbyteorder(">")), "dtype >i"),
    ("unsigned", lambda array: array.astype(f"uint{array.itemsize * 8}"), "dtype uint"),
    ("float", lambda array: array.astype(np.float32), "dtype float32"),
    ("list", lambda array: array.tolist(), "list"),
    (
        "strided",
        lambda array: np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2],
        "contiguous",
    ),
    ("three-dimensional", lambda array: array.reshape(1, 1, -1), "dimension"),
]


@pytest.mark.parametrize("name", [*INT32, "slot_mapping", "block_table"])
@pytest.mark.parametrize(("change", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bind_refuses_what_it_cannot_fill(name: str, change: Callable[[Any], Any], said: str) -> None:
    engine = Engine(10, 4, max_num_seqs=4, max_num_batched_tokens=8)
    good = bound(engine)
    for bad in (0, 1):
        buffers: Any = [engine.array_buffers(), engine.array_buffers()]
        buffers[bad][name] = change(buffers[bad][name])
        with pytest.raises(InvalidBufferError, match=name) as refused:
            engine.bind(buffers)
        assert said in str(refused.value)
        del buffers[bad][name]
        with pytest.raises(InvalidBufferError, match=f'"{name}" is missing'):
            engine.bind(buffers)
    engine.add_request("a", [5, 6], 1)
    engine.step_arrays()
    assert good[0]["token_ids"][:2].tolist() == [5, 6], "what was bound before stays bound"


@pytest.mark.parametrize("name", [*INT32, "slot_mapping", "block_table"])
def test_bind_asks_for_enough_room(name: str) -> None:
    engine = Engine(10, 4, max_num_seqs=4, max_num_batched_tokens=8)
    buffers = [engine.array_buffers(), engine.array_buffers()]
    buffers[1][name] = np.ascontiguousarray(buffers[1][name][..., :-1])
    with pytest.raises(InvalidBufferError, match=f"{name}.* needs at least"):
        engine.bind(buffers)


def test_bind_refuses_shared_memory() -> None:
    engine = Engine(10, 4, max_num_seqs=4, max_num_batched_tokens=8)
    memory = np.zeros(100, np.int32)
    overlapping = [engine.array_buffers(), engine.array_buffers()]
    overlapping[0]["token_ids"], overlapping[1]["positions"] = memory[:12], memory[11:23]
    same = [engine.array_buffers()] * 2
    for buffers in (overlapping, same):
        with pytest.raises(InvalidBufferError, match="share memory"):
            engine.bind(buffers)
    overlapping[1]["positions"] = memory[12:24]
    engine.bind(overlapping)


def test_bind_takes_two_sets_and_a_bounded_table() -> None:
    engine = Engine()
    for buffers in ([], [engine.array_buffers()], [engine.array_buffers() for _ in range(3)]):
        with pytest.raises(InvalidBufferError, match=f"it got {len(buffers)}"):
            engine.bind(buffers)
    windowed = Engine(10, 4, sliding_window=8)
    with pytest.raises(InvalidBufferError, match="max_model_len"):
        bound(windowed)
    bound(Engine(10, 4, sliding_window=8, max_model_len=100))


def test_tensors_share_their_memory() -> None:
    engine = Engine(10, 4, max_num_seqs=4, max_num_batched_tokens=8)
    arrays = [engine.array_buffers(), engine.array_buffers()]
    tensors = [{name: torch.from_numpy(array) for name, array in one.items()} for one in arrays]
    engine.bind(tensors)
    engine.add_request("a", [5, 6], 1)
    engine.step_arrays()
    assert tensors[0]["token_ids"][:2].tolist() == [5, 6]


def random_pair(rng: random.Random) -> tuple[Engine, Engine]:
    """Two engines of one random configuration."""
    window = rng.choice([None, None, 3, 9])
    options: dict[str, Any] = {
        "num_blocks": rng.randint(6, 30),
        "block_size": rng.choice([1, 2, 3, 8]),
        "max_num_seqs": rng.randint(2, 8),
        "max_num_batched_tokens": rng.randint(5, 60),
        "policy": rng.choice(["fcfs", "priority", "sjf", "lpm", "static", "prefill_first"]),
        "preemption": rng.choice(["recompute", "swap"]),
        "num_swap_blocks": 8,
        "sliding_window": window,
        "max_model_len": 60 if window else None,
        "event_log": True,
    }
    return Engine(**options), Engine(**options)


def add_some(rng: random.Random, number: int, *engines: Engine) -> int:
    for _ in range(rng.choice([0, 0, 1, 3])):
        prompt = [rng.randint(0, 2) for _ in range(rng.randint(1, 12))]
        options = {"stop_token_ids": [3], "priority": rng.randint(0, 2), "n": rng.choice([1, 1, 2])}
        max_tokens = rng.randint(1, 12)
        for engine in engines:
            try:
                engine.add_request(f"q{number}", prompt, max_tokens, **options)  # type: ignore[arg-type]
            except ValueError:
                continue
        number += 1
    return number


def rows_of(arrays: dict[str, npt.NDArray[Any]], counts: Any) -> list[list[int]]:
    """Block tables of a step as lists, without what lies behind a row's last key."""
    tables = arrays["block_table"][: counts.rows]
    return [row[: np.flatnonzero(row != -1)[-1] + 1].tolist() for row in tables]


@pytest.mark.parametrize("seed", range(25))
def test_arrays_say_what_the_friendly_form_says(seed: int) -> None:
    rng = random.Random(seed)
    friendly, other = random_pair(rng)
    buffers = bound(other)
    preempted = moved = 0
    number = 0
    for step in range(120):
        number = add_some(rng, number, friendly, other) if step < 80 else number
        output = friendly.step()
        pad_to = rng.randint(0, other.max_num_seqs)
        counts = other.step_arrays(pad_to=pad_to)
        arrays = buffers[step % 2]
        assert (counts.step, counts.rows) == (output.step, len(output.scheduled_requests))
        assert counts.tokens == len(output.token_ids)
        assert counts.decodes == output.num_decodes
        assert arrays["token_ids"][: counts.tokens].tolist() == output.token_ids
        assert arrays["slot_mapping"][: counts.tokens].tolist() == output.slot_mappings
        starts = arrays["query_start_loc"]
        assert np.diff(starts[: counts.rows + 1]).tolist() == output.num_tokens_per_request
        first = arrays["positions"][starts[: counts.rows]]
        assert first.tolist() == output.num_computed_tokens
        tokens_in_row = np.array(output.num_tokens_per_request, int)
        assert (arrays["context_lens"][: counts.rows] == first + tokens_in_row).all()
        assert [
            table[: len(row)] for table, row in zip(output.block_tables, rows_of(arrays, counts), strict=True)
        ] == (rows_of(arrays, counts))
        moves = [[tuple(pair) for pair in array.tolist()] for array in other.movement()]
        assert moves == [output.swap_out, output.swap_in, output.copies]
        assert [(counts.swap_out, counts.swap_in, counts.copies)] == [tuple(map(len, moves))]
        assert [name for name, _ in other.lane_changes()[1]] == output.preempted
        check_padding(arrays, counts, pad_to)
        preempted += len(output.preempted)
        moved += sum(map(len, moves))
        tokens = np.array([rng.randint(0, 3) for _ in range(counts.samples)], np.int32)
        given: dict[str, Any] = {}
        lane_rows = arrays["sample_rows"][: counts.samples].tolist()
        for at, row in enumerate(lane_rows):
            given.setdefault(output.scheduled_requests[row], []).append(int(tokens[at]))
        assert list(given) == output.sampled_requests
        ended = friendly.update({name: v if len(v) > 1 else v[0] for name, v in given.items()})
        assert (other.update_arrays(counts.step, tokens) if counts.rows else []) == ended
        assert friendly.snapshot() == other.snapshot()
    assert seed != 3 or preempted > 0
    assert seed != 3 or moved > 0


def check_padding(arrays: dict[str, npt.NDArray[Any]], counts: Any, pad_to: int) -> None:
    padding = slice(counts.rows, counts.padded_rows)
    tokens = slice(counts.tokens, counts.padded_tokens)
    assert counts.padded_rows == max(counts.rows, pad_to)
    assert counts.padded_tokens - counts.tokens == counts.padded_rows - counts.rows
    assert (arrays["lanes"][padding] == -1).all()
    assert (arrays["context_lens"][padding] == 0).all()
    assert (arrays["slot_mapping"][tokens] == -1).all()
    assert (arrays["block_table"][padding] == -1).all()
    assert np.diff(arrays["query_start_loc"][counts.rows : counts.padded_rows + 1]).tolist() == [1] * (
        counts.padded_rows - counts.rows
    )


def spoken(seed: int, depth: int) -> tuple[dict[str, list[int]], dict[str, str], int]:
    """Serve random requests `depth` steps ahead: what each says, why it ended, and how many input
    tokens were placeholders. The next token is a function of the newest one, which is read from the
    lane where the host does not know it yet, and of its position.
    """
    rng = random.Random(seed)
    engine, _ = random_pair(rng)
    buffers = bound(engine)
    for number in range(20):
        prompt = [rng.randint(0, 4) for _ in range(rng.randint(1, 12))]
        with contextlib.suppress(RequestTooLargeError):
            engine.add_request(f"q{number}", prompt, rng.randint(1, 12), stop_token_ids=[3])
    lane_token = np.zeros(engine.max_num_seqs, np.int32)
    names: dict[int, str] = {}
    said: dict[str, list[int]] = {}
    ended: dict[str, str] = {}
    flights: list[tuple[int, list[str], npt.NDArray[np.int32]]] = []
    steps = placeholders = 0
    while engine.has_unfinished or flights:
        counts, arrays = engine.step_arrays(), buffers[steps % 2]
        steps += 1
        names.update({lane: name for name, lane, _ in engine.lane_changes()[0]})
        last = arrays["query_start_loc"][1 : counts.rows + 1] - 1
        newest = arrays["token_ids"][last]
        unknown = newest == -1
        placeholders += int(unknown.sum())
        newest[unknown] = lane_token[arrays["lanes"][: counts.rows][unknown]]
        rows, lanes = arrays["sample_rows"][: counts.samples], arrays["sample_lanes"][: counts.samples].copy()
        sampled = ((3 * newest + arrays["positions"][last]) % 5)[rows].astype(np.int32)
        lane_token[lanes] = sampled
        if counts.rows:
            flights.append((counts.step, [names[lane] for lane in lanes.tolist()], sampled))
        if len(flights) > depth or (flights and not counts.rows):
            step, speakers, tokens = flights.pop(0)
            for name, token in zip(speakers, tokens.tolist(), strict=True):
                if name not in ended:
                    said.setdefault(name, []).append(token)
            ended.update(engine.update_arrays(step, tokens))
    assert engine.num_free_blocks + engine.num_cached_blocks == engine.num_blocks
    return said, ended, placeholders


def test_one_step_in_flight_gives_the_same_tokens() -> None:
    placeholders = 0
    for seed in range(20):
        at_once, in_flight = spoken(seed, 0), spoken(seed, 1)
        assert at_once[:2] == in_flight[:2]
        assert at_once[2] == 0
        placeholders += in_flight[2]
    assert placeholders > 100


def test_at_most_two_steps_are_outstanding_and_the_oldest_goes_first() -> None:
    engine = Engine(20, 4, max_num_seqs=2, max_num_batched_tokens=8)
    bound(engine)
    engine.add_request("a", [1, 2], 5)
    first, second = engine.step_arrays(), engine.step_arrays()
    before = engine.snapshot()
    with pytest.raises(StepPendingError, match="limit is 2"):
        engine.step_arrays()
    token = np.array([3], np.int32)
    with pytest.raises(WrongStepError, match=f"step {second.step}.* {first.step}"):
        engine.update_arrays(second.step, token)
    for wrong in (np.zeros(0, np.int32), np.zeros(2, np.int32)):
        with pytest.raises(WrongTokenCountError, match="sampled 1"):
            engine.update_arrays(first.step, wrong)
    with pytest.raises(InvalidTokenError, match="-1"):
        engine.update_arrays(first.step, np.array([-1], np.int32))
    for bad in ([3], token.astype(np.int64), np.zeros((1, 1), np.int32), np.zeros(4, np.int32)[::2]):
        with pytest.raises(InvalidBufferError, match="tokens"):
            engine.update_arrays(first.step, bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="-1"):
        engine.update_arrays(-1, token)
    assert engine.snapshot() == before
    assert engine.update_arrays(first.step, token) == []
    engine.abort("a")
    assert engine.update_arrays(second.step, np.array([-1], np.int32)) == [], "nobody waits for it"
    assert not engine.has_unfinished
    with pytest.raises(WrongStepError, match="no step is outstanding"):
        engine.update_arrays(second.step, token)


@pytest.mark.parametrize("pad_to", [-1, 3, 1.5])
def test_padding_has_a_limit(pad_to: Any) -> None:
    engine = Engine(20, 4, max_num_seqs=2)
    bound(engine)
    with pytest.raises(InvalidArgumentError, match=f"pad_to is {pad_to}"):
        engine.step_arrays(pad_to=pad_to)


def test_lanes_are_announced() -> None:
    engine = Engine(11, 2, max_num_seqs=3, watermark=0.0, enable_prefix_caching=False)
    bound(engine)
    engine.add_request("a", [1, 2, 3], 9, n=2)
    engine.add_request("b", [1, 2, 3], 9)
    counts = engine.step_arrays()
    admitted, left = engine.lane_changes()
    assert sorted(name for name, _, _ in admitted) == ["a/0", "a/1", "b"]
    assert sorted(lane for _, lane, _ in admitted) == [0, 1, 2]
    assert left == []
    lanes = {name: lane for name, lane, _ in admitted}
    while not left:
        engine.update_arrays(counts.step, np.zeros(counts.samples, np.int32))
        counts = engine.step_arrays()
        left = engine.lane_changes()[1]
    assert left == [("a/1", lanes["a/1"])], "the youngest sequence"
