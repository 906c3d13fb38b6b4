"""The block table in a plain page, its model joined to Python: selection, panels, keys, traces, colours."""

import re

import pytest
from pixels import READ

from nano_batch import lab
from nano_batch.records import Kind, replay
from nano_batch.viz.palette import FREE, OWNERS, RAMPS, STATES
from nano_batch.viz.selection import LETTERS


def page_queues(table):
    rows = []
    for queue in ("running", "waiting"):
        for chip in table.node.locator(f"[data-queue={queue}] button").all():
            tokens, held = re.search(r"· ([\d,]+) tokens · ([\d,]+) blocks", chip.inner_text()).groups()
            rows.append((queue, chip.get_attribute("data-request"), tokens, held))
    return rows


def page_tables(table):
    rows = []
    for line in table.node.locator(".nb-logical > div").all():
        name, entries = line.text_content().split(": ", 1)
        for entry in entries.split():
            rows.append((name, *re.match(r"(\d+)→(-?\d+):(\d+)×(\d+)$", entry).groups()))
    return rows


def references_of(view):
    return replay(view._log, step=view.step).block_references


def used_now(view):
    """Blocks that this step touched, or that a sequence held which ran in it."""
    log, state = view._log, replay(view._log, step=view.step)
    now = log.step == view.step
    ran = set(log.sequence[now & (log.kind == Kind.SCHEDULED)].tolist())
    used = set(log.block[now & (log.kind >= Kind.ALLOCATED) & (log.kind <= Kind.SWAPPED_IN)].tolist())
    for row, number in enumerate(state.sequence.tolist()):
        used.update(state.table(row).tolist() if number in ran else ())
    return {block for block in used if block >= 0 and view.frame().state[block] != FREE}


