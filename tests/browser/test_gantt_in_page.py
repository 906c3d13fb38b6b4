"""The Gantt in a plain page joined to Python: its bars by pixel, its keys, its numbers."""

import numpy as np
import pytest
from pixels import READ

from nano_batch.records import Phase
from nano_batch.studies import Mix, gantt
from nano_batch.viz.palette import PHASES

MIX = Mix(requests=24, seed=4, rate=16.0)
KEYS = {"prefill": Phase.PREFILL, "decode": Phase.DECODE, "stalled": Phase.STALLED}


@pytest.fixture
def bars(opened):
    return opened(gantt(MIX, max_num_seqs=6), width=1100, height=1400)


def rows_of(page, number):
    """The page's table of a number: 0 the whole run, 1 the moment."""
    table = page.node.locator("details table").nth(number)
    return [tuple(row.locator("th, td").all_text_contents()) for row in table.locator("tbody tr").all()]


def test_the_page_has_the_numbers_of_the_view(bars):
    view = bars.view
    assert rows_of(bars, 0) == list(view.table().rows)
    for step in (5, 40, 300):
        view.step = step
        bars.push()
        assert rows_of(bars, 1) == list(view.now().rows)
    lead = dict(zip(view.now().columns, view.now().rows[0], strict=True))
    for item in bars.node.locator("[data-phase]").all():
        label, count = item.locator("span").nth(1).inner_text(), item.locator("b").inner_text()
        assert lead["idle slots" if label == "idle slot" else label] == count


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("mode", ["slots", "requests"])
def test_bars_have_the_colours_of_the_legend_where_the_records_say(opened, mode, dark):
    view = gantt(MIX, max_num_seqs=6, rows=mode)
    page = opened(view, width=1100, height=1400, dark=dark)
    canvas = page.node.locator(".nb-bars")
    width = canvas.bounding_box()["width"]
    looks = {look.number: look for look in PHASES}
    points, expected, top = [], [], 0
    for label, scheme in view._schemes.items():
        rows = 6 if mode == "slots" else 24
        edge = max(3, min(12, 200 // rows))
        scale = (width - 46 - 12) / max(each.end_s for each in view._schemes.values())
        spans = scheme.spans
        for at in np.flatnonzero(np.isin(spans.phase, list(KEYS.values()))):
            left, right = (46 + scale * moment for moment in (spans.start_s[at], spans.end_s[at]))
            if right - left < 9 or abs((left + right) / 2 - (46 + scale * view.time_s)) < 6:
                continue
            row = spans.lane[at] if mode == "slots" else spans.row[at]
            points.append([round((left + right) / 2), round(top + 24 + row * edge + edge / 2 - 1)])
            look = looks[int(spans.phase[at])]
            expected.append((label, look.key, look.dark if dark else look.light))
        top += 24 + edge * rows + (18 + 4 if mode == "slots" else 6)
    seen = canvas.evaluate(READ, points)
    found = ["#" + "".join(f"{value:02X}" for value in pixel[:3]) for pixel in seen]
    wrong = [(want, got) for want, got in zip(expected, found, strict=True) if want[2].upper() != got]
    assert not wrong, wrong[:5]
    assert {key for _, key, _ in expected} >= {"prefill", "decode"}
    assert len({label for label, _, _ in expected}) == 4


def test_keys_move_the_clock_the_lead_and_the_selection(bars):
    view = bars.view
    bars.press("Home")
    assert view.step == 1
    bars.press("ArrowRight", "ArrowRight", "Shift+ArrowRight")
    assert view.step == 13
    bars.press("End")
    assert view.step == len(view.runs[view.lead].steps)
    bars.press("Home", "s")
    assert view.lead == "prefill first"
    bars.press("]")
    stalled = view._schemes["prefill first"].at(view.time_s)["stalled"]
    assert view.step > 1
    assert stalled > 0
    bars.press("[")
    assert view.step == 1 or view.step < len(view.runs[view.lead].steps)
    bars.press("j", "j")
    assert list(view._requests) == ["r1"]
    bars.press("k", "Escape")
    assert list(view._requests) == []
    bars.press("+")
    from_, to = view.shown_s
    assert to - from_ == pytest.approx(max(run.span_s for run in view.runs.values()) / 2)
    bars.press("0")
    assert list(view.shown_s) == []
    bars.press("Space")
    bars.page.wait_for_timeout(600)
    bars.press("Space")
    assert view.step > 1


def test_a_click_marks_whom_the_prefill_delayed(bars):
    view = bars.view
    scheme = view._schemes["prefill first"]
    width = bars.node.locator(".nb-bars").bounding_box()["width"]
    scale = (width - 58) / max(each.end_s for each in view._schemes.values())
    spans = scheme.spans
    wanted = [
        at
        for at in np.flatnonzero(spans.phase == Phase.DECODE)
        if scheme.delays(int(spans.row[at])) and (spans.end_s[at] - spans.start_s[at]) * scale > 12
    ]
    at = wanted[0]
    top = 24 + 6 * 12 + 22  # the second panel
    x = 46 + scale * (spans.start_s[at] + spans.end_s[at]) / 2
    bars.node.locator(".nb-bars").click(
        position={"x": float(x), "y": float(top + 24 + spans.lane[at] * 12 + 5)}
    )
    bars.settle()
    name = view._names[int(spans.row[at])]
    assert list(view._requests) == [name]
    said = bars.node.locator(".nb-delays li").all_text_contents()
    for label, line in zip(view.runs, said, strict=True):
        rows = [row for row in view.delayed(name).rows if row[0] == label]
        shown = ", ".join(f"{row[1]} +{row[2]} ms" for row in rows[:6]) or "nobody"
        assert line.startswith(f"{label}: {shown}")
    assert any("ms" in line for line in said)


LETTERS_DRAWN = """node => {
  const draw = CanvasRenderingContext2D.prototype.fillText, seen = [];
  CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
    if (/^[A-H]$/.test(text)) seen.push([text, x, y]);
    return draw.call(this, text, x, y);
  };
  window.lettersDrawn = seen;
}"""


@pytest.mark.parametrize(("rows", "slots"), [("requests", 64), ("slots", 64), ("slots", 1)])
def test_letters_of_neighbours_do_not_lie_on_each_other(opened, rows, slots):
    view = gantt(
        Mix(requests=200, seed=1, rate=40.0), max_num_seqs=slots, rows=rows, schemes=("chunked prefill",)
    )
    page = opened(view, width=1100)
    page.node.evaluate(LETTERS_DRAWN)
    view.selected.requests = [f"r{row}" for row in range(20, 28)]
    page.push()
    drawn = page.page.evaluate("window.lettersDrawn")
    assert sorted(text for text, _, _ in drawn) == list("ABCDEFGH")
    for i, (_, x, y) in enumerate(drawn):
        assert all(abs(x - other[1]) >= 9 or abs(y - other[2]) >= 11 for other in drawn[:i]), drawn
    scheme = view._schemes["chunked prefill"]
    scale = (page.node.locator(".nb-bars").bounding_box()["width"] - 58) / scheme.end_s
    for text, x, _ in drawn:  # near its bar still
        mine = scheme.spans.row == 20 + "ABCDEFGH".index(text)
        drawn_rows = mine if rows == "requests" else mine & (scheme.spans.lane >= 0)
        assert abs(46 + scale * scheme.spans.start_s[drawn_rows].min() - x) <= 120


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_delayed_neighbour_is_marked_in_the_colour_of_the_text(opened, dark):
    view = gantt(MIX, max_num_seqs=6, schemes=("prefill first",))
    view.selected.requests = ["r8"]
    page = opened(view, width=1100, dark=dark)
    canvas, (scheme,) = page.node.locator(".nb-bars"), view._schemes.values()
    scale = (canvas.bounding_box()["width"] - 58) / scheme.end_s
    (at,) = np.flatnonzero(scheme.costs.row == 8)
    step = scheme.costs.step[at]
    middle = (scheme.schedule.start_s[step] + scheme.schedule.end_s[step]) / 2
    there = (scheme.spans.start_s < middle) & (middle < scheme.spans.end_s)
    late = [delay.row for delay in scheme.delays(8)]
    lanes = scheme.spans.lane[there & np.isin(scheme.spans.row, late)]
    assert len(lanes) == len(late) > 1
    points = [[round(46 + scale * middle), 24 + int(lane) * 12 + 9] for lane in lanes]
    ink = page.node.evaluate("node => getComputedStyle(node).color.match(/\\d+/g).map(Number)")
    assert canvas.evaluate(READ, points) == [ink] * len(points)
    swatch = page.node.locator(".nb-delays .nb-delay")
    assert swatch.evaluate("node => getComputedStyle(node).backgroundColor.match(/\\d+/g).map(Number)") == ink


def test_controls_by_keyboard_serve_again_and_a_refused_one_is_said(bars):
    view = bars.view
    slider = bars.node.locator("[data-control=max_num_seqs] input[type=range]")
    slider.focus()
    before = view.max_num_seqs
    bars.page.keyboard.press("ArrowRight")
    bars.settle()
    assert view.max_num_seqs > before
    assert rows_of(bars, 0) == list(view.table().rows)
    assert bars.node.locator(".nb-difference").inner_text() == view.difference() != ""
    spread = bars.node.locator("[data-control=output_spread] .nb-typed")
    spread.fill("9")
    spread.press("Enter")
    bars.settle()
    assert "output_spread is 9" in bars.node.get_by_role("alert").inner_text()
    assert view.output_spread == 1.0
    bars.node.get_by_role("button", name="Reset").click()
    bars.settle()
    assert view.max_num_seqs == before


def test_drag_zooms_and_the_strip_scrubs(bars):
    view, canvas = bars.view, bars.node.locator(".nb-bars")
    box = canvas.bounding_box()
    bars.page.mouse.move(box["x"] + 200, box["y"] + 60)
    bars.page.mouse.down()
    bars.page.mouse.move(box["x"] + 400, box["y"] + 64, steps=4)
    bars.page.mouse.up()
    bars.settle()
    end = max(run.span_s for run in view.runs.values())
    scale = end / (box["width"] - 58)
    assert list(view.shown_s) == pytest.approx([154 * scale, 354 * scale], rel=0.02)
    strip = bars.node.locator(".nb-strip").bounding_box()
    bars.page.mouse.click(strip["x"] + 46 + (strip["width"] - 58) / 2, strip["y"] + 20)
    bars.settle()
    assert view.time_s == pytest.approx(end / 2, rel=0.05)


def test_many_requests_are_drawn_at_once(opened):
    view = gantt(
        Mix(requests=3000, seed=1, rate=40.0, output_tokens=60),
        max_num_seqs=128,
        schemes=("prefill first", "chunked prefill"),
        max_num_batched_tokens=2048,
    )
    page = opened(view, width=1100, height=1000)
    for mode in ("slots", "requests"):
        view.rows = mode
        page.push()
        colours = page.node.locator(".nb-bars").evaluate(
            "node => { const d = node.getContext('2d').getImageData(0, 0, node.width, node.height).data;"
            " const seen = {}; for (let i = 0; i < d.length; i += 4) {"
            " const k = d[i] * 65536 + d[i + 1] * 256 + d[i + 2]; seen[k] = (seen[k] ?? 0) + 1; }"
            " return seen; }"
        )
        for key in ("prefill", "decode"):
            look = next(look for look in PHASES if look.key == key)
            assert colours.get(str(int(look.light[1:], 16)), 0) > 200, (mode, key)
