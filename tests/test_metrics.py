"""Metrics: small examples computed by hand, and laws on runs of the real engine."""

from __future__ import annotations

import numpy as np
import pytest

from nano_batch import Engine
from nano_batch.errors import MetricsError
from nano_batch.metrics import (
    SLO,
    TokenTimes,
    Waste,
    backlog_grows,
    block_utilisation,
    end_to_end_s,
    external_slots,
    final_stored_tokens,
    goodput_per_s,
    in_system,
    inter_token_latency_s,
    normalized_latency_s,
    quantile,
    quantiles,
    saturation_knee,
    steady_window,
    throughput,
    token_times,
    tpot_s,
    ttft_s,
    waste,
    waste_over_time,
)
from nano_batch.records import Requests, Run, State, Steps, drive, walk
from nano_batch.workloads import Families, Uniform, Workload

NAN = float("nan")

# a: 5 tokens at 2, 3, 4, 5, 6. b: one token. c: aborted after 2. d: never scheduled.
REQUESTS = Requests(
    sequence=[0, 1, 2, 3],
    request_id=["a", "b", "c", "d"],
    arrival_s=[1.0, 2.0, 3.0, 4.0],
    first_scheduled_s=[1.0, 4.0, 4.0, NAN],
    first_token_s=[2.0, 5.0, 5.0, NAN],
    finish_s=[6.0, 5.0, 8.0, NAN],
    prompt_tokens=[10, 20, 30, 40],
    cached_tokens=[0, 0, 0, 0],
    output_tokens=[5, 1, 2, 0],
    max_tokens=[5, 1, 9, 9],
    preemptions=[0, 0, 0, 0],
    finish_reason=["length", "stop", "abort", ""],
)


def test_latencies_by_hand():
    assert np.array_equal(ttft_s(REQUESTS), [1.0, 3.0, 2.0, NAN], equal_nan=True)
    assert np.array_equal(tpot_s(REQUESTS), [1.0, NAN, 3.0, NAN], equal_nan=True)
    assert np.array_equal(end_to_end_s(REQUESTS), [5.0, 3.0, 5.0, NAN], equal_nan=True)
    assert np.array_equal(normalized_latency_s(REQUESTS), [1.0, 3.0, 2.5, NAN], equal_nan=True)


def test_throughput_by_hand():
    # From the first arrival (1 s) to the last end (8 s): a and b are completed.
    rates = throughput(REQUESTS)
    assert rates.window_s == 7.0
    assert rates.requests_per_s == 2 / 7
    assert rates.output_tokens_per_s == 6 / 7
    assert rates.total_tokens_per_s == 36 / 7
    # Ends at 5 s (not in) and 6 s (in).
    assert throughput(REQUESTS, (5.0, 6.0)).output_tokens_per_s == 5.0
    for window in ((5.0, 5.0), (6.0, 5.0), (NAN, 5.0)):
        with pytest.raises(MetricsError, match="window"):
            throughput(REQUESTS, window)
    with pytest.raises(MetricsError, match="no request has ended"):
        throughput(Requests(*[column[3:] for _, column in REQUESTS.items()]))


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (SLO(), [True, True, False, False]),
        (SLO(ttft_s=1.0), [True, False, False, False]),
        (SLO(ttft_s=0.9), [False, False, False, False]),
        (SLO(tpot_s=1.0), [True, True, False, False]),
        (SLO(tpot_s=0.5), [False, True, False, False]),
        (SLO(end_to_end_s=3.0), [False, True, False, False]),
        (SLO(ttft_s=3.0, tpot_s=1.0, end_to_end_s=5.0), [True, True, False, False]),
    ],
)
def test_goodput_by_hand(slo, met):
    assert slo.met(REQUESTS).tolist() == met
    assert goodput_per_s(REQUESTS, slo) == sum(met) / 7
    assert goodput_per_s(REQUESTS, slo, (0.0, 10.0)) == sum(met) / 10


def test_inter_token_latencies_leave_out_the_gaps_between_sequences():
    times = TokenTimes(
        np.array([0, 1, 2, 3], np.uint32), np.array([0, 3, 3, 4, 6]), np.array([1.0, 2.0, 4.0, 0.0, 5.0, 5.5])
    )
    assert times.gaps_s().tolist() == [1.0, 2.0, 0.5]
    empty = TokenTimes(np.array([0, 1], np.uint32), np.array([0, 0, 0]), np.array([]))
    assert empty.gaps_s().tolist() == []
    last = TokenTimes(np.array([0, 1], np.uint32), np.array([0, 2, 2]), np.array([1.0, 3.0]))
    assert last.gaps_s().tolist() == [2.0]
    first = TokenTimes(np.array([0, 1], np.uint32), np.array([0, 0, 2]), np.array([1.0, 3.0]))
    assert first.gaps_s().tolist() == [2.0]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("window", [None, 24])
