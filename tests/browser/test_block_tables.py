"""01_block_tables in JupyterLab: the view shows what its cells print, and what Python gives when it moves."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from nano_batch.jupyter.browser import NotebookPage, code_cells

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_block_tables.ipynb"


@pytest.fixture(scope="module")
def tab(browser, lab):
    path = lab.folder / NOTEBOOK.name
    path.write_bytes(NOTEBOOK.read_bytes())
    tab = NotebookPage(browser, lab.address.format(path=path.name), width=1330)
    tab.run_all(code_cells(path))
    yield tab
    tab.page.close()


@pytest.fixture(scope="module")
def python():
    """The notebook's own names up to the table printed last."""
    names = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            if cell.id == "preempt-table":
                return SimpleNamespace(**names)
    raise AssertionError("01_block_tables prints no table of the step of the preemption")


def page_table(view):
    rows = view.locator("details table tbody tr").all()
    return [tuple(row.locator("th, td").all_text_contents()) for row in rows]


def test_the_page_shows_the_table_that_the_cell_prints(tab, python):
    view = tab.views()[0]
    tab.settle(view)
    assert page_table(view) == list(python.view.table().rows)
    printed = str(python.view.table())
    lines = [line.rstrip() for line in tab.page.locator(".jp-Notebook").inner_text().splitlines()]
    assert all(line.rstrip() in lines for line in printed.splitlines())


def test_a_control_moved_by_keyboard_gives_the_table_of_python(tab, python):
    view = tab.views()[0]
    slider = view.locator("[data-control=block_size] input[type=range]")
    for key, size in (("ArrowRight", 8), ("ArrowRight", 16), ("Home", 1)):
        slider.focus()
        tab.page.keyboard.press(key)
        tab.settle(view)
        python.view.block_size = size
        assert page_table(view) == list(python.view.table().rows), size
        assert f"blocks of {size} tokens" in view.locator(".nb-settings").inner_text()


def test_no_errors_and_no_outside_requests(tab):
    assert tab.outside == []
    assert tab.errors == []
