"""Bad input: a named exception with the request, the value and the limit; the engine unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nano_batch import BlockCache, Engine, errors
from nano_batch.errors import (
    CannotForkError,
    DuplicateRequestError,
    EmptyPromptError,
    EventLogOffError,
    InvalidArgumentError,
    InvalidTokenError,
    MissingTokensError,
    NanoBatchError,
    NotBoundError,
    NotSampledError,
    RequestTooLargeError,
    ReservedRequestIdError,
    UnknownOptionError,
    UnknownRequestError,
    WrongTokenCountError,
)

P = [1, 2, 3]


def busy(**options: Any) -> Engine:
    """An engine with one sequence running, one waiting, one ended and its tokens awaited."""
    engine = Engine(10, 4, max_num_batched_tokens=16, max_num_seqs=3, **options)
    engine.add_request("ended", P, 1)
    engine.step()
    engine.update({"ended": 1})
    engine.add_request("runs", P, 9)
    engine.add_request("splits", P, 9, n=2)
    engine.add_request("waits", P, 9)
    engine.step()
    return engine


def state(engine: Engine) -> tuple[Any, ...]:
    snapshot = engine.snapshot()
    arrays = [
        getattr(snapshot, name).tolist() for name in ("block_references", "block_cached", "tables", "stored")
    ]
    return snapshot, arrays, snapshot.running, snapshot.waiting, snapshot.step, snapshot.event, repr(engine)


OPTIONS = [
    *[({name: 0}, name, "0", "1") for name in ("num_blocks", "block_size", "max_num_seqs", "sliding_window")],
    *[({name: -3}, name, "-3", "1") for name in ("num_blocks", "block_size", "max_num_batched_tokens")],
    ({"max_num_batched_tokens": 0}, "max_num_batched_tokens", "0", "1"),
    ({"num_blocks": 2**31}, "num_blocks", "2147483648", "2147483647"),
    ({"num_blocks": 2**80}, "num_blocks", str(2**80), "2147483647"),
    ({"num_blocks": 1.5}, "num_blocks", "1.5", "integer"),
    ({"num_blocks": "9"}, "num_blocks", "'9'", "integer"),
    ({"num_swap_blocks": -1}, "num_swap_blocks", "-1", "between 0"),
    ({"preemption": "swap"}, "num_swap_blocks", "0", "at least 1"),
    ({"sliding_window": -1}, "sliding_window", "-1", "1"),
    ({"max_model_len": 0}, "max_model_len", "0", "1"),
    ({"watermark": 1.0}, "watermark", "1", "below 1"),
    ({"watermark": -0.5}, "watermark", "-0.5", "at least 0"),
    ({"watermark": math.nan}, "watermark", "NaN", "at least 0"),
    ({"sjf_ageing": math.nan}, "sjf_ageing", "NaN", "finite"),
    ({"sjf_ageing": -1.0}, "sjf_ageing", "-1", "at least 0"),
    ({"event_log": 0}, "event_log", "0", "1"),
    ({"eos_token_id": -1}, "eos_token_id", "-1", "2147483647"),
    ({"eos_token_id": 2**31}, "eos_token_id", str(2**31), "2147483647"),
    ({"hash_bits": -1}, "hash_bits", "-1", "1"),
    ({"hash_bits": 129}, "hash_bits", "129", "128"),
]


@pytest.mark.parametrize(("options", "name", "value", "limit"), OPTIONS)
def test_options(options: dict[str, Any], name: str, value: str, limit: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Engine(**options)
    message = str(refused.value)
    assert name in message
    assert value in message
    assert limit in message


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: Engine(num_block=5), "num_blocks"),
        (lambda: Engine(max_num_sequences=5), "max_num_seqs"),
        (lambda: Engine(policy="fcsf"), "fcfs"),
        (lambda: Engine(policy="prefill-first"), "prefill_first"),
        (lambda: Engine(preemption="swp"), "swap"),
        (lambda: Engine(eviction="LRU"), "lru"),
        (lambda: BlockCache(5, "lruu"), "lru"),
        (lambda: Engine().add_request("a", P, max_token=5), "max_tokens"),
        (lambda: Engine().add_request("a", P, 5, priorty=1), "priority"),
    ],
)
def test_a_misspelt_option_names_the_nearest(call: Callable[[], object], nearest: str) -> None:
    with pytest.raises(UnknownOptionError, match=f"did you mean ['\"]{nearest}['\"]"):
        call()


BLOCKS = {"prompt_block_size": 4, "num_prompt_tokens": 4}
REQUESTS: list[tuple[type[NanoBatchError], dict[str, Any], list[str]]] = [
    (EmptyPromptError, {"prompt_token_ids": []}, ["0", "at least 1"]),
    (EmptyPromptError, {"num_prompt_tokens": 0}, ["0", "at least 1"]),
    (InvalidTokenError, {"prompt_token_ids": [1, -2]}, ["-2", "2147483647"]),
    (InvalidTokenError, {"prompt_token_ids": [2**31]}, [str(2**31), "2147483647"]),
    (InvalidTokenError, {"prompt_token_ids": [10**30]}, [str(10**30), "2147483647"]),
    (InvalidTokenError, {"prompt_token_ids": [-(10**30)]}, [str(-(10**30)), "2147483647"]),
    (InvalidTokenError, {"prompt_token_ids": np.array([5, -1], np.int32)}, ["-1"]),
    (InvalidTokenError, {"prompt_token_ids": np.array([2**40])}, [str(2**40)]),
    (InvalidTokenError, {"prompt_token_ids": P, "stop_token_ids": [-1]}, ["-1"]),
    (InvalidTokenError, {"prompt_token_ids": P, "stop_token_ids": [2**31]}, [str(2**31)]),
    (InvalidArgumentError, {"prompt_token_ids": [1.5]}, ["1.5", "2147483647"]),
    (InvalidArgumentError, {"prompt_token_ids": np.array([1.0])}, ["1.0"]),
    (InvalidArgumentError, {"prompt_token_ids": np.array([[1, 2]])}, ["[1, 2]"]),
    (InvalidArgumentError, {"prompt_token_ids": "ab"}, ["'a'"]),
    *[
        (InvalidArgumentError, {"prompt_token_ids": P, "max_tokens": v}, ["max_tokens", str(v), "1"])
        for v in (0, -4)
    ],
    (InvalidArgumentError, {"prompt_token_ids": P, "max_tokens": 2**31}, ["max_tokens", str(2**31)]),
    (InvalidArgumentError, {"prompt_token_ids": P, "max_tokens": 1.5}, ["max_tokens", "1.5"]),
    (
        InvalidArgumentError,
        {"prompt_token_ids": P, "min_tokens": 17},
        ["min_tokens", "17", "max_tokens = 16"],
    ),
    (InvalidArgumentError, {"prompt_token_ids": P, "min_tokens": -1}, ["min_tokens", "-1", "0"]),
    *[(InvalidArgumentError, {"prompt_token_ids": P, "n": v}, ["n is", str(v), "1"]) for v in (0, -1)],
    *[
        (InvalidArgumentError, {"prompt_token_ids": P, "arrival_time": v}, ["arrival_time", s, "finite"])
        for v, s in ((math.nan, "NaN"), (math.inf, "inf"))
    ],
    (InvalidArgumentError, {"prompt_token_ids": P, "priority": 2**70}, ["priority", str(2**70), "64-bit"]),
    (InvalidArgumentError, {}, ["prompt", "one of"]),
    (InvalidArgumentError, {"prompt_token_ids": P, "num_prompt_tokens": 3}, ["prompt", "one of"]),
    (InvalidArgumentError, {"prompt_token_ids": P, "prompt_block_size": 3}, ["prompt", "one of"]),
    (InvalidArgumentError, {"num_prompt_tokens": 4, "prompt_block_size": 3}, ["prompt", "one of"]),
    (InvalidArgumentError, {"prompt_block_ids": [1], "num_prompt_tokens": 4}, ["prompt", "one of"]),
    (InvalidArgumentError, {"num_prompt_tokens": -1}, ["num_prompt_tokens", "-1"]),
    (
        InvalidArgumentError,
        {"prompt_block_ids": [1], **BLOCKS, "prompt_block_size": 0},
        ["prompt_block_size", "0"],
    ),
    (InvalidArgumentError, {"prompt_block_ids": [1, 2], **BLOCKS}, ["2 blocks", "1 blocks of 4"]),
    (InvalidArgumentError, {"prompt_block_ids": [-1], **BLOCKS}, ["prompt_block_ids", "-1"]),
    (InvalidArgumentError, {"prompt_block_ids": [2**30], **BLOCKS}, ["prompt_block_ids", str(2**30)]),
    (RequestTooLargeError, {"prompt_token_ids": P, "max_tokens": 39}, ["11", "10", "num_blocks"]),
    (RequestTooLargeError, {"num_prompt_tokens": 41, "max_tokens": 1}, ["11", "10", "num_blocks"]),
    (RequestTooLargeError, {"prompt_token_ids": P, "max_tokens": 2**31 - 1}, [str(2**31 + 1)]),
    (RequestTooLargeError, {"prompt_token_ids": P, "n": 4}, ["4", "3", "max_num_seqs"]),
    (RequestTooLargeError, {"prompt_token_ids": P, "max_tokens": 12, "n": 3}, ["12", "10", "num_blocks"]),
]


@pytest.mark.parametrize(("kind", "options", "said"), REQUESTS)
def test_requests(kind: type[NanoBatchError], options: dict[str, Any], said: list[str]) -> None:
    engine = busy()
    before = state(engine)
    with pytest.raises(kind) as refused:
        engine.add_request("bad", **options)
    assert state(engine) == before
    for part in ['request "bad"', *said]:
        assert part in str(refused.value)
    engine.add_request("bad", P, 2)


def test_what_fits_exactly_is_served() -> None:
    engine = busy()
    engine.add_request("all blocks", P, 38)
    engine.add_request("three lanes", P, 10, n=3)


def test_limits_of_length_and_budget() -> None:
    short = Engine(100, 4, max_model_len=10)
    short.add_request("fits", [1] * 7, 4)
    with pytest.raises(
        RequestTooLargeError, match=r'request "long" needs 11 .*max_model_len.* the limit is 10'
    ):
        short.add_request("long", [1] * 7, 5)
    for options in ({"enable_chunked_prefill": False}, {"policy": "prefill_first"}):
        whole = Engine(100, 4, max_num_batched_tokens=8, **options)  # type: ignore[arg-type]
        whole.add_request("fits", [1] * 8, 9)
        with pytest.raises(RequestTooLargeError, match=r"needs 9 .*without chunking.* the limit is 8"):
            whole.add_request("long", [1] * 9, 1)


def test_a_window_limits_what_a_request_needs() -> None:
    Engine(4, 4, sliding_window=4, max_num_batched_tokens=8).add_request("a", [1] * 500, 500)
    with pytest.raises(RequestTooLargeError, match=r"needs 4 .*the limit is 3"):
        Engine(3, 4, sliding_window=4, max_num_batched_tokens=8).add_request("a", [1] * 500, 500)


@pytest.mark.parametrize("name", ["a/0", "a/17", "/3", "a/b/2"])
def test_names_kept_for_the_sequences_of_n(name: str) -> None:
    engine = busy()
    before = state(engine)
    with pytest.raises(ReservedRequestIdError, match=name):
        engine.add_request(name, P, 2)
    with pytest.raises(ReservedRequestIdError, match=name):
        engine.fork("runs", name)
    assert state(engine) == before
    engine.add_request("a/b", P, 2)


def test_duplicates() -> None:
    engine = busy()
    before = state(engine)
    for name in ("runs", "splits", "waits"):
        with pytest.raises(DuplicateRequestError, match=name):
            engine.add_request(name, P, 2)
        with pytest.raises(DuplicateRequestError, match=name):
            engine.fork("runs", name)
    assert state(engine) == before
    engine.add_request("ended", P, 2)


TOKENS: list[tuple[type[NanoBatchError], dict[str, Any], list[str]]] = [
    (MissingTokensError, {}, ["runs", "splits"]),
    (MissingTokensError, {"runs": 1}, ["splits"]),
    (NotSampledError, {"runs": 1, "splits": [1, 2], "waits": 3}, ["waits"]),
    (NotSampledError, {"runs": 1, "splits": [1, 2], "nobody": 3}, ["nobody"]),
    (NotSampledError, {"runs": 1, "splits/0": 1, "splits/1": 2, "splits": [1, 2]}, ["splits/0"]),
    (WrongTokenCountError, {"runs": [1, 2], "splits": [1, 2]}, ["runs", "2", "1"]),
    (WrongTokenCountError, {"runs": [], "splits": [1, 2]}, ["runs", "0", "1"]),
    (WrongTokenCountError, {"runs": 1, "splits": 1}, ["splits", "1", "2"]),
    (InvalidTokenError, {"runs": -1, "splits": [1, 2]}, ["runs", "-1", "2147483647"]),
    (InvalidTokenError, {"runs": 1, "splits": [1, 2**31]}, ["splits", str(2**31)]),
    (InvalidTokenError, {"runs": 10**25, "splits": [1, 2]}, ["runs", str(10**25)]),
    (InvalidArgumentError, {"runs": 1.0, "splits": [1, 2]}, ["runs", "1.0"]),
    (InvalidArgumentError, {"runs": None, "splits": [1, 2]}, ["runs", "None"]),
    (InvalidArgumentError, {"runs": "1", "splits": [1, 2]}, ["runs", "'1'"]),
]


@pytest.mark.parametrize(("kind", "tokens", "said"), TOKENS)
def test_tokens(kind: type[NanoBatchError], tokens: dict[str, Any], said: list[str]) -> None:
    engine = busy()
    before = state(engine)
    with pytest.raises(kind) as refused:
        engine.update(tokens)
    assert state(engine) == before
    for part in said:
        assert part in str(refused.value)
    assert engine.update({"runs": np.int64(1), "splits": np.array([1, 2])}) == []


def test_tokens_when_none_are_awaited() -> None:
    engine = busy()
    engine.update({"runs": 1, "splits": (1, 2)})
    with pytest.raises(NotSampledError, match="runs"):
        engine.update({"runs": 1})


def test_sequences_that_are_not_there_or_cannot() -> None:
    engine = busy()
    before = state(engine)
    for call in (
        lambda: engine.abort("ended"),
        lambda: engine.finish("nobody", "stop"),
        lambda: engine.fork("nobody", "copy"),
        lambda: engine.abort("splits/7"),
    ):
        with pytest.raises(UnknownRequestError):
            call()
    with pytest.raises(InvalidArgumentError, match=r"keep is 1; .* at most the 0 output tokens"):
        engine.finish("runs", "stop", keep=1)
    with pytest.raises(InvalidArgumentError, match=r"keep is -1"):
        engine.finish("runs", "stop", keep=-1)
    with pytest.raises(EventLogOffError):
        engine.events()
    with pytest.raises(NotBoundError):
        engine.step_arrays()
    assert state(engine) == before
    waiting = Engine()
    waiting.add_request("a", P, 3, n=2)
    with pytest.raises(CannotForkError, match="a"):
        waiting.fork("a", "b")


def test_every_error_is_named_and_bad_arguments_are_value_errors() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(one, NanoBatchError) for one in classes)
    for one in (
        {row[0] for row in REQUESTS} | {row[0] for row in TOKENS} | {UnknownOptionError, CannotForkError}
    ):
        assert issubclass(one, ValueError)