def test_token_times_of_real_runs_agree_with_the_requests(preemption, window):
    workload = Workload.synthetic(
        60, rate=60.0, seed=4, prompts=Uniform(1, 60), outputs=Uniform(1, 40), families=Families(2, 16, 8)
    )
    engine = Engine(
        num_blocks=36,
        block_size=8,
        max_num_batched_tokens=48,
        preemption=preemption,
        num_swap_blocks=40,
        sliding_window=window,
        watermark=0.0,
        event_log=True,
    )
    run = drive(engine, workload, step_time_s=lambda output: 0.001 * sum(output.num_tokens_per_request))
    requests = run.requests
    assert requests.preemptions.sum() > 0
    times = token_times(run)
    row = {number: place for place, number in enumerate(requests.sequence.tolist())}
    for place, number in enumerate(times.sequence.tolist()):
        own = times.time_s[times.offsets[place] : times.offsets[place + 1]]
        assert len(own) == requests.output_tokens[row[number]]
        assert own[0] == requests.first_token_s[row[number]]
        assert own[-1] == requests.finish_s[row[number]]
        if len(own) > 1:
            assert np.diff(own).mean() == pytest.approx(tpot_s(requests)[row[number]])
    gaps = inter_token_latency_s(run)
    assert len(gaps) == (requests.output_tokens - 1).sum()
    assert (gaps > 0).all()


def stepped(engine: Engine, tokens) -> Run:
    """A run whose step k lasts from k − 1 to k seconds."""
    count = 0
    while engine.has_unfinished:
        output = engine.step()
        count += 1
        engine.update(tokens(output))
    steps = np.arange(1, count + 1)
    table = Steps(steps, steps - 1.0, np.ones(count), *[np.zeros(count)] * 14)
    return Run(Requests(*[[]] * len(Requests.DTYPES)), table, engine.events())


def test_token_times_of_several_sequences_a_request():
    engine = Engine(num_blocks=20, block_size=4, max_num_batched_tokens=8, event_log=True)
    engine.add_request("a", [1] * 12, max_tokens=3, n=2)
    # The prompt takes steps 1 and 2; both sequences get their tokens at 2, 3 and 4 s.
    run = stepped(engine, lambda output: {n: [5, 6] if n == "a" else 5 for n in output.sampled_requests})
    times = token_times(run)
    assert times.offsets.tolist() == [0, 3, 6]
    assert times.time_s.tolist() == [2.0, 3.0, 4.0, 2.0, 3.0, 4.0]


def test_token_times_of_a_fork_begin_with_the_newest_common_token():
    engine = Engine(num_blocks=20, block_size=4, event_log=True)
    engine.add_request("a", [1] * 4, max_tokens=4)

    def tokens(output):
        return dict.fromkeys(output.sampled_requests, 5)

    for _ in range(2):
        engine.update(tokens(engine.step()))
    engine.fork("a", "b")
    while engine.has_unfinished:
        engine.update(tokens(engine.step()))
    steps = np.arange(1, 5)
    table = Steps(steps, steps - 1.0, np.ones(4), *[np.zeros(4)] * 14)
    run = Run(Requests(*[[]] * len(Requests.DTYPES)), table, engine.events())
    times = token_times(run)
    assert times.offsets.tolist() == [0, 4, 7]
    assert times.time_s.tolist() == [1.0, 2.0, 3.0, 4.0, 2.0, 3.0, 4.0]


def test_token_times_need_the_whole_log():
    run = drive(Engine(20, 4), Workload([0.0], [3], [2]))
    with pytest.raises(MetricsError, match="event_log=True"):
        token_times(run)
    with pytest.raises(MetricsError, match="event_log=True"):
        waste_over_time(run)