def centre(table, block):
    canvas = table.node.locator(".nb-blocks")
    grid = {name: int(canvas.get_attribute(f"data-{name}")) for name in ("columns", "cell", "left", "top")}
    x = grid["left"] + (block % grid["columns"] + 0.5) * grid["cell"]
    return {"x": x, "y": grid["top"] + (block // grid["columns"] + 0.5) * grid["cell"]}, grid["cell"]


def pixels(table, points):
    seen = table.node.locator(".nb-blocks").evaluate(READ, points)
    return ["#{:02X}{:02X}{:02X}".format(*pixel) for pixel in seen]


def test_queues_and_tables_are_those_of_python_at_every_step(table):
    view = table.view
    view.selected.requests = ["r1", "r2"]
    table.push()
    table.press("Home")
    seen = set()
    for _ in range(8):
        table.press("Shift+ArrowRight", "ArrowLeft", "ArrowLeft")
        assert page_queues(table) == list(view.queues().rows), view.step
        assert page_tables(table) == list(view.logical_tables().rows), view.step
        seen.update(row[0] for row in page_tables(table))
    assert seen == {"A r1", "B r2"}


def test_the_queues_say_their_order(table):
    names = table.node.locator(".nb-queue > span:first-child")
    assert [name.inner_text() for name in names.all()] == ["running by lane", "waiting by arrival"]
    assert "the policy's choice" in names.nth(1).get_attribute("title")


def test_a_click_on_a_block_selects_its_owners(table):
    view = table.view
    shared = int((references_of(view) > 1).nonzero()[0][0])
    place, _ = centre(table, shared)
    table.node.locator(".nb-blocks").click(position=place)
    table.settle()
    assert (view.selected.block, view.selected.requests) == (shared, ["r0", "r1"])
    chips = {
        chip.get_attribute("data-request"): chip.get_attribute("data-light")
        for chip in table.node.locator(".nb-chip").all()
    }
    assert chips == {"r0": "lit", "r1": "lit", "r2": "pale"}
    table.press("Escape")
    assert (view.selected.block, view.selected.requests) == (-1, [])


def test_a_click_answers_an_exercise(opened):
    table = opened(lab.question("01-4"))
    for block, right in ((7, False), (5, True)):
        place, _ = centre(table, block)
        table.node.locator(".nb-blocks").click(position=place)
        table.settle()
        verdict = lab.check("01-4", table.view)
        assert (verdict.answer, verdict.right) == (block, right)


def test_sharers_of_a_prefix_branch_off_where_they_part(table):
    view = table.view
    table.node.locator("[data-request=r0]").click()
    table.settle()
    state = replay(view._log, step=view.step)
    tables = {view._log.request_ids[int(n)]: state.table(i).tolist() for i, n in enumerate(state.sequence)}
    pairs = list(zip(tables["r0"], tables["r1"], strict=False))
    parted = next(index for index, (one, other) in enumerate(pairs) if one != other)
    line = table.node.locator(".nb-logical > div")
    assert line.get_attribute("data-branches") == f"r1:{parted}"
    assert parted == 4  # the 64 tokens that both prompts begin with
    assert table.node.locator(".nb-logical-picture").bounding_box()["height"] > 40


def test_a_selected_request_has_its_hue_in_every_panel_and_the_rest_recedes(table):
    view = table.view
    table.node.locator("[data-request=r1]").click()
    table.node.locator("[data-request=r0]").click(modifiers=["Shift"])
    table.settle()
    assert view.selected.requests == ["r1", "r0"]
    own = {row[0][0]: int(row[2]) for row in view.logical_tables().rows if row[4] == "1"}
    for letter, block in own.items():
        place, cell = centre(table, block)
        frame = (place["x"] - cell / 2 + 2, place["y"])
        hue = OWNERS[LETTERS.index(letter)]["light"]
        assert pixels(table, [frame]) == [hue]
        name = view.selected.requests[LETTERS.index(letter)]
        chip = table.node.locator(f".nb-chip[data-request={name}]")
        assert chip.inner_text().startswith(f"{letter} {name}")
        assert chip.evaluate("node => node.style.getPropertyValue('--nb-hue')") == hue
    cached = int((view.frame().state == 3).nonzero()[0][0])
    place, cell = centre(table, cached)
    first_slot = (place["x"] - cell / 2 + 3, place["y"] - cell / 2 + 3)
    (receded,) = pixels(table, [first_slot])
    (full,) = (state.light for state in STATES if state.key == "cached")
    table.press("Escape")
    assert receded != full
    assert pixels(table, [first_slot]) == [full]


def test_keys_go_through_incidents_and_requests(table):
    view, log = table.view, table.view._log
    incidents = sorted(
        {int(step) for step in log.step[(log.kind == Kind.EVICTED) | (log.kind == Kind.PREEMPTED)]}
    )
    assert len(incidents) >= 3
    table.press("Home")
    for step in incidents:
        table.press("]")
        assert view.step == step
    table.press("]")
    assert view.step == incidents[-1]
    for step in reversed(incidents[:-1]):
        table.press("[")
        assert view.step == step
    names = []
    for key in ("j", "j", "j", "j", "k"):
        table.press(key)
        names += view.selected.requests
    assert names == ["r0", "r1", "r2", "r0", "r2"]
    listed = table.node.locator(".nb-help")
    assert not listed.is_visible()
    table.press("?")
    for key in ("Space", "Shift", "Home", "[ ]", "j k", "Esc", "?"):
        assert key in listed.inner_text()
    table.press("?")
    assert not listed.is_visible()


def test_events_of_the_step_are_counted(table):
    view, log = table.view, table.view._log
    for step in (view.step, 1, 2, int(log.step[log.kind == Kind.PREEMPTED][0])):
        view.step = step
        table.push()
        text = table.node.locator(".nb-now").inner_text()
        for label, kind in (("allocated", Kind.ALLOCATED), ("freed", Kind.FREED), ("evicted", Kind.EVICTED)):
            count = int(((log.step == step) & (log.kind == kind)).sum())
            assert re.search(rf"{label} {count}\b", text), (step, label)


@pytest.mark.parametrize("calm", [False, True])
def test_a_trace_fades_over_eight_steps_forwards_and_backwards(opened, calm):
    view = lab.opening(scene=4)
    table, log = opened(view, calm=calm), view._log
    at = (log.kind == Kind.ALLOCATED) & (log.step == 1)
    block, start = int(log.block[at][0]), 1
    place, cell = centre(table, block)
    box = [(place["x"] + cell / 2 - 8 + i, place["y"] + cell / 2 - 8 + j) for i in range(7) for j in range(7)]

    def mark(step):
        view.step = step
        table.push()
        return tuple(pixels(table, box))

    ages = [mark(start + age) for age in range(10)]
    assert [mark(start + age) for age in (7, 4, 0)] == [ages[7], ages[4], ages[0]]
    if calm:
        assert len(set(ages[:8])) == 1
    else:
        assert len(set(ages[:8])) == 8
    assert ages[8] == ages[9] != ages[0]


def test_colour_modes_count_and_colour_as_said(table):
    view = table.view
    view.selected.requests = ["r1"]
    table.press()
    for mode in ("owner", "age", "references"):
        view.colour = mode
        table.push()
        items = table.node.locator(".nb-legend-mode li").all()
        counts = {
            item.locator("span").last.inner_text(): int(item.locator("b").inner_text()) for item in items
        }
        assert sum(counts.values()) == 24
        assert not table.node.locator(".nb-legend").is_visible()
        if mode == "references":
            state = references_of(view)
            assert counts["twice"] == int((state == 2).sum()) > 0
            assert counts["held once"] == int((state == 1).sum()) > 0
            assert [counts.get(label) for label in RAMPS["references"]["labels"]][2:] == [0, 0, 0]
        if mode == "age":
            assert counts["used in this step"] == len(used_now(view)) > 0
        if mode == "owner":
            assert counts["A r1"] == int({row[1]: row[3] for row in view.queues().rows}["r1"])


def test_hover_names_owners_count_hash_and_last_use(table):
    view, log = table.view, table.view._log
    references = references_of(view)
    for block in (int((references > 1).nonzero()[0][0]), int((view.frame().state == 3).nonzero()[0][0])):
        place, _ = centre(table, block)
        table.node.locator(".nb-blocks").hover(position=place)
        text = table.node.locator(".nb-tip").inner_text()
        marks = log.argument[(log.kind == Kind.CACHED) & (log.block == block) & (log.step <= view.step)]
        assert f"prefix hash {int(marks[-1]):016x}"[:20] in text
        assert f"reference count {references[block]}" in text
        if references[block]:
            assert "held by r0 (its block" in text
            assert f"last used in step {view.step} (this one)" in text
        else:
            touched = log.step[
                (log.block == block) & (log.kind >= 4) & (log.kind <= 9) & (log.step <= view.step)
            ]
            assert f"last used in step {touched[-1]}" in text
