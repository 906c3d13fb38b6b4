"""A chart in a plain page: its shapes are where Python's numbers put them; a reader can move all of it."""

import re

import numpy as np
import pytest

from nano_batch import lab
from nano_batch.viz import Area, Axis, Bars, Chart, ChartView, Control, Line, Panel, Points, Rule
from nano_batch.viz.palette import ROLES
from nano_batch.viz.scales import spans, stacked

WORKLOAD = lab.Workload.synthetic(6, prompts=40, outputs=20, seed=1, arrivals="at_once")
SIZE = Control("block_size", "Block size", "tokens", (1, 2, 4, 8, 16), 4, "larger: more left empty")
LIMIT = Control("limit", "Objective", "tokens", (20, 50, 100, 200), 100, "what is aimed at")


def make(block_size, limit):
    run = lab.serve(WORKLOAD, memory_tokens=512, block_size=block_size)
    steps, sizes = run.steps, [1, 2, 4, 8]
    time, slots = Axis("time", "s"), Axis("slots", "tokens")
    parts = {"used": steps.slots_used, "internal": steps.slots_internal, "reserved": steps.slots_reserved}
    areas = [Area(name, steps.start_s, column, name) for name, column in parts.items()]
    held = int(steps.slots_used.sum())
    lines = [
        Line("waste", sizes, [block_size * each for each in sizes], "series-1"),
        Points("waste", sizes, [block_size * each for each in sizes], "series-1", hollow=[0, 0, 0, 1]),
    ]
    bars = [Bars(name, ["a", "b"], [block_size, 3], name) for name in ("used", "free")]
    panels = (
        Panel("over time", time, slots, areas, [Rule("y", limit, "aim", "limit")], steps=steps.step),
        Panel("sizes", Axis("block size", "tokens", "log2"), Axis("waste", "tokens"), lines),
        Panel("bars", Axis("allocator"), Axis("share", "%"), bars),
    )
    chart = Chart(
        panels,
        "Slots",
        columns=2,
        says=[f"Blocks of {block_size}."],
        numbers={"slot steps": float(held), "block size, tokens": float(block_size)},
    )
    return chart, {"over time": run}


def new():
    return ChartView(make, (SIZE, LIMIT), about="six requests", recreate="again(...)")


@pytest.fixture
def chart(opened):
    return opened(new())


def corners(page, panel, mark):
    """The coordinates in the path (or boxes) of a series, from 0 to 1 across the plot's frame."""
    node = page.node.locator(f"svg[data-panel='{panel}']")
    left, top, right, bottom = map(float, node.get_attribute("data-frame").split())
    path = node.locator(mark).first.get_attribute("d")
    pairs = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)
    values = np.array(pairs, float)
    return (values - [left, bottom]) / [right - left, top - bottom]


def check_drawn(page, view):
    """Areas, line, points and bars of the page against Python's spans and stacks."""
    for panel, (x, y) in zip(view.chart.panels[:2], spans(view.chart)[:2], strict=True):
        for series, (low, high) in zip(panel.series, stacked(panel), strict=True):
            if isinstance(series, Points):
                continue
            seen = corners(page, panel.title, f"path[data-series='{series.name}']")
            assert np.allclose(seen[: len(high), 0], x.place(series.x), atol=1e-3)
            assert np.allclose(seen[: len(high), 1], y.place(high), atol=1e-3)
            if isinstance(series, Area):
                assert np.allclose(seen[len(high) :][::-1, 1], y.place(low), atol=1e-3)
    bars, (_, share) = view.chart.panels[2], spans(view.chart)[2]
    node = page.node.locator("svg[data-panel='bars']")
    _, top, _, bottom = map(float, node.get_attribute("data-frame").split())
    for series, (low, high) in zip(bars.series, stacked(bars), strict=True):
        boxes = node.locator(f"rect[data-series='{series.name}']").all()
        tall = [float(box.get_attribute("height")) / (bottom - top) for box in boxes]
        assert np.allclose(tall, share.place(high) - share.place(low), atol=1e-3)


