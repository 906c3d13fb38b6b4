"""Load curves: laws of the schedule, points by hand, and the limit that binds where only one can."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from nano_batch import Constant, Roofline
from nano_batch.errors import MetricsError, SweepError
from nano_batch.metrics import SLO, summary, throughput
from nano_batch.saturation import Configuration, binding_limits, limits, load_curve, output_bound_per_s
from nano_batch.saturation.curve import _served
from nano_batch.simulator import simulate

GPU = Roofline(flops_per_s=989e12, bytes_per_s=3.35e12, weight_bytes=14.5e9, kv_bytes_per_token=131_072)
AMPLE = Configuration("ample", GPU, memory_tokens=4_000_000)
LOADS = (1, 2, 4, 8, 16, 32)


@pytest.fixture(scope="module")
def curve():
    return load_curve(AMPLE, LOADS)


def test_a_point_is_the_summary_of_the_run_behind_it(curve):
    for point, seed in ((0, 0), (3, 4)):
        assert curve.rows[point][seed] == summary(curve.run(point, seed))
        assert curve.run(point, seed).requests == curve.served[point][seed]
    assert curve.workload(2).users == 4
    assert (curve.workload(2, 1).prompt_tokens[:25] == curve.workload(0, 1).prompt_tokens).all()


@pytest.mark.parametrize(
    ("over", "memory_tokens"), [("users", 12_000), ("users", 3_000_000), ("rate", 12_000)]
)
def test_points_that_a_setting_cannot_change_are_those_simulated_under_it(over, memory_tokens):
    narrow = replace(AMPLE, memory_tokens=memory_tokens, max_num_seqs=4)
    load_curve(narrow, LOADS, over=over)
    wide = replace(narrow, max_num_seqs=16)
    before = _served.cache_info().misses
    found = load_curve(wide, LOADS, over=over)
    # 1, 2 and 4 users fill four slots at most; requests that come at a rate may fill any.
    assert _served.cache_info().misses - before == 5 * (3 if over == "users" else 6)
    limits_found = binding_limits(found, found.seeds[:1])
    for point in range(len(LOADS)):
        for seed in found.seeds:
            run = simulate(found.workload(point, seed), **wide.arguments())
            assert found.rows[point][seed] == summary(run)
            assert found.served[point][seed] == run.requests
        own = throughput_of(wide, found.workload(point))
        for name, relaxed in wide.relaxed().items():
            gain = throughput_of(relaxed, found.workload(point)) / own - 1
            assert limits_found[point].gains[name] == pytest.approx(gain, abs=1e-12), (point, name)


def throughput_of(configuration, workload):
    return summary(simulate(workload, **configuration.arguments()))["throughput_output_tokens_per_s"]


def test_median_and_range_are_those_of_the_seeds(curve):
    median, low, high = curve.spread("throughput_output_tokens_per_s")
    values = curve.values("throughput_output_tokens_per_s")
    assert values.shape == (len(LOADS), 5)
    assert (low < median).all()
    assert (median < high).all()
    assert median[2] == sorted(values[2])[2]
    rows = curve.to_frame()
    assert len(rows) == 30
    assert rows[rows.users == 4].throughput_output_tokens_per_s.median() == median[2]


def test_more_users_never_take_throughput_away_and_none_passes_the_bound(curve):
    median = curve.spread("throughput_output_tokens_per_s")[0]
    assert (np.diff(median) > 0).all()
    for point in range(len(LOADS)):
        for seed in curve.seeds:
            rate = throughput(curve.served[point][seed]).output_tokens_per_s
            bound = output_bound_per_s(AMPLE, curve.workload(point, seed))
            assert 0.3 * bound < rate <= bound


@pytest.mark.parametrize("steps_in_flight", [0, 1])
def test_the_bound_holds_for_a_constant_step(steps_in_flight):
    options = (("steps_in_flight", steps_in_flight),)
    made = Configuration("constant", Constant(0.02, host_s=0.01), 4_000_000, max_num_seqs=4, options=options)
    measured = load_curve(made, (1, 8), seeds=(0,))
    for point in range(2):
        rate = throughput(measured.served[point][0]).output_tokens_per_s
        bound = output_bound_per_s(made, measured.workload(point))
        assert 0.5 * bound < rate <= bound * (1 + 1e-9)


def test_goodput_falls_with_the_objective_and_is_throughput_without_one(curve):
    all_of_them = curve.goodput(SLO())[0]
    assert (all_of_them == curve.spread("throughput_requests_per_s")[0]).all()
    strict, loose = (curve.goodput(SLO(tpot_s=limit))[0] for limit in (0.005, 0.01))
    assert (strict <= loose).all()
    assert strict[-1] < loose[-1]
    assert (curve.goodput(SLO(ttft_s=0.0))[0] == 0).all()


def test_the_range_within_the_objectives_and_its_best_point(curve):
    tpot = curve.spread("tpot_p99_s")[0]
    limit = SLO(tpot_s=float(tpot[3]))
    assert curve.within(limit).tolist() == [bool(at <= tpot[3]) for at in tpot]
    assert curve.best(limit) == max(np.flatnonzero(curve.within(limit)))
    assert curve.best(SLO(tpot_s=1e-9)) is None


def test_few_samples_are_hollow_and_many_are_not(curve):
    assert curve.hollow("ttft").all()
    assert not load_curve(AMPLE, (4,), seeds=(0,), requests=1300).hollow("ttft").any()


def test_a_backlog_that_grows_has_no_values():
    overloaded = load_curve(replace(AMPLE, max_num_seqs=4), (1.0, 20.0), over="rate")
    assert overloaded.unstable.tolist() == [False, True]
    median, low, high = overloaded.spread("ttft_p99_s")
    assert np.isfinite([median[0], low[0], high[0]]).all()
    assert np.isnan([median[1], low[1], high[1]]).all()
    assert overloaded.knee is None
    assert overloaded.best(SLO()) == 0


@pytest.mark.parametrize(
    ("changed", "users", "limit"),
    [
        ({}, 1, "bandwidth"),
        ({"cost": replace(GPU, flops_per_s=5e12)}, 32, "compute"),
        ({"memory_tokens": 16_000}, 32, "KV blocks"),
        ({"max_num_seqs": 2}, 32, "max_num_seqs"),
        ({"max_num_batched_tokens": 24, "max_num_seqs": 24}, 24, "token budget"),
        ({"cost": Constant(0.02)}, 2, "step time"),
    ],
)
def test_the_limit_that_binds_is_named(changed, users, limit):
    (binding,) = binding_limits(load_curve(replace(AMPLE, **changed), (users,), seeds=(0, 1, 2)))
    assert binding.limit == limit
    assert limit in binding.words
    assert binding.gains[limit] > 0.1


def test_under_a_light_load_no_limit_binds():
    (binding,) = binding_limits(load_curve(AMPLE, (0.5,), over="rate", requests=300))
    assert binding.limit == "load"
    assert "no limit" in binding.words


@pytest.mark.parametrize(
    ("memory_tokens", "skipped_kv"), [(4_000_000, LOADS), (32_768, LOADS[:4]), (8_192, ())]
)
def test_what_is_not_run_again_would_have_gained_nothing(memory_tokens, skipped_kv):
    """Doubling a limit that was never reached gives the same schedule."""
    made = replace(AMPLE, memory_tokens=memory_tokens)
    curve = load_curve(made, LOADS)
    skipped = [
        (name, point)
        for name in made.relaxed()
        for point in range(len(LOADS))
        if not limits._may_bind(name, curve, point)
    ]
    assert {name for name, _ in skipped} == {"max_num_seqs", "token budget"} | (
        {"KV blocks"} if skipped_kv else set()
    )
    assert tuple(LOADS[point] for name, point in skipped if name == "KV blocks") == skipped_kv
    for name, point in skipped:
        wider = replace(curve, configuration=made.relaxed()[name])
        for seed in curve.seeds:
            assert wider.run(point, seed).requests == curve.served[point][seed]


def test_a_readers_own_policy_is_asked_in_one_thread_and_a_region_may_find_no_gap():

    class First:
        threads: ClassVar[set[int]] = set()

        def score(self, requests):
            self.threads.add(threading.get_ident())
            return requests.sequence.astype(float)

    own = replace(AMPLE, options=(("policy", First()),))
    plain = load_curve(AMPLE, (1, 2), seeds=(0,))
    scored = load_curve(own, (1, 2), seeds=(0,))
    assert First.threads == {threading.get_ident()}
    assert scored.served == plain.served
    region = replace(AMPLE, options=(("reservation", "oracle"),))
    assert limits._may_bind("KV blocks", load_curve(region, (1,), seeds=(0,)), 0)


def test_bad_loads_are_named():
    for loads in ((), (4, 2), (0, 1)):
        with pytest.raises(MetricsError, match="must ascend"):
            load_curve(AMPLE, loads)
    with pytest.raises(SweepError, match="block_size is 64"):
        load_curve(replace(AMPLE, memory_tokens=32, block_size=64), (1,))


def test_the_documents_example_runs(capsys):
    text = (Path(__file__).parents[1] / "docs" / "saturation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
    assert "doubled alone" in capsys.readouterr().out
