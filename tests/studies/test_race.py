"""Races on the same requests, the step where two schedules part, and the charts over several seeds."""

import numpy as np
import pytest

from nano_batch import lab
from nano_batch.errors import PolicyError, ViewError, WorkloadError
from nano_batch.metrics import fairness, goodput_per_s, idle_share, slot_time, tpot_s, ttft_s
from nano_batch.records import Kind
from nano_batch.simulator import simulate
from nano_batch.studies import SCHEMES, race, serve_schemes
from nano_batch.studies.batching import default_cost
from nano_batch.studies.giving_way import blocks_moved, computed_again
from nano_batch.viz.chart import Line

SLO = lab.SLO(ttft_s=0.3, tpot_s=0.02)
CROWD = lab.Mix(requests=120, rate=60.0, prompt_tokens=400, output_tokens=60).workload()


class Short:
    def score(self, requests):
        return requests.prompt_tokens - 500 * requests.waited_s


class FirstCome:
    def score(self, requests):
        return requests.arrival_s


@pytest.fixture
def board():
    return race(CROWD, Short(), memory_tokens=16_384, slo=SLO, max_num_seqs=16, max_num_batched_tokens=512)


def test_rows_are_the_metrics_of_each_run(board):
    table = board.table()
    assert [row[0] for row in table.rows] == ["fcfs", "sjf", "prefill_first", "Short"]
    for name, goodput, first, rest, fair, preempted in table.rows:
        requests = board.runs[name].requests
        assert goodput == f"{goodput_per_s(requests, SLO):.3f}"
        assert first == f"{np.quantile(ttft_s(requests), 0.99):.2f}°"  # 120 requests: 1.2 beyond the quantile
        tpot = tpot_s(requests)
        assert rest == f"{1e3 * np.quantile(tpot[np.isfinite(tpot)], 0.99):.1f}°"
        assert fair == f"{fairness(requests):.3f}"
        assert preempted == str(requests.preemptions.sum())


def test_fairness_is_jains_index(board):
    requests = board.runs["fcfs"].requests
    x = (requests.finish_s - requests.arrival_s) / requests.output_tokens
    assert fairness(requests) == pytest.approx(x.mean() ** 2 / (x**2).mean())


def test_attempts_are_kept_and_the_same_code_replaces_its_own(board):
    before = str(board)
    assert str(board.enter(Short())) == before

    class Short2:
        def score(self, requests):
            return -requests.waited_s

    Short2.__name__ = "Short"
    board.enter(Short2())
    assert list(board.runs)[-2:] == ["Short", "Short (2)"]
    assert str(board).startswith(before.rsplit("\n", 4)[0])


def test_a_policy_that_fails_leaves_the_board_as_it_was(board):
    class Broken:
        def score(self, requests):
            return np.full(len(requests), np.nan)

    before = str(board)
    with pytest.raises(PolicyError, match=r"Broken\.score"):
        board.enter(Broken())
    assert str(board) == before


def test_all_steps_before_the_parting_are_the_same_and_it_is_not(board):
    parting = board.first_difference("fcfs", "Short")
    acts = []
    for name in ("fcfs", "Short"):
        log = board.runs[name].events
        rows = zip(*(c.tolist() for c in (log.step, log.kind, log.sequence, log.argument)), strict=True)
        kinds = (Kind.ADMITTED, Kind.SCHEDULED, Kind.PREEMPTED)
        acts.append([row for row in rows if row[1] in kinds])
    for step in range(1, parting.step + 1):
        one, other = (sorted(row for row in each if row[0] == step) for each in acts)
        assert (one == other) == (step < parting.step), step
    assert f"step {parting.step}" in repr(parting)
    assert all(parting.did.values())


def test_the_view_of_a_parting_stands_in_that_step_of_both(board):
    parting = board.first_difference("fcfs", "Short")
    view = parting.view()
    assert [view.block_table(name).step for name in ("fcfs", "Short")] == [parting.step] * 2
    assert view.shown_s[0] <= parting.time_s <= view.shown_s[1]
    assert view._requests
    view.step = 1
    assert view._home["step"] == parting.step


def test_schedules_that_never_part_are_said_to_be_the_same(board):
    board.enter(FirstCome())
    with pytest.raises(ViewError, match="fcfs and FirstCome are the same"):
        board.first_difference("fcfs", "FirstCome")
    with pytest.raises(ViewError, match="no attempt 'lifo'"):
        board.first_difference("fcfs", "lifo")


