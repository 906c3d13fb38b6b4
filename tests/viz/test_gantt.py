"""The Gantt in Python: its numbers against its runs, one clock and selection, its other forms."""

import numpy as np
import pytest

from nano_batch.errors import InvalidArgumentError, UnknownOptionError, ViewError
from nano_batch.metrics import longest_gap_s, prefill_costs, slot_time, token_times, ttft_s
from nano_batch.records import Phase, Schedule
from nano_batch.studies import SCHEMES, Mix, gantt, serve_schemes
from nano_batch.studies.batching import default_cost
from nano_batch.viz import GanttView
from nano_batch.viz.selection import selection_of

MIX = Mix(requests=24, seed=4, rate=16.0)


@pytest.fixture
def view():
    return gantt(MIX, max_num_seqs=6)


def test_table_is_what_the_metrics_say_of_each_run(view):
    table = view.table()
    assert [row[0] for row in table.rows] == list(SCHEMES)
    for row in table.rows:
        run = view.runs[row[0]]
        cells = dict(zip(table.columns, row, strict=True))
        assert cells["makespan (s)"] == f"{run.span_s:.3f}"
        assert cells["idle (%)"] == f"{100 * slot_time(run).idle:.1f}"
        assert cells["TTFT mean (ms)"] == f"{1e3 * ttft_s(run.requests).mean():.1f}"
        assert cells["longest gap (ms)"] == f"{1e3 * np.nanmax(longest_gap_s(Schedule(run))):.1f}"
        assert cells["steps"] == f"{len(run.steps):,}"


def test_now_counts_the_requests_of_the_records(view):
    view.step = 40
    for row in view.now().rows:
        run = view.runs[row[0]]
        at = selection_of(run).step - int(run.steps.step[0])
        prefill, decode, stalled, waiting, preempted, idle = map(int, row[1:])
        assert prefill + decode + stalled == run.steps.running[at]
        assert idle == 6 - run.steps.running[at]
        # A request that arrives during the step waits as well, though its planning did not see it.
        end = run.steps.start_s[at] + run.steps.duration_s[at]
        late = (run.requests.arrival_s > run.steps.start_s[at]) & (run.requests.arrival_s < end)
        assert waiting + preempted == run.steps.waiting[at] + late.sum()


def test_delays_are_those_of_a_walk_over_tokens():
    """A neighbour's gap around a step with the chunk is longer by what the chunk adds to the step."""
    view = gantt(MIX, max_num_seqs=6, schemes=("prefill first", "chunked prefill"))
    seen = 0
    for label, run in view.runs.items():
        schedule, times = Schedule(run), token_times(run)
        costs = prefill_costs(schedule, default_cost())
        begun = {int(n): times.time_s[times.offsets[i]] for i, n in enumerate(times.sequence)}
        spans = schedule.spans
        for row in (3, 8, 12):
            late = {}
            for at in np.flatnonzero(costs.row == row):
                start, end = schedule.start_s[costs.step[at]], schedule.end_s[costs.step[at]]
                for other in range(len(run.requests)):
                    mine = (spans.row == other) & np.isin(spans.phase, [Phase.DECODE, Phase.STALLED])
                    there = (mine & (spans.start_s <= start + 1e-9) & (end <= spans.end_s + 1e-9)).any()
                    if other != row and there and begun[int(run.requests.sequence[other])] <= start + 1e-9:
                        late[f"r{other}"] = late.get(f"r{other}", 0.0) + costs.seconds[at]
            shown = {name: cell for scheme, name, cell in view.delayed(f"r{row}").rows if scheme == label}
            assert shown == {name: f"{1e3 * seconds:.1f}" for name, seconds in late.items()}
            seen += len(late)
    assert seen > 10


def test_controls_serve_every_scheme_again_and_workload_controls_draw_anew(view):
    before = {label: run.requests.prompt_tokens.tolist() for label, run in view.runs.items()}
    view.max_num_seqs = 3
    expected = serve_schemes(
        MIX.workload(), memory_tokens=65_536, cost=default_cost(), max_num_seqs=3, max_num_batched_tokens=512
    )
    for label, run in view.runs.items():
        assert run.requests == expected[label].requests
        assert run.requests.prompt_tokens.tolist() == before[label]
    assert "against the setting before: static batches" in view.caption()
    answers = view.runs["static batches"].requests.output_tokens
    view.output_spread = 0.0
    assert (
        len(set(view.runs["static batches"].requests.output_tokens.tolist()))
        == 1
        < len(set(answers.tolist()))
    )
    assert view.runs["static batches"].requests.prompt_tokens.tolist() == before["static batches"]


