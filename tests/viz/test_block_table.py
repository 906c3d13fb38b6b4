"""The block table's Python side: its numbers against plain counting, its controls, its four forms."""

import struct

import numpy as np
import pytest
from small_run import BATCH, small_run

from nano_batch import Engine, lab
from nano_batch.errors import EventLogOffError, UnknownOptionError, ViewError
from nano_batch.records import walk
from nano_batch.viz import BlockTableView
from nano_batch.viz.frame import frame_at
from nano_batch.viz.palette import CACHED, COMPUTED, FREE, IN_USE, SHARED, STATES
from nano_batch.viz.usage import blocks_held, usage


def plain_frame(engine, computed):
    """State and fill by the definitions, from the engine's own snapshot and the step's output."""
    now, size = engine.snapshot(), engine.block_size
    state, fill = [], []
    for references, marked in zip(now.block_references, now.block_cached, strict=True):
        state.append(SHARED if references > 1 else IN_USE if references else CACHED if marked else FREE)
        fill.append(size if state[-1] == CACHED else 0)
    for row, number in enumerate(now.sequence):
        for index, block in enumerate(now.table(row).tolist()):
            for slot in range(index * size, (index + 1) * size):
                if block >= 0 and slot < now.stored[row]:
                    fill[block] = max(fill[block], slot - index * size + 1)
                    if slot in computed.get(now.request_ids[int(number)], ()):
                        state[block] = COMPUTED
    return state, fill


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sliding_window": 40},
        {"preemption": "swap", "num_swap_blocks": 8},
        {
            "policy": "prefill_first",
            "max_num_batched_tokens": 256,
        },  # steps in which running sequences compute nothing
    ],
)
def test_every_frame_is_what_the_engine_says(options):
    workload, _ = small_run()
    engine = Engine(40, 16, event_log=True, **{**BATCH, **options})
    for request in workload.requests():
        engine.add_request(**request)
    seen, wanted = set(), {}
    while engine.has_unfinished:
        output = engine.step()
        ended = {name for name, _ in engine.update(dict.fromkeys(output.sampled_requests, 0))}
        rows = zip(
            output.scheduled_requests,
            output.num_computed_tokens,
            output.num_tokens_per_request,
            strict=True,
        )
        computed = {name: range(first, first + count) for name, first, count in rows if name not in ended}
        wanted[output.step] = plain_frame(engine, computed)
    log = lab.BlockTableView(engine)._log
    for step, (state, fill) in wanted.items():
        frame = frame_at(log, step)
        assert frame.state.tolist() == state, step
        assert frame.fill.tolist() == fill, step
        seen.update(state)
    assert seen == {FREE, IN_USE, SHARED, CACHED, COMPUTED}


def test_usage_equals_a_replay_of_every_step():
    _, run = small_run(num_swap_blocks=8, preemption="swap")
    log = run.events
    held = dict(zip(range(int(log.step[0]), int(log.step[-1]) + 1), blocks_held(log).tolist(), strict=True))
    states = list(walk(log))
    assert len(states) > 100
    assert [held[state.step] for state in states] == [state.block_counts[0] for state in states]
    assert usage(log).preemptions == run.requests.preemptions.sum() > 0
    assert usage(log).opening_step == log.step[log.kind == 12][0]


def test_usage_of_a_ring_that_dropped_its_start():
    engine = Engine(32, 16, event_log=600, **BATCH)
    for i in range(8):
        engine.add_request(f"a{i}", num_prompt_tokens=60, max_tokens=200)
    while engine.has_unfinished:
        engine.update(dict.fromkeys(engine.step().sampled_requests, 0))
    log = BlockTableView(engine)._log
    assert log.first_event > 0
    held = blocks_held(log)
    assert [state.block_counts[0] for state in walk(log)][-1] == held[-1] == 0
    states = {state.step: state.block_counts[0] for state in walk(log)}
    assert all(held[step - int(log.step[0])] == used for step, used in states.items())


def test_opens_at_peak_use_without_a_preemption():
    engine = Engine(64, 16, event_log=True)
    engine.add_request("a", num_prompt_tokens=100, max_tokens=50)
    engine.add_request("b", num_prompt_tokens=100, max_tokens=20)
    while engine.has_unfinished:
        engine.update(dict.fromkeys(engine.step().sampled_requests, 0))
    view = BlockTableView(engine)
    held = blocks_held(view._log)
    assert held[view.step] == held.max() == 16


