"""The quickstart's picture, moved by keyboard and pointer: what the page shows is what Python says."""

import json

import pytest
from pixels import check_pixels

from nano_batch.viz.palette import STATES


def page_table(view):
    rows = view.locator("tbody tr").all()
    return [tuple(row.locator("th, td").all_inner_texts()) for row in rows]


def python_table(kernel, step, block_size=16):
    kernel.view.block_size = block_size
    kernel.view.step = step
    return list(kernel.view.table().rows)


def shown_step(view):
    return int(view.locator(".nb-step").inner_text().split()[1])


def press(tab, view, *keys):
    for key in keys:
        tab.page.keyboard.press(key)
    tab.settle(view)
    return shown_step(view)


def test_a_refused_setting_stands_above_the_last_good_picture(tab):
    (view,) = tab.views()
    error = view.get_by_role("alert")
    assert error.inner_text() == "ViewError: block_size is 0; it must be from 1 to the memory's 8,192 tokens"
    assert error.bounding_box()["y"] < view.locator(".nb-blocks").bounding_box()["y"]
    assert view.locator("[data-control=block_size] output").inner_text() == "16 tokens"
    slider = view.get_by_label("Block size")
    slider.focus()
    tab.page.keyboard.press("ArrowRight")
    tab.settle(view)
    assert not error.is_visible()


def test_the_page_shows_the_table_that_python_gives(tab, view, kernel):
    opening = kernel.view._run["opening_step"]
    assert shown_step(view) == opening
    assert page_table(view) == python_table(kernel, opening)
    counts = {item.get_attribute("data-state"): item.locator("b").inner_text() for item in legend(view)}
    table = {row[0]: row[1] for row in page_table(view)}
    assert counts == {state.key: table[state.label] for state in STATES}


def legend(view):
    return view.locator(".nb-legend li").all()


def test_keys_step_forwards_and_backwards(tab, view, kernel):
    start, last = kernel.view._run["opening_step"], kernel.view._run["last_step"]
    moves = [
        ("ArrowRight", start + 1),
        ("Shift+ArrowRight", start + 11),
        ("ArrowLeft", start + 10),
        ("Shift+ArrowLeft", start),
        ("End", last),
        ("ArrowRight", last),
        ("ArrowLeft", last - 1),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("Shift+ArrowRight", 10),
    ]
    for key, step in moves:
        assert press(tab, view, key) == step
        assert page_table(view) == python_table(kernel, step), (key, step)


def test_space_plays_and_pauses(tab, view):
    start = press(tab, view, "Home")
    tab.page.keyboard.press(" ")
    view.get_by_role("button", name="Pause (Space)").wait_for()
    tab.page.wait_for_timeout(700)
    played = press(tab, view, " ")
    assert start + 3 <= played <= start + 40
    tab.page.wait_for_timeout(300)
    assert shown_step(view) == played


def test_the_block_size_slider_by_keyboard(tab, view, kernel):
    slider = view.get_by_label("Block size")
    for key, size in [("ArrowRight", 32), ("ArrowRight", 64), ("End", 256), ("ArrowLeft", 128), ("Home", 1)]:
        step = shown_step(view)
        slider.focus()
        press(tab, view, key)
        assert view.locator("[data-control=block_size] output").inner_text() == f"{size} tokens"
        assert page_table(view) == python_table(kernel, step, size)
        assert f"{8192 // size:,} blocks of {size} tokens" in view.locator(".nb-settings").inner_text()
        assert shown_step(view) == step


def test_the_kernel_learns_where_the_page_stands(tab, view):
    slider = view.get_by_label("Block size")
    slider.focus()
    press(tab, view, "ArrowRight")
    view.focus()
    step = press(tab, view, "ArrowRight")
    tab.page.locator(".jp-Cell.jp-CodeCell").last.locator(".cm-content").click()
    tab.page.keyboard.press("Control+A")
    tab.page.keyboard.type("(view.step, view.block_size)")
    tab.page.keyboard.press("Control+Enter")
    answer = tab.page.locator(".jp-Cell.jp-CodeCell").last.locator(".jp-OutputArea-output")
    answer.get_by_text(f"({step}, 32)").wait_for(timeout=10_000)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_pixels_have_the_colours_of_the_legend(tab, view, kernel, theme):
    tab.menu("Settings", "Theme", f"JupyterLab {theme.capitalize()}")
    tab.page.wait_for_function(f"document.querySelector('.nb-view').dataset.theme === '{theme}'")
    tab.settle(view)
    python_table(kernel, shown_step(view))
    assert int(view.locator(".nb-blocks").get_attribute("data-cell")) >= 24  # slots are drawn
    check_pixels(view, kernel.view.frame(), theme)


