"""Every step of random runs of the real engine, rebuilt from its event log, equals its snapshot."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest

from nano_batch import Engine
from nano_batch.errors import CannotForkError
from nano_batch.metrics import waste
from nano_batch.records import State, replay
from nano_batch.records.replayer import Replayer

POLICIES = ("fcfs", "priority", "sjf", "lpm", "static", "prefill_first")


def random_engine(rng: random.Random, event_log: bool | int = True) -> Engine:
    window = rng.choice([None, None, 5, 17])
    return Engine(
        num_blocks=rng.randint(12, 32),
        block_size=rng.choice([1, 2, 4, 7]) if window is None else 4,
        max_num_seqs=rng.randint(4, 12),
        max_num_batched_tokens=rng.randint(12, 60),
        policy=rng.choice(POLICIES),
        preemption=rng.choice(["recompute", "swap"]),
        num_swap_blocks=rng.choice([4, 40]),
        enable_prefix_caching=rng.random() < 0.8,
        eviction=rng.choice(["lru", "lfu", "fifo"]),
        watermark=rng.choice([0.0, 0.1]),
        sliding_window=window,
        event_log=event_log,
    )


def random_request(rng: random.Random, engine: Engine, number: int) -> None:
    pool = engine.num_blocks * engine.block_size
    n = rng.choice([1, 1, 1, 2]) if engine.policy != "static" else 1
    prompt = rng.randint(1, min(max(1, pool // 4), engine.max_num_batched_tokens))
    options = {
        "max_tokens": rng.randint(1, max(1, pool // (4 * n))),
        "arrival_time": float(number),
        "priority": rng.randint(0, 3),
        "n": n,
        "stop_token_ids": [7],
    }
    if rng.random() < 0.3:
        content = {
            "num_prompt_tokens": prompt,
            "prompt_block_ids": list(range(-(-prompt // 4))),
            "prompt_block_size": 4,
        }
    elif rng.random() < 0.2:
        content = {"num_prompt_tokens": prompt}
    else:
        content = {"prompt_token_ids": [rng.randint(0, 1) for _ in range(prompt)]}
    engine.add_request(f"q{number}", **content, **options)


def random_moments(rng: random.Random, engine: Engine, steps: int):
    """Drive the engine at random; its snapshot after each call that changes it."""
    number = 0
    for _ in range(steps):
        for _ in range(rng.choice([0, 0, 1, 3])):
            random_request(rng, engine, number)
            number += 1
            yield engine.snapshot()
        output = engine.step()
        yield engine.snapshot()
        names = dict(samples(engine, output))
        engine.update({n: token(rng) if c == 1 else [token(rng) for _ in range(c)] for n, c in names.items()})
        yield engine.snapshot()
        running = engine.snapshot().running
        if running and rng.random() < 0.1:
            engine.abort(rng.choice(running))
            yield engine.snapshot()
        if running and rng.random() < 0.1:
            with contextlib.suppress(CannotForkError, ValueError):
                engine.fork(rng.choice(engine.snapshot().running or running), f"f{number}")
            number += 1
            yield engine.snapshot()


def token(rng: random.Random) -> int:
    return 7 if rng.random() < 0.03 else rng.randint(0, 1)


def samples(engine: Engine, output):
    """(name, tokens it takes): n for a request whose n sequences begin with this step."""
    live = engine.snapshot().request_ids.values()
    for name in output.sampled_requests:
        lanes = sum(1 for other in live if other.startswith(f"{name}/"))
        yield name, max(1, lanes)


def check_equation(state: State, block_size: int) -> None:
    split = waste(state, block_size)
    assert split.total == split.used + split.unfilled + split.cached + split.free
    final = {
        int(number): int(stored) + 3 for number, stored in zip(state.sequence, state.stored, strict=True)
    }
    known = waste(state, block_size, final)
    assert known.total == known.used + known.reserved + known.internal + known.cached + known.free
    assert min(known.used, known.reserved, known.internal, known.cached, known.free, known.sharing) >= 0


@pytest.mark.parametrize("seed", range(40))
def test_replay_equals_the_snapshot_at_every_moment(seed):
    rng = random.Random(seed)
    engine = random_engine(rng)
    moments = [State.of(moment) for moment in random_moments(rng, engine, 60)]
    log = engine.events()
    replayer = Replayer(log.keyframes[0])
    for moment in moments:
        replayer.run(log, moment.event)
        rebuilt = replayer.state()
        assert rebuilt.differences(moment) == [], f"event {moment.event}, step {moment.step}"
        check_equation(rebuilt, engine.block_size)
    assert replay(log) == moments[-1]
    assert len(log) > 200


@pytest.mark.parametrize("event_log", [True, 2000])
def test_replay_over_keyframes_and_a_ring_that_dropped_events(event_log):
    rng = random.Random(5)
    engine = Engine(
        num_blocks=30, block_size=4, max_num_seqs=6, max_num_batched_tokens=24, event_log=event_log
    )
    moments = [State.of(moment) for moment in random_moments(rng, engine, 700)]
    log = engine.events()
    assert len(log.keyframes) >= 3
    assert (log.first_event > 0) == (event_log is not True)
    kept = [moment for moment in moments if moment.event >= log.first_event]
    assert len(kept) > 50
    for moment in kept[:: max(1, len(kept) // 60)]:
        assert replay(log, event=moment.event).differences(moment) == []
    ends = {moment.step: moment for moment in kept}
    for step in list(ends)[1:-1:20]:
        assert replay(log, step=step).differences(ends[step]) == []
    for frame in log.keyframes[1:]:
        from_start = Replayer(log.keyframes[0])
        from_start.run(log, frame.event)
        assert from_start.state() == frame


def test_the_random_runs_reach_every_kind_of_event():
    seen = set()
    for seed in range(40):
        rng = random.Random(seed)
        engine = random_engine(rng)
        for _ in random_moments(rng, engine, 60):
            pass
        seen |= set(np.unique(engine.events().kind).tolist())
    assert seen == set(range(14))