def test_caption_is_short_stable_and_says_what_is_drawn(view):
    workload, run = small_run()
    caption = view.caption()
    assert caption == repr(view) == repr(lab.block_table(run, workload, **BATCH))
    assert 3 <= len(caption.splitlines()) <= 6
    assert "1,024 tokens of KV memory" in caption
    assert "64 blocks of 16 tokens" in caption
    assert "seed 3" in caption
    for row in view.table().rows[:-1]:
        assert f"{row[0]} {row[1]}" in caption
    view.block_size = 64
    assert len(view.caption().splitlines()) <= 6
    assert "against the setting before" in view.caption()


def test_block_size_replays_the_same_requests_on_the_same_memory(view):
    before = view.caption()
    for size in (1, 4, 64, 256):
        view.block_size = size
        log = view._log
        assert (log.num_blocks, log.block_size) == (1024 // size, size)
        assert len(log.request_ids) == 12
        assert view.error == ""
    view.block_size = 16
    assert view.caption().splitlines()[:4] == before.splitlines()


def test_a_refused_setting_is_named_in_the_view_and_leaves_the_picture(view):
    shown, caption = view._run, view.caption()
    with pytest.raises(ViewError, match="block_size is 0; it must be from 1 to the memory's 1,024 tokens"):
        view.block_size = 0
    assert view.error.startswith("ViewError: block_size is 0")
    assert view.block_size == 16
    assert view._run is shown
    assert view.caption() == caption
    view.block_size = 32
    assert view.error == ""


def test_a_refusal_from_the_page_is_not_raised_in_the_kernel(view):
    view.set_state({"block_size": 4096})
    assert view.error.startswith("ViewError: block_size is 4096")
    assert view.block_size == 16
    view.set_state({"block_size": 64})
    assert view.error == ""
    assert view._log.block_size == 64


def test_step_is_kept_within_the_run(view):
    view.step = 10**6
    assert view.step == view._usage.steps
    view.step = -3
    assert view.step == 0
    assert view.table().rows[-1] == ("total", "64", "100.0", "0")


def test_saves_every_form_and_refuses_another(view, tmp_path):
    png = view.save(tmp_path / "a.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert width % 2 == height % 2 == 0
    svg = view.save(tmp_path / "a.svg").read_text(encoding="utf-8")
    assert all(state.light in svg for state in STATES)
    assert view.caption().splitlines()[0] in svg
    assert "<table>" in view.save(str(tmp_path / "a.html")).read_text(encoding="utf-8")
    frame = view.table().to_frame()
    assert view.save(tmp_path / "a.csv").read_text(encoding="utf-8") == view.table().to_csv()
    assert frame["blocks"].iloc[:-1].sum() == frame["blocks"].iloc[-1] == 64
    with pytest.raises(UnknownOptionError, match=r"\.gif"):
        view.save(tmp_path / "a.gif")


def test_shows_itself_in_every_form(view):
    data, _ = view._repr_mimebundle_()
    assert set(data) == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
    assert data["text/plain"] == view.caption()
    assert len(repr(view.table()).splitlines()) <= 3
    assert "<script" not in view.table()._repr_html_()


def test_refuses_what_has_no_events():
    with pytest.raises(EventLogOffError):
        BlockTableView(Engine(8, 16))
    with pytest.raises(ViewError, match="no events yet"):
        BlockTableView(Engine(8, 16, event_log=True))
    with pytest.raises(ViewError, match="a dict without an event log"):
        BlockTableView({})


def test_without_a_rerun_there_is_no_control():
    _, run = small_run()
    view = BlockTableView(run)
    assert view._controls == []


def test_what_goes_to_the_browser_is_the_log(view):
    message, log = view._run, view._log
    for name, dtype in {
        "step": "<u4",
        "kind": "u1",
        "sequence": "<u4",
        "block": "<i4",
        "argument": "<i8",
    }.items():
        assert np.array_equal(np.frombuffer(message["events"][name], dtype), getattr(log, name))
    assert len(message["keyframes"]) == len(log.keyframes)
    first = np.frombuffer(message["keyframes"][0]["block_references"], "<i4")
    assert np.array_equal(first, log.keyframes[0].block_references)
