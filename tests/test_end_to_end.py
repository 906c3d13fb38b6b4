"""A tiny transformer over engine, paged cache and attention says, token for token, what it says densely."""

from __future__ import annotations

import random

import pytest
import torch
from paged_serving import Serving

from nano_batch.core import Engine
from nano_batch.models import PagedRunner, TinyConfig, TinyTransformer

POLICIES = ["fcfs", "priority", "sjf", "lpm", "static", "prefill_first"]


def model_of(window=None, seed=1):
    return TinyTransformer(TinyConfig(sliding_window=window), seed=seed)


def draw(rng, count):
    return [rng.randrange(64) for _ in range(count)]


def add_requests(serving, rng, count, *, prompts=(1, 24), outputs=(4, 16), shared=12, n=1):
    """Requests of random lengths; a half of the prompts begin alike."""
    prefix = draw(random.Random(99), shared)
    for index in range(count):
        name = f"{serving.seen['steps']}-{index}"
        begin = prefix if rng.random() < 0.5 else []
        serving.add(
            name, begin + draw(rng, rng.randint(*prompts)), rng.randint(*outputs), n=n,
            priority=rng.randrange(3), arrival_time=float(serving.seen["steps"]),
        )  # fmt: skip


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("policy", POLICIES)
def test_policies_under_memory_pressure(policy, preemption, caching):
    serving = Serving(
        model_of(), 16, 4, policy=policy, preemption=preemption,
        num_swap_blocks=12 if preemption == "swap" else 0,
        enable_prefix_caching=caching, watermark=0.0, max_num_batched_tokens=64, max_num_seqs=6,
    )  # fmt: skip
    rng = random.Random(7)
    add_requests(serving, rng, 6)
    for _ in range(6):
        serving.step()
    add_requests(serving, rng, 8)
    serving.run()
    assert len(serving.ended) == 14
    seen = serving.seen
    if policy == "static":
        assert seen["preempted"] == 0
    else:
        assert seen["preempted"] > 0
        assert (seen["swap_out"] > 0) == (seen["swap_in"] > 0) == (preemption == "swap")
    assert (seen["cached"] > 0) == caching


