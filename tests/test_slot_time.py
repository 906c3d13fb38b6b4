"""Shares of the slots' time and what a prefill costs its neighbours, each against a plainer account."""

import numpy as np
import pytest

from nano_batch.errors import MetricsError
from nano_batch.metrics import features, longest_gap_s, prefill_costs, slot_time, token_times
from nano_batch.records import Phase, Run, Schedule
from nano_batch.simulator import Constant, Roofline, simulate
from nano_batch.workloads import LogNormal, Uniform, Workload

COST = Roofline(
    flops_per_s=1e14,
    bytes_per_s=1e12,
    weight_bytes=1e10,
    kv_bytes_per_token=1e5,
    flops_per_pair=1e6,
    flops_per_sample=1e9,
    block_bytes=1e6,
    host_per_sequence_s=1e-5,
)
SMALL = {"num_blocks": 60, "block_size": 4, "max_num_seqs": 6, "max_num_batched_tokens": 40}
SCHEMES = {
    "static": {"policy": "static", "enable_chunked_prefill": False},
    "prefill_first": {"policy": "prefill_first", "enable_chunked_prefill": False},
    "iteration": {"policy": "fcfs", "enable_chunked_prefill": False},
    "chunked": {"policy": "fcfs", "max_num_batched_tokens": 10},
    "swap": {"preemption": "swap", "num_swap_blocks": 60, "enable_prefix_caching": False},
    "window": {"sliding_window": 12},
}


def served(scheme, cost=COST, **options):
    prompts, outputs = Uniform(2, 38), LogNormal(2.5, 1.0, 1, 60)
    workload = Workload.synthetic(30, seed=3, rate=40.0, prompts=prompts, outputs=outputs)
    return simulate(workload, cost=cost, event_log=True, **{**SMALL, **SCHEMES[scheme], **options})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_features_of_each_step_are_those_that_the_cost_model_saw(scheme):
    seen = []

    def cost(step):
        seen.append(step)
        return 0.01

    schedule = Schedule(served(scheme, cost))
    mine = features(schedule)
    assert len(seen) == len(schedule.run.steps)
    for name, column in mine.items():
        assert column.tolist() == [getattr(step, name) for step in seen], name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_without_its_chunks_takes_less_by_their_costs(scheme):
    """Where a step has one chunk, its cost is the step less the step of decodes alone."""
    run = served(scheme)
    schedule = Schedule(run)
    costs, model, whole = prefill_costs(schedule, COST), COST.core(), features(schedule)
    from nano_batch.simulator import StepFeatures

    checked = 0
    for step in np.flatnonzero(np.bincount(costs.step, minlength=len(run.steps)) == 1):
        values = {name: int(column[step]) for name, column in whole.items() if not name.startswith("prefill")}
        chunk = (schedule.work.step == step) & ~schedule.work.decode
        values["sampled"] -= int(schedule.work.gives[chunk].sum())
        without = sum(model.step_time(StepFeatures(**values))) if values["decode_sequences"] else 0.0
        (mine,) = costs.seconds[costs.step == step]
        assert mine == pytest.approx(run.steps.duration_s[step] - without)
        checked += 1
    assert checked > 3
    assert (costs.seconds >= 0).all()


def test_costs_of_another_model_are_refused():
    with pytest.raises(MetricsError, match="did not take"):
        prefill_costs(Schedule(served("chunked")), Constant(0.5))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shares_are_those_of_a_walk_over_the_slots(scheme):
    run = served(scheme)
    schedule, shares = Schedule(run), slot_time(run)
    spans, moments = schedule.spans, np.linspace(0, run.span_s, 4001)[:-1] + run.span_s / 8000
    idle = stalled = bubble = 0
    for moment in moments:
        now = (spans.start_s <= moment) & (moment < spans.end_s)
        free = SMALL["max_num_seqs"] - int((now & (spans.lane >= 0)).sum())
        idle += free
        stalled += int((now & (spans.phase == Phase.STALLED)).sum())
        step = np.searchsorted(schedule.end_s, moment, side="right")
        bubble += free * bool(run.steps.waiting[step] > 0 and run.steps.start_s[step] <= moment)
    counted = np.array([idle, bubble, stalled]) / (len(moments) * SMALL["max_num_seqs"])
    np.testing.assert_allclose([shares.idle, shares.bubble, shares.stalled], counted, atol=0.005)


def test_static_batches_leave_bubbles_and_prefill_first_stalls():
    shares = {scheme: slot_time(served(scheme)) for scheme in ("static", "prefill_first", "chunked")}
    assert shares["static"].bubble > 2 * shares["chunked"].bubble
    assert shares["prefill_first"].stalled > shares["chunked"].stalled == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_longest_gaps_are_those_of_the_token_times(scheme):
    run = served(scheme)
    times, mine = token_times(run), longest_gap_s(Schedule(run))
    rows = {int(number): at for at, number in enumerate(run.requests.sequence)}
    for place, number in enumerate(times.sequence.tolist()):
        gaps = np.diff(times.time_s[times.offsets[place] : times.offsets[place + 1]])
        expected = gaps.max() if len(gaps) else np.nan
        np.testing.assert_allclose(mine[rows[number]], expected)


def test_a_run_that_does_not_say_its_slots_is_refused():
    run = served("chunked")
    with pytest.raises(MetricsError, match="max_num_seqs"):
        slot_time(Run(run.requests, run.steps, run.events, {}))
