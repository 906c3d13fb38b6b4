"""`07_paged_attention_kernel` in JupyterLab: controls by keyboard, cells in their colours and words."""

import nbformat
import pytest
from notebook_runs import FOLDER, check_keys, page_table, run_in_page

from nano_batch.viz.palette import ROLES, ink_on

NAME = "07_paged_attention_kernel.ipynb"
# Its views in order: name in the notebook, the control moved, keys and the values they give.
VIEWS = (
    ("dense", "read", (("ArrowLeft", 22), ("Home", 1))),
    ("through_table", "read", (("ArrowLeft", 22), ("Home", 1))),
    ("in_parts", "read", (("ArrowLeft", 22), ("Home", 1))),
    ("plan", "workers", (("ArrowRight", 8), ("End", 16))),
    ("warps", "asked", (("ArrowLeft", 2), ("Home", 1))),
    ("speed", "block_size", (("ArrowLeft", 8), ("Home", 1))),
)
FILLS = """view => [...view.querySelectorAll("rect[data-index]")].map((node) =>
  [node.dataset.series, node.getAttribute("fill")])"""
INKS = """view => [...view.querySelectorAll("rect[data-index] + text")].map((node) =>
  [node.previousSibling.getAttribute("fill"), node.getAttribute("fill")])"""


@pytest.fixture(scope="module")
def tab(browser, lab):
    tab = run_in_page(browser, lab, NAME)
    yield tab
    tab.page.close()


@pytest.fixture(scope="module")
def python():
    names = {}
    for cell in nbformat.read(FOLDER / NAME, as_version=4).cells:
        if cell.cell_type == "code" and "lab.check" not in cell.source:
            exec(cell.source, names)
    return names


def numbers(view):
    view.locator("details").first.evaluate("node => (node.open = true)")
    return page_table(view)


@pytest.mark.parametrize("place", range(len(VIEWS)), ids=[name for name, _, _ in VIEWS])
def test_a_control_moved_by_keyboard_gives_the_table_of_python(tab, python, place):
    assert len(tab.views()) == len(VIEWS)
    view, (name, control, keys) = tab.views()[place], VIEWS[place]
    twin = python[name]
    check_keys(tab, view, twin, control, keys, numbers)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_cells_have_the_colours_of_their_workers_and_words_that_can_be_read(tab, python, theme):
    tab.theme(theme)
    view, twin = tab.views()[4], python["warps"]
    tab.settle(view)
    colours = {
        each.name: ROLES[each.colour][theme.lower()] for panel in twin.chart.panels for each in panel.series
    }
    drawn = view.evaluate(FILLS)
    assert len(drawn) == 46
    assert all(fill == colours[name] for name, fill in drawn)
    for name, colour in colours.items():
        swatch = view.locator(".nb-legend li", has_text=name).locator("svg > rect")
        assert swatch.get_attribute("fill") == colour
    inks = view.evaluate(INKS)
    assert len(inks) == 46
    assert all(ink == ink_on(fill) for fill, ink in inks)


def test_a_cell_pointed_at_says_who_reads_it(tab):
    view = tab.views()[4]
    view.locator("rect[data-index]").first.hover()
    assert "worker 0, warp 0, its 1st tile" in view.locator(".nb-tip").inner_text()
    view.focus()
    tab.page.keyboard.press("ArrowRight")
    assert (
        "its 2nd tile" in view.locator(".nb-tip").inner_text()
        or "warp 1" in view.locator(".nb-tip").inner_text()
    )
    tab.page.keyboard.press("Escape")


def test_recorded_points_name_their_source_and_stand_under_the_bound(tab, python):
    view = tab.views()[5]
    source = python["speed"]._source
    assert view.locator(".nb-source").inner_text() == source
    assert source.split(";")[0] in view.locator(".nb-panel text").first.text_content()
    words = " ".join(view.locator(".nb-panel").first.locator("text").all_text_contents())
    assert "copy bandwidth" in words
    assert "data sheet" in words


def test_no_errors_and_no_outside_requests(tab):
    assert tab.outside == []
    assert tab.errors == []