def test_a_refused_setting_is_said_and_the_last_picture_stays(view):
    table = str(view.table())
    with pytest.raises(InvalidArgumentError, match="max_num_seqs is 0"):
        view.max_num_seqs = 0
    assert "max_num_seqs is 0" in view.error
    assert (view.max_num_seqs, str(view.table())) == (6, table)
    for name, value, error, words in (
        ("rows", "request", UnknownOptionError, "requests"),
        ("lead", "chunks", ViewError, "chunked prefill"),
        ("shown_s", [2.0, 1.0], ViewError, "ascending"),
        ("_requests", ["r99"], ViewError, "r99"),
    ):
        with pytest.raises(error, match=words):
            setattr(view, name, value)


def test_one_clock_and_one_selection_for_all_runs(view):
    blocks = view.block_table("prefill first")
    view.step = 50
    run = view.runs["prefill first"]
    at = int(np.searchsorted(run.steps.step, blocks.step))
    assert run.steps.start_s[at] < view.time_s <= run.steps.start_s[at] + run.steps.duration_s[at] + 1e-12
    view.selected.requests = ["r3"]
    assert list(blocks.selected.requests) == ["r3"]
    blocks.step = 70
    assert (view.lead, view.step) == ("prefill first", 70)
    blocks.selected.requests = ["r5", "r6"]
    assert list(view._requests) == ["r5", "r6"]
    time_s = view.time_s
    view.max_num_seqs = 5
    assert view.time_s == pytest.approx(time_s, abs=0.1)  # the step that holds this moment
    assert list(view.selected.requests) == ["r5", "r6"]


def test_pin_keeps_what_others_are_held_against(view):
    view.pinned = True
    ends = [run.span_s for run in view.runs.values()]
    view.max_num_seqs = 3
    view.max_num_seqs = 2
    assert view._ghosts == ends
    assert "against the pinned run (default settings)" in view.caption()
    view.pinned = False
    assert view._ghosts == []


def test_code_recreates_the_view_as_it_stands(view):
    from nano_batch import lab

    assert eval(view.code(), {"lab": lab}).caption() == view.caption()
    view.max_num_seqs, view.rows, view.step = 4, "requests", 33
    view.selected.requests = ["r2"]
    again = eval(view.code(), {"lab": lab})
    assert again.caption().splitlines()[1:5] == view.caption().splitlines()[1:5]
    assert (again.step, again.rows, list(again._requests)) == (33, "requests", ["r2"])


@pytest.mark.parametrize("rows", ["slots", "requests"])
def test_its_other_forms(view, rows, tmp_path):
    view.rows = rows
    for form in ("png", "svg", "html", "csv"):
        assert view.save(tmp_path / f"gantt.{form}").stat().st_size > 200
    assert (tmp_path / "gantt.csv").read_text().count("\n") == 1 + len(SCHEMES)
    figure = view.figure()
    drawn = sum(np.isfinite(np.array(trace.x, float)).sum() for trace in figure.data)
    spans = [Schedule(run).spans for run in view.runs.values()]
    shown = sum(len(each) if rows == "requests" else int((each.lane >= 0).sum()) for each in spans)
    assert drawn == 2 * shown
    lines = view.caption().splitlines()
    assert len(lines) == 6 == len([line for line in lines if line])


def test_runs_that_cannot_be_compared_are_refused():
    with pytest.raises(ViewError, match="at least one"):
        GanttView({}, cost=default_cost())
    runs = serve_schemes(MIX.workload(), memory_tokens=65_536, cost=default_cost())
    other = serve_schemes(Mix(requests=9).workload(), memory_tokens=65_536, cost=default_cost())
    with pytest.raises(ViewError, match="served other requests"):
        GanttView({"a": runs["static batches"], "b": other["static batches"]}, cost=default_cost())
    with pytest.raises(ViewError, match="no scheme 'dynamic'"):
        gantt(MIX, schemes=("dynamic",))