def test_block_utilisation():
    steps = Steps([1, 2], [0.0, 1.0], [1.0, 1.0], *[[0, 0]] * 4, [1, 4], [2, 0], [1, 0], *[[0, 0]] * 7)
    assert block_utilisation(steps).tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("concurrency", "rates", "knee"),
    [
        ([1, 2, 4, 8, 16], [10, 20, 38, 40, 41], 4),
        ([1, 2, 4, 8, 16], [10, 20, 40, 80, 160], None),
        ([1, 2, 4], [10, 10.5, 10.6], 1),
        # A plateau that rises again is none: the knee is behind the rise.
        ([1, 2, 4, 8, 16, 32], [10, 10.1, 20, 21, 21, 21], 4),
        # Exactly 10 % is not less than 10 %.
        ([1, 2, 4], [10.0, 11.0, 11.5], 2),
        # 2C lies between points: at C = 3 the throughput at 6 is 20 + (21.9 - 20) * log2(6 / 5) = 20.5.
        ([1, 3, 5, 10], [10, 19, 20, 21.9], 3),
        ([4], [10], None),
        ([4, 7], [10, 10], None),
    ],
)
def test_saturation_knee_by_hand(concurrency, rates, knee):
    assert saturation_knee(concurrency, rates) == knee


@pytest.mark.parametrize(
    ("concurrency", "rates"),
    [([], []), ([1, 2], [1]), ([2, 1], [1, 1]), ([0, 1], [1, 1]), ([1, 2], [1, NAN]), ([1, 2], [0, 1])],
)
def test_saturation_knee_refuses_what_is_no_curve(concurrency, rates):
    with pytest.raises(MetricsError):
        saturation_knee(concurrency, rates)


# Blocks of 4. 0 and 2 share blocks 0 and 1 (a fork), 1 shares block 0; block 3 is cached, 4 to 7 are free.
SHARED = State(
    step=3,
    event=0,
    block_references=[3, 2, 1, 0, 0, 0, 0, 0],
    block_cached=[1, 0, 0, 1, 0, 0, 0, 0],
    sequence=[10, 11, 12],
    state=[1, 1, 1],
    stored=[5, 6, 6],
    lane=[0, 1, 2],
    table_offsets=[0, 2, 4, 6],
    tables=[0, 1, 0, 2, 0, 1],
)


def test_waste_by_hand():
    # Block 0: 4 used. Block 1: 2 used (by 12), 1 reserved (10 will store 7), 1 internal.
    # Block 2: 2 used, 2 internal.
    split = waste(SHARED, 4, {10: 7, 11: 6, 12: 6})
    assert split == Waste(
        total=32, used=8, unfilled=4, cached=4, free=16, reserved=1, internal=3, external=0, sharing=9
    )
    assert split.utilisation == 0.25
    live = waste(SHARED, 4)
    assert (live.unfilled, live.reserved, live.internal) == (4, None, None)
    assert waste(SHARED, 4, {10: 99, 11: 6, 12: 6}).reserved == 2
    with pytest.raises(MetricsError, match="lacks sequence 12"):
        waste(SHARED, 4, {10: 7, 11: 6})


def test_waste_behind_a_sliding_window():
    # Slots 0 to 3 were released: 4 to 6 used, 7 internal.
    state = State(1, 0, [1, 0], [0, 0], [0], [1], [7], [0], [0, 2], [-1, 0])
    assert waste(state, 4, {0: 7}) == Waste(8, used=3, unfilled=1, cached=0, free=4, reserved=0, internal=1)


def test_external_slots_by_hand():
    assert external_slots([3, 10, 5], 6) == 8
    assert external_slots([3, 10, 5], 3) == 0
    assert external_slots([3, 10, 5], None) == 0
    assert external_slots([], 6) == 0


def test_final_stored_tokens():
    assert final_stored_tokens(REQUESTS) == {0: 14, 1: 20, 2: 31}


def slot_by_slot(state: State, size: int, final: dict[int, int]) -> Waste:
    """The definition, one slot at a time."""
    best: dict[tuple[int, int], int] = {}
    owners = 0
    for row, number in enumerate(state.sequence.tolist()):
        for index, block in enumerate(state.table(row).tolist()):
            for offset in range(size if block >= 0 else 0):
                slot = index * size + offset
                kind = 0 if slot < state.stored[row] else 1 if slot < final[number] else 2
                owners += kind == 0
                best[block, offset] = min(kind, best.get((block, offset), 2))
    kinds = np.bincount(list(best.values()), minlength=3).tolist()
    idle = [b for b in range(len(state.block_references)) if state.block_references[b] == 0]
    cached = sum(size for block in idle if state.block_cached[block])
    free = sum(size for block in idle if not state.block_cached[block])
    total = len(state.block_references) * size
    return Waste(total, kinds[0], kinds[1] + kinds[2], cached, free, kinds[1], kinds[2], 0, owners - kinds[0])


