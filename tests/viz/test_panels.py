"""Selection, logical tables and queues: the same as the engine's own snapshot, at every step."""

import pytest
from small_run import BATCH, small_run

from nano_batch import Engine, lab
from nano_batch.errors import UnknownOptionError, ViewError
from nano_batch.viz import BlockTableView


@pytest.mark.parametrize("options", [{}, {"sliding_window": 40}])
def test_tables_and_queues_are_what_the_engine_says(options):
    workload, _ = small_run()
    engine = Engine(40, 16, event_log=True, **BATCH, **options)
    for request in workload.requests():
        engine.add_request(**request)
    chosen, wanted = ["r0", "r3", "r7"], {}
    while engine.has_unfinished:
        output = engine.step()
        engine.update(dict.fromkeys(output.sampled_requests, 0))
        wanted[output.step] = engine.snapshot()
    view, released, waited = BlockTableView(engine), 0, 0
    view.selected.requests = chosen
    for step, now in list(wanted.items())[::7]:
        view.step = step
        rows, queued = [], {"running": [], "waiting": []}
        names = [now.request_ids[int(number)] for number in now.sequence]
        for letter, name in zip("ABC", chosen, strict=True):
            if name in names:
                row = names.index(name)
                for index, block in enumerate(now.table(row).tolist()):
                    tokens = min(16, max(0, int(now.stored[row]) - 16 * index)) if block >= 0 else 0
                    references = int(now.block_references[block]) if block >= 0 else 0
                    rows.append((f"{letter} {name}", *map(str, (index, block, tokens, references))))
                    released += block < 0
        assert list(view.logical_tables().rows) == rows, step
        for queue, name, tokens, held in view.queues().rows:
            row = names.index(name)
            assert tokens == f"{now.stored[row]:,}"
            assert held == str((now.table(row) >= 0).sum())
            queued[queue].append(name)
        assert set(queued["running"]) == set(now.running)
        assert queued["waiting"] == sorted(now.waiting, key=lambda name: int(name[1:]))
        waited += len(now.waiting)
    assert waited > 20
    assert released > 0 or "sliding_window" not in options


def test_selection_is_read_and_set_from_python_and_shared_by_the_views_of_a_run():
    workload, run = small_run()
    one, other = lab.block_table(run, workload, **BATCH), lab.block_table(run, workload, **BATCH)
    one.selected.requests = ["r3", "r5"]
    one.step = 40
    assert other.selected.requests == other._requests == ["r3", "r5"]
    assert other.step == 40
    other.set_state({"_requests": ["r1"], "_block": 7, "step": 12})
    assert (one.selected.requests, one.selected.block, one.step) == (["r1"], 7, 12)
    assert repr(one.selected) == "selected at step 12: A r1, block 7"
    one.selected.clear()
    assert (other._requests, other._block, other.step) == ([], -1, 12)
    _, second = small_run()
    assert lab.block_table(second, workload, **BATCH).selected is not one.selected


def test_selection_says_what_it_cannot_take(view):
    with pytest.raises(ViewError, match="no request 'r99' in the run; did you mean 'r9'"):
        view.selected.requests = ["r99"]
    with pytest.raises(ViewError, match="9 requests selected; a view tells at most 8 apart"):
        view.selected.requests = [f"r{i}" for i in range(9)]
    assert view.selected.requests == []


def test_step_and_selection_survive_a_rerun(view):
    view.selected.requests = ["r2", "r4"]
    view.step = 33
    view.block_size = 64
    assert (view.step, view.selected.requests) == (33, ["r2", "r4"])
    assert "selected: A r2 (" in view.caption()
    assert len(view.caption().splitlines()) == 6


def test_a_pinned_run_stays_what_others_are_held_against(view):
    view.block_size = 64
    pinned = view._usage
    view.pinned = True
    view.block_size = 128
    view.block_size = 256
    text = view.caption().splitlines()[-1]
    assert text.startswith("against the pinned run (block_size 64): ")
    assert f"{view._usage.steps - pinned.steps:+,} steps" in text
    view.pinned = False
    assert view.difference() == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [("policy", "sjf"), ("max_num_seqs", 2), ("preemption", "swap"), ("enable_prefix_caching", False)],
)
def test_every_control_is_the_engines_setting(view, name, value):
    workload, _ = small_run()
    setattr(view, name, value)
    same = lab.serve(workload, memory_tokens=1024, **{**BATCH, "watermark": 0.01, name: value})
    assert view._log == same.events
    assert view._log != small_run()[1].events
    said = view.caption().splitlines()[1]
    assert said.startswith("12 requests of azure_conv, seed 3; policy ")
    assert str(value) in said


def test_a_misspelt_word_is_named_in_the_view(view):
    with pytest.raises(UnknownOptionError, match='did you mean "fcfs"'):
        view.policy = "fcsf"
    assert view.error.startswith("UnknownOptionError: ")
    assert view.policy == "fcfs"
    with pytest.raises(UnknownOptionError, match="did you mean 'owner'"):
        view.colour = "ownr"
    view.set_state({"block_size": "x"})
    assert view.error.startswith("TraitError: ")
    assert view.block_size == 16


def test_the_line_of_code_recreates_the_view(view):
    view.block_size, view.max_num_seqs, view.step = 64, 3, 50
    view.selected.requests = ["r1", "r2"]
    again = eval(view.code(), {"lab": lab})
    assert "\n" not in view.code()
    assert again._log == view._log
    assert (again.step, again.selected.requests) == (50, ["r1", "r2"])
    assert again.table() == view.table()


def test_the_figure_draws_the_frame(view):
    drawn = view.figure()
    states = drawn.data[0].z.ravel()[: view._log.num_blocks]
    assert states.tolist() == view.frame().state.tolist()
    assert drawn.data[0].customdata.ravel()[: len(states)].tolist() == view.frame().fill.tolist()
    assert max(drawn.data[1].y) == view._usage.peak