def test_schemes_serve_the_same_requests_with_the_words_of_the_scheduler():
    workload = lab.Mix(requests=30).workload()
    runs = serve_schemes(workload, memory_tokens=65_536, cost=default_cost(), max_num_seqs=4)
    assert list(runs) == list(SCHEMES)
    for label, run in runs.items():
        assert run.settings["engine"]["policy"] == SCHEMES[label]["policy"]
        assert run.requests.output_tokens.tolist() == workload.output_tokens.tolist()
        assert idle_share(run) == pytest.approx(slot_time(run).idle)
    # Static batches: nobody joins while anybody runs, so that batches are full but for the arrivals' sake.
    log = runs["static batches"].events
    admitted = np.unique(log.step[log.kind == Kind.ADMITTED])
    running = dict(
        zip(
            *(getattr(runs["static batches"].steps, name).tolist() for name in ("step", "running")),
            strict=True,
        )
    )
    log_of = np.bincount(log.step[log.kind == Kind.ADMITTED])
    assert all(running[int(step)] == log_of[step] for step in admitted)
    # No prompt is cut but under chunked prefill.
    for label, run in runs.items():
        events = run.events
        started = np.bincount(events.sequence[(events.kind == Kind.SCHEDULED) & (events.argument > 1)])
        assert (started.max() > 1) == (label == "chunked prefill")


def test_a_mix_keeps_its_prompts_whatever_the_spread_of_its_answers():
    narrow, wide = (lab.Mix(requests=4000, output_spread=spread).workload() for spread in (0.0, 1.0))
    assert narrow.prompt_tokens.tolist() == wide.prompt_tokens.tolist()
    assert narrow.arrival_s.tolist() == wide.arrival_s.tolist()
    assert set(narrow.output_tokens.tolist()) == {100}
    assert wide.output_tokens.mean() == pytest.approx(100, rel=0.06)
    with pytest.raises(WorkloadError, match="output_spread is 4"):
        lab.Mix(output_spread=4.0).workload()


def test_gain_is_the_paired_ratio_of_makespans():
    mix = lab.Mix(requests=20, prompt_tokens=200, output_tokens=40)
    view = lab.gain(mix, max_num_seqs=4)
    panel = view.chart.panels[0]
    line = next(each for each in panel.series if isinstance(each, Line))
    from dataclasses import replace

    ratios = []
    for seed in (1, 2, 3, 4, 5):
        workload = replace(mix, seed=seed, output_spread=0.75, rate=None).workload()
        runs = serve_schemes(workload, memory_tokens=65_536, cost=default_cost(), max_num_seqs=4)
        ratios.append(runs["static batches"].span_s / runs["iteration level"].span_s)
    assert line.y[3] == pytest.approx(np.median(ratios))
    opened = view.open_run("Idle slots", "iteration level", 3)
    assert "iteration level" in opened.caption()
    view.max_num_seqs = 2
    assert view.difference().startswith("against the setting before")


def test_computed_again_and_moved_are_what_the_log_says():
    mix = lab.Mix(requests=30, rate=100.0, prompt_tokens=100, output_tokens=100, output_spread=0.5)
    workload = mix.workload()
    same = {"num_blocks": 60, "block_size": 16, "enable_prefix_caching": False, "event_log": True}
    run = simulate(workload, cost=default_cost(), **same)
    lost = [int(row[2]) for row in lab.preemptions(run).rows]
    assert lost
    assert computed_again(run) == sum(lost)
    assert blocks_moved(run) == 0
    swapped = simulate(workload, cost=default_cost(), preemption="swap", num_swap_blocks=600, **same)
    assert swapped.requests.preemptions.sum() > 0
    assert computed_again(swapped) == 0
    assert blocks_moved(swapped) > 0


def test_a_larger_budget_gives_sooner_first_tokens_and_longer_gaps():
    view = lab.budget(lab.Mix(requests=80, rate=16.0, prompt_tokens=1000, output_tokens=80))
    first, gap = (
        next(each.y for each in panel.series if isinstance(each, Line)) for panel in view.chart.panels
    )
    assert first[1] > first[-1]
    assert gap[1] < gap[4] < gap[5]
    assert view.open_run("Time to first token", "prefill first", 2) is view.opened
