"""01_block_tables in JupyterLab: the view shows what its cells print, and what Python gives when it moves."""

import pytest
from notebook_runs import page_table, run_here, run_in_page

NOTEBOOK = "01_block_tables.ipynb"


@pytest.fixture(scope="module")
def tab(browser, lab):
    tab = run_in_page(browser, lab, NOTEBOOK)
    yield tab
    tab.page.close()


@pytest.fixture(scope="module")
def python():
    """The notebook's own names up to the table printed last."""
    return run_here(NOTEBOOK, last="preempt-table")


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
