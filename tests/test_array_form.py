"""The array form, one step in flight or none, gives the tokens of the dense model and the friendly form."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from paged_serving import ArrayServing, Serving

from nano_batch.models import TinyConfig, TinyTransformer


def fill(serving, seed, *, stops, count=10, n=1):
    rng = random.Random(seed)
    prefix = [rng.randrange(64) for _ in range(8)]
    for index in range(count):
        begin = prefix if rng.random() < 0.5 else []
        prompt = begin + [rng.randrange(64) for _ in range(rng.randint(1, 18))]
        serving.add(
            f"r{index}", prompt, rng.randint(1, 24), n=n if index % 3 == 0 else 1,
            stop_token_ids=[rng.randrange(64) for _ in range(6)] if stops else [],
            priority=rng.randrange(3), arrival_time=float(index),
        )  # fmt: skip


def model_of(window, seed=1):
    return TinyTransformer(TinyConfig(sliding_window=window), seed=seed)


OPTIONS = {"max_num_seqs": 6, "max_num_batched_tokens": 32, "watermark": 0.0}


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("policy", ["fcfs", "priority", "sjf", "lpm", "static", "prefill_first"])
def test_a_step_in_flight_changes_no_token(policy, preemption, window):
    model = model_of(window)
    common = {"policy": policy, "preemption": preemption, "max_model_len": 64, **OPTIONS}
    common["num_swap_blocks"] = 12 if preemption == "swap" else 0
    runs = []
    for depth in (0, 1):
        serving = ArrayServing(model, 18, 4, depth=depth, **common)
        fill(serving, 3, stops=True)
        serving.run()
        assert (serving.seen["unknown"] > 0) == (depth == 1)
        if policy != "static" and window is None:
            assert serving.seen["preempted"] > 0
        runs.append((serving.tokens, serving.ended))
    friendly = Serving(model, 18, 4, **common)
    fill(friendly, 3, stops=True)
    friendly.run()
    assert runs[0] == runs[1] == (friendly.tokens, friendly.ended)
    assert set(friendly.ended.values()) == {"stop", "length"}


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_several_sequences_from_one_prompt(block_size, depth):
    serving = ArrayServing(model_of(None), -(-150 // block_size), block_size, depth=depth, **OPTIONS)
    fill(serving, block_size, stops=False, count=7, n=3)
    serving.run()
    assert len(serving.ended) == 3 * 3 + 4
    friendly = Serving(model_of(None), -(-150 // block_size), block_size, **OPTIONS)
    fill(friendly, block_size, stops=False, count=7, n=3)
    friendly.run()
    assert friendly.tokens == serving.tokens


@pytest.mark.parametrize("depth", [0, 1])
def test_padding_rows_change_nothing(depth):
    runs = []
    for padded in (False, True):
        serving = ArrayServing(model_of(None), 30, 4, depth=depth, padded=padded, **OPTIONS)
        fill(serving, 5, stops=True)
        serving.run()
        runs.append((serving.tokens, serving.ended, serving.seen["steps"]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("seed", range(8))
def test_random_aborts_with_a_step_in_flight(seed):
    """An abort discards the outstanding row; its blocks come back, and the others keep their tokens."""
    rng = random.Random(seed)
    block_size, swaps = rng.choice([1, 2, 4, 7]), rng.random() < 0.5
    serving = ArrayServing(
        model_of(rng.choice([None, 6]), seed=seed), -(-72 // block_size), block_size, depth=1,
        preemption="swap" if swaps else "recompute", num_swap_blocks=-(-40 // block_size) if swaps else 0,
        enable_prefix_caching=rng.random() < 0.7, max_model_len=64, **OPTIONS,
    )  # fmt: skip
    fill(serving, seed, stops=True, count=14)

    def disturb(serving):
        alive = sorted(name for name in serving.tokens if name not in serving.ended)
        if alive and rng.random() < 0.2:
            serving.abort(rng.choice(alive))

    serving.run(between=disturb)
    assert "abort" in serving.ended.values()
    assert len(serving.ended) == 14


def test_tensors_can_be_bound():
    """Tensors share their memory with the engine: what a step fills is there without a copy."""
    serving = ArrayServing(model_of(None), 40, 4, depth=1, **OPTIONS)
    tensors = [
        {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in one.items()}
        for one in (serving.engine.array_buffers(), serving.engine.array_buffers())
    ]
    serving.engine.bind(tensors)
    serving.buffers = [{name: tensor.numpy() for name, tensor in one.items()} for one in tensors]
    fill(serving, 2, stops=False)
    serving.run()
    assert len(serving.ended) == 10
