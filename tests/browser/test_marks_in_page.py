"""What a cell is marked with, read off the canvas: traces as in the legend, letters, slots beside an id."""

from itertools import pairwise

import numpy as np
import pytest
from eventful import eventful_run

from nano_batch import lab
from nano_batch.records import Kind
from nano_batch.viz.palette import IN_USE, OWNERS, STATES

MARKS = {
    "allocated": {Kind.ALLOCATED},
    "freed": {Kind.FREED},
    "copied": {Kind.COPIED},
    "swapped": {Kind.SWAPPED_OUT, Kind.SWAPPED_IN},
    "evicted": {Kind.EVICTED},
}
RANK = {kind: rank for rank, kinds in enumerate(MARKS.values()) for kind in kinds}
# The legend's icons of the page, each drawn alone as a mark is: 8 x 8 pixels of ink on paper.
ICONS = """async view => {
  const style = getComputedStyle(view), found = {};
  for (const item of view.querySelectorAll(".nb-now span")) {
    const icon = item.querySelector("svg");
    if (!icon) continue;
    const copy = icon.cloneNode(true);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", 8);
    copy.setAttribute("height", 8);
    const text = copy.outerHTML.replaceAll("currentColor", style.color), image = new Image();
    image.src = "data:image/svg+xml," + encodeURIComponent(text);
    await image.decode();
    const context = new OffscreenCanvas(8, 8).getContext("2d");
    context.fillStyle = style.backgroundColor;
    context.fillRect(0, 0, 8, 8);
    context.drawImage(image, 0, 0, 8, 8);
    found[item.textContent.trim().split(" ")[0]] = Array.from(context.getImageData(0, 0, 8, 8).data);
  }
  return found;
}"""
PART = """(canvas, [x, y, width, height]) =>
  Array.from(canvas.getContext("2d").getImageData(x, y, width, height).data)"""


def grid_of(table):
    canvas = table.node.locator(".nb-blocks")
    return {name: int(canvas.get_attribute(f"data-{name}")) for name in ("columns", "cell", "left", "top")}


def corner(grid, block):
    x = grid["left"] + block % grid["columns"] * grid["cell"]
    return x, grid["top"] + block // grid["columns"] * grid["cell"]


def part(table, x, y, width, height):
    """The pixels of the canvas there, int [height, width, 3]."""
    data = table.node.locator(".nb-blocks").evaluate(PART, [x, y, width, height])
    return np.array(data).reshape(height, width, 4)[..., :3]


def marked(log, step, label):
    """A block whose mark of `step` is `label`: no later event of the step ranks higher."""
    last = {}
    for kind, block in zip(
        log.kind[log.step == step].tolist(), log.block[log.step == step].tolist(), strict=True
    ):
        if block >= 0 and kind in RANK:
            last[block] = max(last.get(block, 0), RANK[kind])
    return next((block for block, rank in last.items() if rank == list(MARKS).index(label)), None)


@pytest.fixture(scope="module")
def run():
    """Requests of three answers that copy on write, preemptions that swap."""
    return eventful_run({"preemption": "swap", "num_swap_blocks": 12})


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("label", MARKS)
def test_a_mark_in_a_cell_is_that_of_the_legend(opened, run, label, dark):
    log = run.events()
    steps = sorted(set(log.step[np.isin(log.kind, list(MARKS[label]))].tolist()))
    step, block = next((s, b) for s in steps if (b := marked(log, s, label)) is not None)
    view = lab.BlockTableView(run)
    view.step = step
    table = opened(view, dark=dark)
    table.settle()
    assert (
        f"{label} {int(np.isin(log.kind[log.step == step], list(MARKS[label])).sum())}"
        in table.node.locator(".nb-now").inner_text()
    )
    grid = grid_of(table)
    assert grid["cell"] >= 24
    x, y = corner(grid, block)
    drawn = part(table, x + grid["cell"] - 8, y + grid["cell"] - 8, 8, 8)
    icons = {
        name: np.array(data).reshape(8, 8, 4)[..., :3] for name, data in table.node.evaluate(ICONS).items()
    }
    assert list(icons) == list(MARKS)
    far = {name: float(np.abs(icon - drawn)[:7, :7].mean()) for name, icon in icons.items()}
    assert far[label] < 8, far
    assert all(far[name] > 2 * far[label] + 8 for name in MARKS if name != label), far


@pytest.mark.parametrize(("blocks", "least", "most"), [(24, 24, 60), (1000, 12, 23)])
def test_a_selected_request_has_its_letter_in_every_cell(opened, blocks, least, most):
    engine = lab.Engine(blocks, 16, event_log=True)
    for name in "xy":
        engine.add_request(name, num_prompt_tokens=64, max_tokens=4)
    engine.update(dict.fromkeys(engine.step().sampled_requests, 0))
    view = lab.BlockTableView(engine)
    seen = {}
    for order in (["x", "y"], ["y", "x"]):
        view.selected.requests = order
        table = opened(view)
        grid = grid_of(table)
        assert least <= grid["cell"] <= most
        for row in view.logical_tables().rows:
            x, y = corner(grid, int(row[2]))
            middle = part(table, x + 4, y + 4, grid["cell"] - 8, grid["cell"] // 2)
            seen.setdefault(row[0][0], []).append(middle.tobytes() if least < 24 else len(np.unique(middle)))
            frame = part(table, x + 1, y + grid["cell"] // 2, 1, 1)[0, 0]
            hue = OWNERS["AB".index(row[0][0])]["light"]
            assert "#{:02X}{:02X}{:02X}".format(*frame) == hue
    assert set(seen) == {"A", "B"}
    if least < 24:  # no id beside it: one letter looks the same in all of them, and another one else
        assert len(set(seen["A"])) == len(set(seen["B"])) == 1
        assert seen["A"][0] != seen["B"][0]


@pytest.mark.parametrize("dark", [False, True])
def test_an_id_leaves_the_slots_to_be_seen(opened, dark):
    engine = lab.Engine(512, 16, event_log=True)
    engine.add_request("a", num_prompt_tokens=8000, max_tokens=20)
    while engine.has_unfinished:
        engine.update(dict.fromkeys(engine.step().sampled_requests, 0))
    view = lab.BlockTableView(engine)
    view.step = 12  # marks have faded
    table = opened(view, dark=dark)
    table.settle()
    grid = grid_of(table)
    cell = grid["cell"]
    assert 24 <= cell < 40
    frame = view.frame()
    full = [block for block in range(512) if frame.state[block] == IN_USE and frame.fill[block] == 16]
    assert len(full) > 300
    (state,) = (state for state in STATES if state.number == IN_USE)
    own = np.array([int((state.dark if dark else state.light)[i : i + 2], 16) for i in (1, 3, 5)])
    for block in full[:: len(full) // 20]:
        x, y = corner(grid, block)
        near = np.abs(part(table, x + 1, y + 1, cell - 1, cell - 1) - own).max(axis=2) < 60
        edges = np.round(np.arange(5) * (cell - 1) / 4).astype(int)
        shares = [
            near[top:bottom, left:right].mean()
            for top, bottom in pairwise(edges)
            for left, right in pairwise(edges)
        ]
        shares.sort()  # every slot is seen in part, and twelve of the sixteen well
        assert shares[0] >= 0.05, (block, shares)
        assert shares[4] >= 0.3, (block, shares)
        assert shares[6] >= 0.6, (block, shares)
        assert near.mean() < 1  # and the id is there