@pytest.mark.parametrize(("preemption", "window"), [("recompute", None), ("swap", None), ("swap", 10)])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 7, 8, 16, 31, 32, 64])
def test_block_sizes(block_size, preemption, window):
    """The same memory in tokens; sequences grow past 64 tokens, the largest block.

    Without the prefix cache, which would know all blocks but the last, whole tables are swapped.
    """
    memory = 180 if window is None else 40 + 2 * block_size
    swaps = preemption == "swap"
    serving = Serving(
        model_of(window), -(-memory // block_size), block_size, preemption=preemption,
        num_swap_blocks=-(-150 // block_size) if swaps else 0, enable_prefix_caching=not swaps,
        watermark=0.0, max_num_batched_tokens=20, layout="HND",
    )  # fmt: skip
    add_requests(serving, random.Random(block_size), 6, prompts=(1, 5), outputs=(62, 68), shared=4)
    serving.run()
    assert len(serving.ended) == 6
    assert serving.seen["preempted"] > 0
    assert (serving.seen["swap_in"] > 0) == swaps


@pytest.mark.parametrize("swaps", [False, True])
@pytest.mark.parametrize(("window", "num_blocks"), [(1, 8), (6, 10), (16, 18)])
def test_a_sliding_window_under_memory_pressure(window, num_blocks, swaps):
    """So many sequences that even their windows do not fit together.

    A window of 1 holds one block a sequence and gives it back before it takes the next: nobody is preempted.
    """
    serving = Serving(
        model_of(window), num_blocks, 2, preemption="swap" if swaps else "recompute",
        num_swap_blocks=12 if swaps else 0, enable_prefix_caching=not swaps, watermark=0.0,
        max_num_batched_tokens=8,
    )  # fmt: skip
    rng = random.Random(window)
    for turn in range(3):
        add_requests(serving, rng, 8, prompts=(2, 8), outputs=(10, 25), shared=6)
        for _ in range(5 * (turn + 1)):
            serving.step()
    serving.run()
    assert (serving.seen["preempted"] > 0) == (window > 1)
    assert (serving.seen["swap_in"] > 0) == (window > 1 and swaps)


@pytest.mark.parametrize("chunked", [True, False])
def test_whole_prompts_and_chunks(chunked):
    serving = Serving(
        model_of(), 60, 4, enable_chunked_prefill=chunked, max_num_batched_tokens=40, max_num_seqs=4
    )
    add_requests(serving, random.Random(3), 10)
    serving.run()
    assert serving.seen["mixed"] > 0


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_several_sequences_from_one_prompt(block_size, window, preemption):
    """Each of n sequences begins with another token; they share the prompt's blocks until one writes."""
    serving = Serving(
        model_of(window), -(-128 // block_size), block_size, preemption=preemption,
        num_swap_blocks=-(-60 // block_size) if preemption == "swap" else 0, watermark=0.0, max_num_seqs=8,
        max_num_batched_tokens=24,
    )  # fmt: skip
    rng = random.Random(block_size)
    for n in (3, 1, 4, 2):
        serving.add(f"n{n}", draw(rng, rng.randint(5, 14)), rng.randint(18, 24), n=n)
    serving.run()
    assert set(serving.ended) == {
        "n3/0",
        "n3/1",
        "n3/2",
        "n1",
        "n4/0",
        "n4/1",
        "n4/2",
        "n4/3",
        "n2/0",
        "n2/1",
    }
    assert len({serving.tokens[f"n4/{index}"][0] for index in range(4)}) == 4
    assert block_size == 1 or serving.seen["copies"] > 0
    assert window is not None or serving.seen["preempted"] > 0


@pytest.mark.parametrize("lanes", [2, 8])
@pytest.mark.parametrize("between", ["steps", "step and update"])
@pytest.mark.parametrize("block_size", [1, 3, 8])
def test_forks_part_from_their_parent(block_size, between, lanes):
    """A fork goes on from its parent's blocks, or, without a lane, from its tokens."""
    serving = Serving(model_of(), -(-200 // block_size), block_size, max_num_seqs=lanes)
    serving.add("root", draw(random.Random(5), 11), 24)
    for turn in range(16):
        forks = [("root", f"a{turn}")] if turn % 5 == 2 else []
        forks += [("a2", f"b{turn}")] if turn in (6, 9) and lanes > 2 else []
        if between == "steps":
            for parent, new_id in forks:
                serving.fork(parent, new_id)
            serving.step()
        else:
            serving.step(forks)
    serving.run()
    assert {"root", "a2", "a7", "a12"} <= set(serving.ended)
    assert lanes == 2 or block_size == 1 or serving.seen["copies"] > 0
    for name in ("a2", "a7", "a12"):
        assert serving.tokens[name] != serving.tokens["root"]
        assert len(serving.tokens[name]) == 24


def test_stops_and_aborts_leave_the_others_right():
    serving = Serving(model_of(), 18, 4, watermark=0.0, eos_token_id=3)
    rng = random.Random(11)
    for index in range(12):
        serving.add(f"r{index}", draw(rng, rng.randint(3, 20)), 20, stop_token_ids=draw(rng, 4), min_tokens=2)
    for index in range(12):
        serving.step()
        if index % 4 == 1 and f"r{index}" not in serving.ended:
            serving.abort(f"r{index}")
    serving.run()
    assert set(serving.ended.values()) == {"stop", "length", "abort"}


@pytest.mark.parametrize("seed", range(12))
def test_random_runs(seed):
    """Everything at once, drawn from a seed."""
    rng = random.Random(seed)
    block_size, swaps = rng.choice([1, 2, 3, 5, 8]), rng.random() < 0.5
    serving = Serving(
        model_of(rng.choice([None, None, 3, 8]), seed=seed), -(-rng.randint(90, 130) // block_size),
        block_size,
        policy=rng.choice(POLICIES), preemption="swap" if swaps else "recompute",
        num_swap_blocks=rng.randint(1, -(-60 // block_size)) if swaps else 0,
        enable_prefix_caching=rng.random() < 0.8, eviction=rng.choice(["lru", "lfu", "fifo"]),
        max_num_batched_tokens=rng.choice([48, 64, 100]), max_num_seqs=rng.choice([4, 7]),
        hash_bits=rng.choice([4, 128]), watermark=rng.choice([0.0, 0.1]),
    )  # fmt: skip
    for turn in range(40):
        if rng.random() < 0.4:
            add_requests(serving, rng, 1, n=rng.choice([1, 1, 1, 2, 3]), shared=rng.choice([4, 9]))
        output = serving.step()
        alive = [
            name for name in output.sampled_requests if name in serving.prompts and name not in serving.ended
        ]
        if alive and rng.random() < 0.15:
            serving.fork(rng.choice(alive), f"fork{turn}")
        if alive and rng.random() < 0.1:
            serving.abort(rng.choice(alive))
    serving.run()


def beams_of(scores_of, width, count):
    """Beam search: keep the `width` best sequences by summed log probability, `count` tokens long."""
    beams = [((), 0.0)]
    for _ in range(count):
        grown = []
        for tokens, score in beams:
            scores = scores_of(tokens)
            grown += [((*tokens, token), score + float(value)) for token, value in enumerate(scores)]
        beams = sorted(grown, key=lambda beam: -beam[1])[:width]
    return beams


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize(("width", "block_size"), [(1, 4), (2, 1), (3, 4), (4, 16)])
def test_beam_search_on_forks(width, block_size, window):
    model, count = model_of(window, seed=2), 12
    prompt = draw(random.Random(width), 9)
    dense = beams_of(lambda tokens: model.dense([*prompt, *tokens])[-1].log_softmax(-1), width, count)

    serving = Serving(model, -(-300 // block_size), block_size, max_num_seqs=2 * width)
    engine, runner = serving.engine, PagedRunner(model, serving.cache)
    engine.add_request("beam0", prompt, count)
    beams, made, finished, forks = {"beam0": ((), 0.0)}, 1, {}, 0
    while engine.has_unfinished:
        output = engine.step()
        logits = runner.run(output)
        assert set(output.sampled_requests) == set(beams)
        grown = [
            (parent, int(token), score + float(value))
            for parent, (_, score) in beams.items()
            for token, value in enumerate(logits[parent].log_softmax(-1))
        ]
        kept = sorted(grown, key=lambda beam: -beam[2])[:width]
        for parent in set(beams) - {parent for parent, _, _ in kept}:
            engine.abort(parent)
        after, chosen = {}, {}
        for parent, token, score in kept:
            name = parent
            if parent in after:
                name, made, forks = f"beam{made}", made + 1, forks + 1
                engine.fork(parent, name)
            after[name], chosen[name] = ((*beams[parent][0], token), score), token
        beams = after
        finished.update(engine.update(chosen))
        serving.poison()
    assert set(finished) >= set(beams)
    assert (forks > 0) == (width > 1)
    found = sorted(beams.values(), key=lambda beam: -beam[1])
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in dense]
    torch.testing.assert_close([score for _, score in found], [score for _, score in dense])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_fork_never_writes_its_parents_slots(policy):
    engine = Engine(20, 2, policy=policy)
    engine.add_request("root", [1, 2, 3], 12)
    engine.step()
    engine.update({"root": 5})
    engine.fork("root", "child")
    while engine.has_unfinished:
        output = engine.step()
        assert len(set(output.slot_mappings)) == len(output.slot_mappings), output.block_tables
        engine.update(dict.fromkeys(output.sampled_requests, 7))