def page_table(page):
    page.node.evaluate("node => (node.querySelector('details').open = true)")
    rows = page.node.locator("details table tbody tr").all()
    return [tuple(row.locator("th, td").all_text_contents()) for row in rows]


@pytest.mark.parametrize("dark", [False, True])
def test_shapes_are_where_the_numbers_are_in_the_colours_of_the_roles(opened, dark):
    page = opened(new(), dark=dark)
    check_drawn(page, page.view)
    theme = "dark" if dark else "light"
    for role in ("used", "internal", "reserved"):
        path = page.node.locator(f"svg[data-panel='over time'] path[data-series={role}]")
        assert path.get_attribute("fill") == ROLES[role][theme]
        swatch = page.node.locator(f".nb-legend [data-role={role}] rect").last
        assert swatch.get_attribute("fill") == ROLES[role][theme]
    rings = page.node.locator("svg[data-panel=sizes] circle[data-series]").all()
    hollow = [ring.get_attribute("fill") != ROLES["series-1"][theme] for ring in rings]
    assert hollow == [False, False, False, True]
    assert page_table(page) == list(page.view.table().rows)


def test_a_slider_moved_by_keyboard_draws_the_chart_of_python(chart):
    other = new()
    slider = chart.node.locator("[data-control=block_size] input[type=range]")
    for key, size in (("ArrowRight", 8), ("ArrowRight", 16), ("Home", 1)):
        slider.focus()
        chart.page.keyboard.press(key)
        chart.settle()
        other.block_size = size
        assert chart.view.block_size == size
        check_drawn(chart, other)
        assert page_table(chart) == list(other.table().rows)
        assert chart.node.locator(".nb-sentence").inner_text() == f"Blocks of {size}."
        assert chart.node.locator(".nb-difference").inner_text() == other.difference() != ""


def test_the_setting_before_is_a_thin_line_and_a_pinned_one_stays(chart):
    assert chart.node.locator("[data-before]").count() == 0
    before = corners(chart, "sizes", "path[data-series=waste]")
    slider = chart.node.locator("[data-control=block_size] input[type=range]")
    slider.focus()
    chart.page.keyboard.press("ArrowRight")
    chart.settle()
    line = corners(chart, "sizes", "path[data-before=waste]")
    assert np.allclose(2 * line[:, 1], before[:, 1], atol=2e-3)  # the new chart's axis is twice as high
    chart.node.get_by_role("button", name="Pin").click()
    chart.settle()
    pinned = corners(chart, "sizes", "path[data-series=waste]")
    for _ in range(2):
        slider.focus()
        chart.page.keyboard.press("ArrowLeft")
        chart.settle()
    line = corners(chart, "sizes", "path[data-before=waste]")
    assert chart.view.block_size == 2
    assert np.allclose(line[:, 1], 4 * pinned[:, 1], atol=5e-3)
    assert "against the pinned run (block_size 8)" in chart.node.locator(".nb-difference").inner_text()


def test_an_error_stands_above_the_last_good_chart(chart):
    good = corners(chart, "sizes", "path[data-series=waste]")
    typed = chart.node.locator("[data-control=block_size] .nb-typed")
    typed.fill("1000")
    typed.press("Enter")
    chart.settle()
    assert "block_size is 1000" in chart.node.get_by_role("alert").inner_text()
    assert typed.input_value() == "4"
    assert np.array_equal(corners(chart, "sizes", "path[data-series=waste]"), good)


