"""A committed notebook, run in JupyterLab; and the names that its cells make, made in this process."""

from pathlib import Path
from types import SimpleNamespace

import nbformat

from nano_batch.jupyter.browser import NotebookPage, code_cells

FOLDER = Path(__file__).parents[2] / "notebooks"


def run_in_page(browser, lab, name):
    """A tab with a copy of the notebook, all of it run."""
    path = lab.folder / name
    path.write_bytes((FOLDER / name).read_bytes())
    tab = NotebookPage(browser, lab.address.format(path=name), width=1330)
    tab.run_all(code_cells(path))
    return tab


def run_here(name, last=None):
    """What the code cells up to the one with the id `last`, else all, leave behind."""
    names = {}
    for cell in nbformat.read(FOLDER / name, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            if cell.id == last:
                return SimpleNamespace(**names)
    assert last is None, f"{name} has no cell {last}"
    return SimpleNamespace(**names)


def page_table(view):
    """The rows of the numbers under a view."""
    rows = view.locator("details table tbody tr").all()
    return [tuple(row.locator("th, td").all_text_contents()) for row in rows]


def check_keys(tab, view, twin, control, keys, numbers):
    """Move a slider by `keys`, (key, value) each: the page shows what its twin here does, and goes home.

    `numbers` reads the page's table as the rows of the twin's.
    """
    view.get_by_role("button", name="Reset").click()
    tab.settle(view)
    setattr(twin, control, twin._homes[control])
    assert numbers(view) == list(twin.table().rows)
    slider = view.locator(f"[data-control={control}] input[type=range]")
    for key, value in keys:
        slider.focus()
        tab.page.keyboard.press(key)
        tab.settle(view)
        setattr(twin, control, value)
        assert not view.locator(".nb-error").first.is_visible()
        assert numbers(view) == list(twin.table().rows), value
        assert view.locator(".nb-sentence").inner_text() == " ".join(twin.chart.says)
    setattr(twin, control, twin._homes[control])
    view.get_by_role("button", name="Reset").click()
    tab.settle(view)