@pytest.mark.parametrize("policy", ["fcfs", "static", "prefill_first"])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_waste_of_real_runs_adds_up_and_equals_the_definition(policy, size):
    workload = Workload.synthetic(
        40, rate=60.0, seed=6, prompts=Uniform(1, 60), outputs=Uniform(1, 40), families=Families(2, 16)
    )
    engine = Engine(
        num_blocks=512 // size, block_size=size, max_num_batched_tokens=96, policy=policy, event_log=True
    )
    run = drive(engine, workload)
    final = final_stored_tokens(run.requests)
    splits = dict(waste_over_time(run, final))
    assert len(splits) >= len(run.steps)
    for state in walk(run.events):
        split = splits[state.step]
        assert split.total == split.used + split.reserved + split.internal + split.cached + split.free == 512
        assert split == slot_by_slot(state, size, final)
    if size == 1 and policy != "static":
        assert all(split.internal == 0 for split in splits.values())
    if policy == "static":
        assert max(split.reserved for split in splits.values()) > 40
    else:
        assert max(split.internal for split in splits.values()) <= engine.max_num_seqs * (size - 1)
    assert max(split.sharing for split in splits.values()) > 0


def test_waste_takes_the_engines_snapshot():
    engine = Engine(num_blocks=10, block_size=4)
    engine.add_request("a", [1] * 6, max_tokens=5)
    engine.step()
    split = waste(engine.snapshot(), 4, {int(engine.snapshot().sequence[0]): 10})
    assert (split.used, split.reserved, split.internal, split.free) == (6, 2, 0, 32)


def test_quantiles_and_what_lies_beyond_them():
    values = [*range(1, 1001), NAN]
    middle, high = quantiles(values, (0.5, 0.99))
    assert (middle.value, middle.beyond) == (500.5, 500)
    assert (high.value, high.beyond) == (pytest.approx(990.01), 10)
    assert high.firm
    assert not quantile(values[1:], 0.99).firm
    assert np.isnan(quantile([NAN], 0.5).value)
    with pytest.raises(MetricsError, match="from 0 to 1"):
        quantile(values, 1.5)


def closed(arrivals, finishes):
    count = len(arrivals)
    return Requests(
        sequence=range(count),
        request_id=[f"r{i}" for i in range(count)],
        arrival_s=arrivals,
        first_scheduled_s=arrivals,
        first_token_s=arrivals,
        finish_s=finishes,
        prompt_tokens=[1] * count,
        cached_tokens=[0] * count,
        output_tokens=[1] * count,
        max_tokens=[1] * count,
        preemptions=[0] * count,
        finish_reason=["length"] * count,
    )


def test_the_steady_window_by_hand():
    requests = closed(np.arange(10.0), np.arange(10.0) + 0.5)
    assert steady_window(requests) == (2.0, 9.0)
    assert steady_window(requests, 0.5) == (5.0, 9.0)
    assert steady_window(closed(np.zeros(3), [1.0, 2.0, 3.0])) == (0.0, 3.0)
    with pytest.raises(MetricsError, match="no request has ended"):
        steady_window(closed([0.0], [NAN]))
    with pytest.raises(MetricsError, match="warmup is 1"):
        steady_window(requests, 1)


def test_requests_in_the_system_and_a_backlog_by_hand():
    # Two of one second each in the four seconds, one from before, one that never ends.
    requests = closed([0.0, 1.0, 2.0, 3.5], [1.0, 2.0, 3.0, NAN])
    assert in_system(requests, 0.0, 4.0) == (1 + 1 + 1 + 0.5) / 4
    arrivals = np.arange(1000) / 10
    assert not backlog_grows(closed(arrivals, arrivals + 3), (20.0, 99.9))
    assert backlog_grows(closed(arrivals, 1.2 * arrivals + 3), (20.0, 99.9))
    # Slower than requests come, but by so little that a window of this length cannot tell.
    assert not backlog_grows(closed(arrivals, 1.001 * arrivals + 3), (20.0, 99.9))


def test_quantiles_are_numpys():
    rng = np.random.default_rng(0)
    for count in [*range(1, 40), 99, 100, 101, 180, 1000]:
        values = rng.exponential(size=count)
        for q in (0.0, 0.01, 0.123, 0.3, 0.5, 0.9, 0.99, 1.0):
            assert quantiles(values, (q,))[0].value == pytest.approx(np.quantile(values, q), rel=1e-14)
