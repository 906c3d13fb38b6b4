"""`08_paged_mistral` in JupyterLab: controls by keyboard, cells in their colours, live points kept."""

import os
from pathlib import Path

import pytest
from notebook_runs import check_keys, page_table, run_here, run_in_page

from nano_batch.viz.palette import ROLES, ink_on

pytest.importorskip("torch")

NAME = "08_paged_mistral.ipynb"
# Its views in order: name in the notebook, the control moved, keys and the values they give.
VIEWS = {
    "first": (0, "step", (("ArrowLeft", 13), ("Home", 1))),
    "looks": (1, "head", (("ArrowRight", 1), ("End", 7))),
    "both": (2, "step", (("ArrowLeft", 14), ("Home", 1))),
}
SPEED = 4
FILLS = """view => [...view.querySelectorAll("rect[data-index]")].map((node) =>
  [node.dataset.series, node.getAttribute("fill")])"""
INKS = """view => [...view.querySelectorAll("rect[data-index] + text")].map((node) =>
  [node.previousSibling.getAttribute("fill"), node.getAttribute("fill")])"""


@pytest.fixture(scope="module")
def tab(browser, lab):
    tab = run_in_page(browser, lab, NAME)
    yield tab
    if folder := os.environ.get("NANO_BATCH_SCREENSHOTS"):
        take_screenshots(tab, Path(folder))
    tab.page.close()


def take_screenshots(tab, folder):
    """The second request and the attention, as they open, in both themes."""
    for theme in ("dark", "light"):
        tab.theme(theme.capitalize())
        for name in VIEWS:
            view = tab.views()[VIEWS[name][0]]
            view.get_by_role("button", name="Reset").click()
            tab.settle(view)
            view.screenshot(path=folder / f"engine_{name}_{theme}.png")
        tab.views()[SPEED].screenshot(path=folder / f"engine_speed_{theme}.png")


@pytest.fixture(scope="module")
def python():
    return run_here(NAME, "second")


def numbers(view):
    view.locator("details").first.evaluate("node => (node.open = true)")
    return page_table(view)


@pytest.mark.parametrize("name", VIEWS)
def test_a_control_moved_by_keyboard_gives_the_table_of_python(tab, python, name):
    place, control, keys = VIEWS[name]
    view, twin = tab.views()[place], getattr(python, name)
    check_keys(tab, view, twin, control, keys, numbers)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("name", VIEWS)
def test_cells_have_the_colours_of_their_roles_and_words_that_can_be_read(tab, python, theme, name):
    tab.theme(theme)
    view, twin = tab.views()[VIEWS[name][0]], getattr(python, name)
    tab.settle(view)
    cells = [each for panel in twin.chart.panels for each in panel.series if hasattr(each, "tips")]
    colours = {each.name: ROLES[each.colour][theme.lower()] for each in cells}
    drawn = [(series, fill) for series, fill in view.evaluate(FILLS) if series in colours]
    assert len(drawn) == sum(len(each.words) for each in cells)
    # What is kept by the cache is hatched, and has no plain fill.
    assert all(fill == colours[series] for series, fill in drawn)
    inks = view.evaluate(INKS)
    assert len(inks) >= len(drawn) - sum(not word for each in cells for word in each.words)
    assert all(ink == ink_on(fill) for fill, ink in inks if fill.startswith("#"))


def test_a_token_pointed_at_says_what_it_is(tab):
    view = tab.views()[VIEWS["both"][0]]
    view.locator("rect[data-index]").first.hover()
    assert "position" in view.locator(".nb-tip").inner_text()
    assert "token" in view.locator(".nb-tip").inner_text()
    tab.page.keyboard.press("Escape")


def test_a_position_of_the_slider_is_measured_and_kept(tab):
    view = tab.views()[SPEED]
    before = {row[0] for row in numbers(view)}
    assert before == {"4", "8"}  # what the notebook's cells asked for
    slider = view.locator("[data-control=concurrency] input[type=range]")
    slider.focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.settle(view)
    assert not view.locator(".nb-error").first.is_visible()
    rows = numbers(view)
    assert {row[0] for row in rows} == {"2", "4", "8"}
    assert view.locator(".nb-source").inner_text().startswith("diamonds: live, this machine")
    kept = {row for row in rows if row[0] != "2"}
    tab.page.keyboard.press("ArrowRight")
    tab.settle(view)
    assert kept <= set(numbers(view))
    words = " ".join(view.locator(".nb-legend li").all_text_contents())
    assert "the device's limit" in words


def test_no_errors_and_no_outside_requests(tab):
    assert tab.outside == []
    assert tab.errors == []
