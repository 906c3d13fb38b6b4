"""Notebooks of charts in JupyterLab: the page shows what Python gives, by keyboard, and opens runs."""

from types import SimpleNamespace

import nbformat
import pytest
from notebook_runs import FOLDER, run_in_page

# Of each notebook its views in order: name in the notebook, the control moved, keys and the values they give.
VIEWS = {
    "02_fragmentation": (
        ("gpu", "fraction", (("ArrowLeft", 0.8), ("Home", 0.5))),
        ("split", "max_num_seqs", (("ArrowLeft", 128), ("Home", 1))),
        ("over_time", "block_size", (("ArrowRight", 32), ("End", 512))),
        ("holes", "max_model_len", (("ArrowRight", 16384), ("ArrowRight", 32768))),
        ("sizes", "max_num_seqs", (("ArrowLeft", 128), ("Home", 1))),
    ),
    "06_prefix_cache": (
        ("rates", "skew", (("ArrowRight", 1.5), ("Home", 0.0))),
        ("sizes", "prefix_tokens", (("ArrowLeft", 112), ("End", 496))),
    ),
}
RUNS = {"02_fragmentation": (2, "paging"), "06_prefix_cache": (1, "found")}


@pytest.fixture(scope="module", params=sorted(VIEWS))
def shown(request, browser, lab):
    """The notebook, run in JupyterLab and, up to its exercises, in this process."""
    path = FOLDER / f"{request.param}.ipynb"
    tab = run_in_page(browser, lab, path.name)
    names = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "lab.check" not in cell.source:
            exec(cell.source, names)
    yield SimpleNamespace(name=request.param, tab=tab, python=names)
    tab.page.close()


def page_table(view):
    view.locator("details").first.evaluate("node => (node.open = true)")
    rows = view.locator("details").first.locator("table tbody tr").all()
    return [tuple(row.locator("th, td").all_text_contents()) for row in rows]


def test_every_view_is_moved_by_keyboard_and_shows_the_table_of_python(shown):
    views = shown.tab.views()
    assert len(views) == len(VIEWS[shown.name])
    for view, (name, control, keys) in zip(views, VIEWS[shown.name], strict=True):
        python = shown.python[name]
        view.get_by_role("button", name="Reset").click()
        shown.tab.settle(view)
        assert page_table(view) == list(python.table().rows), name
        slider = view.locator(f"[data-control={control}] input[type=range]")
        for key, value in keys:
            slider.focus()
            shown.tab.page.keyboard.press(key)
            shown.tab.settle(view)
            setattr(python, control, value)
            assert not view.locator(".nb-error").first.is_visible()
            assert page_table(view) == list(python.table().rows), (name, value)
            assert view.locator(".nb-sentence").inner_text() == " ".join(python.chart.says)
        setattr(python, control, python._homes[control])


def test_a_point_opens_its_run_below_and_no_cell_is_lost(shown):
    place, panel = RUNS[shown.name]
    view, cells = shown.tab.views()[place], shown.tab.page.locator(".jp-Cell").count()
    view.get_by_role("button", name="Reset").click()
    shown.tab.settle(view)
    titles = [node.get_attribute("data-panel") for node in view.locator(".nb-panel").all()]
    view.focus()
    for key in ["ArrowRight", *["]"] * titles.index(panel), "ArrowRight", "Enter"]:
        shown.tab.page.keyboard.press(key)
    inner = view.locator(".nb-opened .nb-view")
    inner.locator(".nb-blocks[aria-label]").wait_for()
    assert "blocks of" in inner.locator(".nb-settings").inner_text()
    view.focus()
    for key in ("d", "d", "x", "Escape", "Escape"):
        shown.tab.page.keyboard.press(key)
    inner.wait_for(state="detached")
    assert shown.tab.page.locator(".jp-Cell").count() == cells


def test_no_errors_and_no_outside_requests(shown):
    assert shown.tab.outside == []
    assert shown.tab.errors == []
