"""Spans of time against a reading of the event log one event at a time."""

import numpy as np
import pytest

from nano_batch import Engine
from nano_batch.errors import RecordsError
from nano_batch.metrics import token_times
from nano_batch.records import Kind, Phase, Schedule, drive
from nano_batch.simulator import Roofline, simulate
from nano_batch.workloads import LogNormal, Uniform, Workload

COST = Roofline(flops_per_s=1e14, bytes_per_s=1e12, weight_bytes=1e10, kv_bytes_per_token=1e5)
SMALL = {"num_blocks": 60, "block_size": 4, "max_num_seqs": 6, "max_num_batched_tokens": 40}
SCHEMES = {
    "static": {"policy": "static", "enable_chunked_prefill": False},
    "prefill_first": {"policy": "prefill_first", "enable_chunked_prefill": False},
    "iteration": {"policy": "fcfs", "enable_chunked_prefill": False},
    "chunked": {"policy": "fcfs", "max_num_batched_tokens": 10},
    "swap": {"preemption": "swap", "num_swap_blocks": 60, "enable_prefix_caching": False},
    "sjf": {"policy": "sjf", "watermark": 0.0},
    "in_flight": {"steps_in_flight": 1, "max_tokens": 64},
    "stopped": {"max_steps": 40},
}


def requests(seed=3):
    prompts, outputs = Uniform(2, 38), LogNormal(2.5, 1.0, 1, 60)
    return Workload.synthetic(30, seed=seed, rate=40.0, prompts=prompts, outputs=outputs)


@pytest.fixture(params=SCHEMES)
def run(request):
    return simulate(requests(), cost=COST, event_log=True, **{**SMALL, **SCHEMES[request.param]})


def by_hand(run):
    """{row: [(phase, lane, start, end)]}, event after event, step after step."""
    log, steps = run.events, run.steps
    start = dict(zip(steps.step.tolist(), steps.start_s.tolist(), strict=True))
    end = {s: start[s] + d for s, d in zip(steps.step.tolist(), steps.duration_s.tolist(), strict=True)}
    row = {int(number): at for at, number in enumerate(run.requests.sequence)}
    now = {}  # row: (phase, lane, since)
    known, stored, out, did = {}, {}, {}, {}
    found = {at: [] for at in row.values()}

    def close(at, moment):
        phase, lane, since = now.pop(at)
        if moment > since:
            found[at].append((phase, lane, since, moment))

    def turn(at, phase, lane, moment):
        if at in now:
            if now[at][:2] == (phase, lane):
                return
            close(at, moment)
        now[at] = (phase, lane, moment)

    events = list(
        zip(*(c.tolist() for c in (log.step, log.kind, log.sequence, log.block, log.argument)), strict=True)
    )
    i = 0
    for step in steps.step.tolist():
        did.clear()
        leaving, joined = [], set()
        while i < len(events) and events[i][0] <= step:
            _, kind, number, block, argument = events[i]
            i += 1
            at = row.get(number)
            if kind == Kind.ARRIVED:
                known[at], stored[at], out[at] = argument, 0, 0
                now[at] = (Phase.WAITING, -1, run.requests.arrival_s[at])
            elif kind == Kind.ADMITTED:
                stored[at] = argument
                joined.add(at)
                turn(at, Phase.STALLED, block, start[step])
            elif kind == Kind.PREEMPTED:
                stored[at] = 0
                turn(at, Phase.PREEMPTED, -1, start[step])
            elif kind == Kind.FINISHED:
                leaving.append(at)
            elif kind == Kind.SCHEDULED:
                decode = argument == 1 and out[at] > 0 and stored[at] + 1 == known[at] and at not in joined
                stored[at] += argument
                if stored[at] == known[at]:
                    known[at] += 1
                    out[at] += 1
                did[at] = Phase.DECODE if decode else Phase.PREFILL
        for at, (_, lane, _) in list(now.items()):
            if lane >= 0:
                turn(at, did.get(at, Phase.STALLED), lane, start[step])
        for at in leaving:
            close(at, end[step])
    for at in list(now):
        close(at, run.span_s)
    return {at: spans for at, spans in found.items() if spans}


def of_spans(run):
    spans = Schedule(run).spans
    found = {}
    for at in range(len(spans)):
        entry = (
            Phase(spans.phase[at]),
            int(spans.lane[at]),
            float(spans.start_s[at]),
            float(spans.end_s[at]),
        )
        found.setdefault(int(spans.row[at]), []).append(entry)
    return found


def test_spans_are_those_of_the_log_read_one_event_at_a_time(run):
    mine, plain = of_spans(run), by_hand(run)
    assert mine.keys() == plain.keys()
    for at in plain:
        assert [entry[:2] for entry in mine[at]] == [entry[:2] for entry in plain[at]], at
        times = [[entry[2:] for entry in found[at]] for found in (mine, plain)]
        np.testing.assert_allclose(times[0], times[1], rtol=0, atol=1e-12)
    seen = {phase for entries in mine.values() for phase, *_ in entries}
    assert {Phase.WAITING, Phase.PREFILL, Phase.DECODE} <= seen


def test_each_phase_is_seen_in_some_scheme():
    seen = set()
    for scheme in SCHEMES.values():
        run = simulate(requests(), cost=COST, event_log=True, **{**SMALL, **scheme})
        seen |= set(Schedule(run).spans.phase.tolist())
    assert seen == set(Phase)


def test_tokens_of_each_step_are_those_of_the_records(run):
    work, steps = Schedule(run).work, run.steps
    for decode, column in ((True, steps.decode_tokens), (False, steps.prefill_tokens)):
        tokens = np.bincount(work.step, work.tokens * (work.decode == decode), len(steps))
        np.testing.assert_array_equal(tokens, column)


def test_token_times_are_those_of_the_metrics(run):
    work = Schedule(run).work
    ends = (run.steps.start_s + run.steps.duration_s)[work.step[work.gives]]
    np.testing.assert_allclose(np.sort(ends), np.sort(token_times(run).time_s))


def test_slots_held_are_the_running_sequences_of_each_step(run):
    spans = Schedule(run).spans
    held = spans.seconds(Phase.PREFILL, Phase.DECODE, Phase.STALLED)
    np.testing.assert_allclose(held, (run.steps.running * run.steps.duration_s).sum())


def test_no_slot_has_two_requests_at_once(run):
    spans = Schedule(run).spans
    for lane in range(SMALL["max_num_seqs"]):
        mine = spans.lane == lane
        order = np.argsort(spans.start_s[mine])
        assert (spans.end_s[mine][order][:-1] <= spans.start_s[mine][order][1:] + 1e-12).all()


def test_a_driven_engine_gives_the_same_spans():
    options = {**SMALL, "event_log": True}
    driven = drive(Engine(**options), requests(), step_time_s=0.02)
    assert of_spans(driven) == of_spans(simulate(requests(), cost=0.02, **options))


def test_what_is_missing_is_named():
    with pytest.raises(RecordsError, match="event_log=True"):
        Schedule(simulate(requests(), **SMALL))
    sampled = simulate(requests(), keep_steps=16, event_log=True, **SMALL)
    with pytest.raises(RecordsError, match="every step"):
        Schedule(sampled)