def test_the_strip_scrubs_and_hovering_names_a_block(tab, view, kernel):
    strip = view.locator(".nb-strip")
    box = strip.bounding_box()
    strip.click(position={"x": box["width"] / 2, "y": 40})
    tab.settle(view)
    middle = shown_step(view)
    last = kernel.view._run["last_step"]
    assert abs(middle - last / 2) < last / 20
    assert page_table(view) == python_table(kernel, middle)
    frame = kernel.view.frame()
    canvas = view.locator(".nb-blocks")
    cell, left = int(canvas.get_attribute("data-cell")), int(canvas.get_attribute("data-left"))
    canvas.hover(position={"x": left + 5.5 * cell, "y": int(canvas.get_attribute("data-top")) + cell / 2})
    tip = view.locator(".nb-tip").inner_text()
    label = next(state.label for state in STATES if state.number == frame.state[5])
    assert tip.startswith(f"block 5: {label}")
    assert f"{frame.fill[5]} of 16 token slots written" in tip


def test_keys_in_the_view_do_not_reach_the_notebook(tab, view):
    cells = tab.page.locator(".jp-Cell").count()
    for key in ("d", "d", "x", "a", "b", "Enter"):
        tab.page.keyboard.press(key)
    tab.page.wait_for_timeout(300)
    assert tab.page.locator(".jp-Cell").count() == cells
    view.locator(".nb-blocks").click(position={"x": 100, "y": 60})
    press(tab, view, "d", "d", "x")
    for control in (
        view.get_by_label("Block size"),
        view.get_by_label("Speed"),
        view.get_by_label("Play (Space)"),
    ):
        control.focus()
        press(tab, view, "d", "d", "x")
    assert tab.page.locator(".jp-Cell").count() == cells


@pytest.mark.parametrize("width", [900, 1600])
def test_nothing_is_cut_off(tab, view, width):
    tab.page.set_viewport_size({"width": width, "height": 1200})
    tab.settle(view)
    assert view.evaluate("node => node.scrollWidth <= node.clientWidth")
    box = view.bounding_box()
    for part in ("canvas", ".nb-bar", ".nb-legend", ".nb-head"):
        for inner in (one.bounding_box() for one in view.locator(part).all() if one.is_visible()):
            assert inner["x"] >= box["x"]
            assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1


def test_saving_from_within_a_view_leaves_captions_and_pictures_only(tab, view):
    for part in (view, view.get_by_label("Block size"), view.get_by_label("Speed")):
        before = tab.path.stat().st_mtime_ns  # the committed notebook looks alike: wait for another file
        part.focus()
        tab.page.keyboard.press("Control+s")
        for _ in range(100):
            if tab.path.stat().st_mtime_ns != before:
                break
            tab.page.wait_for_timeout(100)
        assert tab.path.stat().st_mtime_ns != before
        tab.page.wait_for_timeout(500)
    text = tab.path.read_text(encoding="utf-8")
    assert "widget-view" not in text
    outputs = [out for cell in json.loads(text)["cells"] for out in cell.get("outputs", [])]
    pictures = [out["data"] for out in outputs if "image/png" in out.get("data", {})]
    assert [sorted(data) for data in pictures] == [["image/png", "text/plain"]]
    captions = [
        out["data"] for out in outputs if out.get("data") == {"text/plain": pictures[0]["text/plain"]}
    ]
    assert len(captions) == 1


def test_no_errors_and_no_outside_requests(tab):
    assert tab.outside == []
    assert tab.errors == []
