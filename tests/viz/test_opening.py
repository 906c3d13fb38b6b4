"""The opening view: small and eventful, and its six moments."""

import numpy as np
import pytest

from nano_batch import lab
from nano_batch.errors import ViewError
from nano_batch.records import Kind, replay
from nano_batch.scenes import OPENING, SCENES

STEPS_IN_TEN_SECONDS = 80  # 8 steps a second, as the page opens


def test_within_ten_seconds_of_play_all_four_happen():
    view = lab.opening()
    log = view._log
    assert (log.num_blocks, len(log.request_ids)) == (24, 3)
    for kind in (Kind.SHARED, Kind.EVICTED, Kind.PREEMPTED):
        assert log.step[log.kind == kind][0] < STEPS_IN_TEN_SECONDS, kind
    assert any(
        (replay(log, step=step).stored % 16 == 0).any() for step in range(1, view.step)
    )  # a block is filled
    assert int(log.step[-1]) <= STEPS_IN_TEN_SECONDS


def test_each_button_goes_to_its_moment():
    view = lab.opening(scene=2)
    moments = {}
    for scene in SCENES[:4]:
        view._answer({"scene": scene.number})
        assert view.scene == scene.number
        assert view._sentence == scene.sentence
        now = set(view._log.kind[view._log.step == view.step].tolist())
        moments[scene.number] = (view.step, now)
    assert Kind.ALLOCATED in moments[1][1]
    assert Kind.SHARED in moments[2][1]
    assert Kind.PREEMPTED in moments[3][1]
    assert Kind.EVICTED in moments[4][1]
    assert len({step for step, _ in moments.values()}) == 4


def test_the_first_moment_is_a_new_block_with_one_slot_written():
    view = lab.opening(scene=1)
    before, now = (replay(view._log, step=step) for step in (view.step - 1, view.step))
    grown = [
        row
        for row in range(len(now.sequence))
        if int(now.stored[row]) - int(before.stored[row]) == 1 and int(now.stored[row]) % 16 == 1
    ]
    assert grown
    assert 1 in view.frame().fill.tolist()


def test_a_button_sets_the_controls_back():
    view = lab.opening()
    view.block_size, view.policy = 32, "sjf"
    assert view._log.num_blocks == 12
    assert view.caption().splitlines()[1] == "scene 1: The run of scene 1 with block_size 32, policy sjf."
    view._answer({"scene": 1})
    assert (view.block_size, view.policy) == (16, "fcfs")
    assert view._log == OPENING.run().events
    view.max_num_seqs = 1
    assert view._usage.preemptions == 0


def test_the_fifth_scene_is_a_preemption_on_4096_blocks():
    view = lab.opening(scene=1)
    view.selected.requests = ["r1"]
    view.scene = 5
    assert view._log.num_blocks == 4096
    assert Kind.PREEMPTED in view._log.kind[view._log.step == view.step]
    assert view.selected.requests == []
    assert [control["default"] for control in view._controls][:2] == [16, 64]
    view.selected.requests = ["r100"]
    assert "scene 5: 120 chat requests" in view.caption()
    assert len(view.caption().splitlines()) <= 6


def test_the_sixth_scene_stands_at_the_peak_of_65536_blocks():
    view = lab.opening(scene=6)
    assert view._log.num_blocks == 65_536
    held = replay(view._log, step=view.step).block_references > 0
    assert int(held.sum()) == view._usage.peak
    assert np.count_nonzero(held) > 50_000


def test_no_seventh_scene():
    view = lab.opening()
    caption = view.caption()
    with pytest.raises(ViewError, match="scene is 7; it must be from 1 to 6"):
        view.scene = 7
    assert view.scene == 1
    assert view.caption() == caption


def test_the_line_of_code_recreates_a_scene():
    view = lab.opening(scene=3)
    view.block_size, view.step = 32, 20
    view.selected.requests = ["r2"]
    again = eval(view.code(), {"lab": lab})
    assert again.caption().splitlines()[:4] == view.caption().splitlines()[:4]
    assert (again.step, again.block_size, again.selected.requests) == (20, 32, ["r2"])


def test_the_page_knows_the_moments_of_its_own_run():
    view = lab.opening()
    for _ in range(2):
        known = {each["number"]: each.get("step") for each in view._scenes}
        own = [scene for scene in SCENES if scene.stage is view._stage]
        assert own
        assert {number for number, step in known.items() if step is not None} == {s.number for s in own}
        for scene in own:
            assert known[scene.number] == scene.moment(view._log)
        view.scene = 5
