"""The simulator against an `Engine` driven by hand: the same schedule, times and records."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch import Engine, drive, simulate
from nano_batch.metrics import waste
from nano_batch.workloads import Workload

ENGINES = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 4, 16]),
        "max_num_seqs": st.sampled_from([1, 3, 16]),
        "max_num_batched_tokens": st.sampled_from([48, 200]),
        "policy": st.sampled_from(["fcfs", "sjf", "lpm", "static", "prefill_first"]),
        "enable_prefix_caching": st.booleans(),
        "watermark": st.sampled_from([0.0, 0.05]),
        "preemption": st.sampled_from(["recompute", "swap"]),
        "sliding_window": st.sampled_from([None, None, 24]),
        "eviction": st.sampled_from(["lru", "lfu", "fifo"]),
    }
)


def small_workload(seed: int, arrivals: str) -> Workload:
    rng = np.random.default_rng(seed)
    count = 24
    if arrivals == "closed":
        times = np.where(np.arange(count) < 3, 0.0, np.nan)
    else:
        times = np.sort(rng.uniform(0, 3.0 if arrivals == "open" else 1e-9, count))
    prompts, outputs = rng.integers(1, 48, count), rng.integers(1, 30, count)
    size = 8
    ids, offsets = [], [0]
    for prompt in prompts.tolist():
        blocks = -(-prompt // size)
        shared = rng.integers(0, blocks + 1)
        ids += [*range(shared), *(1000 + rng.integers(0, 500, blocks - shared)).tolist()]
        offsets.append(len(ids))
    content = (
        {}
        if seed % 3 == 0
        else {"block_ids": np.array(ids, np.int32), "block_offsets": np.array(offsets), "block_size": size}
    )
    return Workload(times, prompts, outputs, **content)


def step_time(output) -> float:
    """Seconds that depend on what the step computes."""
    return 0.01 + 0.001 * sum(output.num_tokens_per_request)


def same_cost(features) -> float:
    return 0.01 + 0.001 * (features.prefill_tokens + features.decode_sequences)


@settings(max_examples=60, deadline=None)
@given(ENGINES, st.integers(0, 10**6), st.sampled_from(["open", "closed", "at_once"]))
def test_it_visits_what_a_hand_driven_engine_visits(options, seed, arrivals):
    workload = small_workload(seed, arrivals)
    options = dict(options, num_blocks=-(-160 // options["block_size"]))
    if options["preemption"] == "swap":
        options["num_swap_blocks"] = options["num_blocks"]
    by_hand = drive(Engine(event_log=True, **options), workload, step_time_s=step_time)
    simulated = simulate(workload, cost=same_cost, event_log=True, **options)
    assert simulated.steps == by_hand.steps
    assert simulated.requests == by_hand.requests
    assert simulated.events == by_hand.events


@settings(max_examples=25, deadline=None)
@given(ENGINES, st.integers(0, 10**6))
def test_slots_of_each_step_are_those_of_a_replayed_state(options, seed):
    workload = small_workload(seed, "open")
    options = dict(options, num_blocks=-(-160 // options["block_size"]))
    if options["preemption"] == "swap":
        options["num_swap_blocks"] = options["num_blocks"]
    engine = Engine(event_log=True, **options)
    final = dict(enumerate((workload.prompt_tokens + workload.output_tokens - 1).tolist()))
    for row in range(len(workload)):
        engine.add_request(**workload.request(row, float(row)))
    while engine.has_unfinished:
        output = engine.step()
        split = waste(engine.snapshot(), options["block_size"], final)
        assert engine.slot_counts == (split.used, split.reserved, split.internal)
        engine.update(dict.fromkeys(output.sampled_requests, 7))


def test_requests_are_named_by_their_row():
    for count in (1, 10, 9_999, 10_001):
        workload = Workload(np.zeros(count), np.ones(count, np.int64), np.ones(count, np.int64))
        names = simulate(workload, cost=0.01, num_blocks=512, keep_steps=2).requests.request_id
        assert names.tolist() == [f"r{row}" for row in range(count)]
