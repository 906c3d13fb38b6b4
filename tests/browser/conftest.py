"""The quickstart in JupyterLab in headless Chromium, and the same run in this process to compare with."""

import os
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from plain_page import PlainPage

from nano_batch import lab as laboratory
from nano_batch.jupyter.browser import NotebookPage, chromium, code_cells, find_chromium
from nano_batch.jupyter.server import private_lab

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_quickstart.ipynb"
REFUSED = "try:\n    view.block_size = 0\nexcept lab.ViewError:\n    pass"


@pytest.fixture(scope="session")
def browser():
    if find_chromium() is None:
        message = "no Chromium found: install one, or name it in the environment variable CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """One JupyterLab for all tests: its `folder`, and its `address` with `{path}` left to fill."""
    folder = tmp_path_factory.mktemp("lab")
    with private_lab(folder) as address:
        yield SimpleNamespace(folder=folder, address=address)


@pytest.fixture(scope="session")
def tab(browser, lab):
    """The quickstart, run, with one more cell: its last act is a setting that is refused."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(REFUSED))
    path = lab.folder / NOTEBOOK.name
    nbformat.write(notebook, path)
    tab = NotebookPage(browser, lab.address.format(path=path.name), width=1330)
    tab.run_all(code_cells(path))
    tab.path = path
    yield tab
    if "NANO_BATCH_SCREENSHOTS" in os.environ:
        take_screenshots(tab, Path(os.environ["NANO_BATCH_SCREENSHOTS"]))


def take_screenshots(tab, folder):
    """The view as it opens, in both themes and two widths: the pictures of the README."""
    (view,) = tab.views()
    view.get_by_role("button", name="Reset").click()
    view.focus()
    tab.page.keyboard.press("Escape")  # what tests selected
    view.evaluate("node => node.querySelector('details').open = false")
    for width in (900, 1600):
        for theme in ("dark", "light"):
            tab.page.set_viewport_size({"width": width, "height": 2000})
            tab.menu("Settings", "Theme", f"JupyterLab {theme.capitalize()}")
            tab.page.wait_for_function(f"document.querySelector('.nb-view').dataset.theme === '{theme}'")
            tab.settle(view)
            view.screenshot(path=folder / f"block_table_{theme}_{width}.png")


@pytest.fixture
def view(tab):
    """The view in the page: its default state, its numbers shown, the focus on it."""
    (view,) = tab.views()
    view.evaluate("node => node.querySelector('details').open = true")
    view.get_by_role("button", name="Reset").click()
    tab.settle(view)
    view.focus()
    return view


@pytest.fixture(scope="session")
def kernel():
    """What the notebook's cells make, made in this process up to the view."""
    names = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            if "view" in names:
                return SimpleNamespace(**names)
    raise AssertionError("the quickstart makes no view")


@pytest.fixture
def opened(browser):
    """Opens views in plain pages; closes them, and finds no error in any."""
    pages = []

    def show(view, **options):
        pages.append(PlainPage(browser, view, **options))
        return pages[-1]

    yield show
    for page in pages:
        errors = page.errors
        page.close()
        assert errors == []


@pytest.fixture
def table(opened):
    return opened(laboratory.opening(scene=4))