def test_points_by_keyboard_and_the_run_behind_one(chart):
    view, tip = chart.view, chart.node.locator(":scope > .nb-stage > .nb-tip")
    chart.press("ArrowRight", "ArrowRight", "ArrowDown")
    panel = view.chart.panels[0]
    column = np.asarray(panel.series[1].y)
    assert f"▸ internal: {column[1]:,.0f} tokens" in tip.inner_text()
    assert view.cursor == pytest.approx(float(panel.series[0].x[1]))
    cursor = chart.node.locator("svg[data-panel='over time'] .nb-cursor")
    assert cursor.get_attribute("visibility") == "visible"
    chart.press("Enter")
    chart.node.locator(".nb-opened .nb-blocks[aria-label]").wait_for()
    assert view.opened.step == panel.steps[1] == 2
    inner = chart.node.locator(".nb-opened .nb-view")
    assert inner.locator(".nb-step").inner_text().startswith("step 2 of")
    inner.focus()
    chart.page.keyboard.press("ArrowRight")
    chart.settle()
    assert view.opened.step == 3
    view.opened.step = 5
    chart.push_messages()
    assert inner.locator(".nb-step").inner_text().startswith("step 5 of")
    chart.press("Escape", "Escape")
    assert view.opened is None
    assert chart.node.locator(".nb-opened .nb-view").count() == 0


def test_a_click_opens_the_moment_and_what_has_no_run_says_so(chart):
    view = chart.view
    panel = chart.node.locator("svg[data-panel='over time']")
    left, _, right, bottom = map(float, panel.get_attribute("data-frame").split())
    panel.click(position={"x": (left + right) / 2, "y": bottom - 4})
    chart.settle()
    steps = view.chart.panels[0].steps
    assert abs(view.opened.step - steps[len(steps) // 2]) <= 2
    bar = chart.node.locator("svg[data-panel=bars] rect[data-series=used]").first
    bar.click()
    chart.settle()
    assert "no run behind 'used' in 'bars'" in chart.node.get_by_role("alert").first.inner_text()


def test_a_rule_is_dragged_to_set_its_control(chart):
    grip = chart.node.locator("[data-sets=limit]")
    panel = chart.node.locator("svg[data-panel='over time']").bounding_box()
    y0 = float(grip.get_attribute("y1")) + panel["y"]
    chart.page.mouse.move(panel["x"] + 150, y0)
    chart.page.mouse.down()
    chart.page.mouse.move(panel["x"] + 150, y0 + 30, steps=4)
    chart.page.mouse.up()
    chart.settle()
    chart.settle()
    assert 20 <= chart.view.limit < 100


def test_keys_do_not_leave_the_view_and_are_listed(chart):
    help_list = chart.node.locator(".nb-help").first
    chart.press("?")
    assert help_list.is_visible()
    chart.press("Escape")
    assert not help_list.is_visible()


def test_downloads_and_code(chart):
    menu = chart.node.get_by_label("Download")
    for form, begin in (
        ("csv", b"series,points"),
        ("png", b"\x89PNG"),
        ("svg", b"<svg"),
        ("html", b"<!doctype"),
    ):
        with chart.page.expect_download() as caught:
            menu.select_option(form)
        assert caught.value.suggested_filename == f"chart.{form}"
        with open(caught.value.path(), "rb") as file:
            data = file.read()
        assert data.startswith(begin)
        if form == "csv":
            assert data.decode() == chart.view.table().to_csv()
    assert (
        chart.node.get_by_role("button", name="Copy as code").get_attribute("data-code") == chart.view.code()
    )


@pytest.mark.parametrize("width", [600, 900, 1600])
def test_no_panel_is_wider_than_the_page(opened, width):
    page = opened(new(), width=width)
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tops = {box["y"] for box in (svg.bounding_box() for svg in page.node.locator(".nb-panel").all())}
    assert len(tops) == (3 if width == 600 else 2)


WORDS_ALONE = """async () => {
  window.requestAnimationFrame = () => 1;
  window.model.take({ _settings_line: "other words" });
  await null;
  return document.querySelector(".nb-settings").textContent;
}"""


def test_a_setting_that_changes_no_curve_does_not_wait_for_a_frame(chart):
    assert chart.page.evaluate(WORDS_ALONE) == "other words"
