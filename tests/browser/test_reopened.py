"""Saved, kernel shut down, opened again: the last caption and picture, and never "model not found"."""

import json

import nbformat
import pytest

from nano_batch.jupyter.browser import NotebookPage

CELLS = (
    "from nano_batch import lab\n"
    'workload = lab.Workload.synthetic(8, prompts=60, outputs=40, seed=1, arrivals="at_once")',
    "run = lab.serve(workload, memory_tokens=512)\nview = lab.block_table(run, workload)\nview",
)


@pytest.fixture(scope="module")
def path(lab):
    path = lab.folder / "reopened.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def test_a_notebook_reopened_without_a_kernel_shows_caption_and_picture(browser, lab, path):
    address = lab.address.format(path=path.name)
    tab = NotebookPage(browser, address, width=1330)
    tab.run_all(len(CELLS))
    (view,) = tab.views()
    tab.save()
    tab.menu("Kernel", "Shut Down Kernel")
    tab.page.wait_for_function("document.querySelector('#jp-main-statusbar').innerText.includes('No Kernel')")
    view.focus()
    for key in ("Home", "ArrowRight"):  # plays on without its kernel
        tab.page.keyboard.press(key)
    tab.settle(view)
    assert view.locator(".nb-step").inner_text().startswith("step 1 of")
    tab.page.close()

    saved = json.loads(path.read_text(encoding="utf-8"))["cells"][1]["outputs"]
    caption = "".join(saved[0]["data"]["text/plain"])
    assert [sorted(output["data"]) for output in saved] == [["image/png", "text/plain"], ["text/plain"]]
    again = NotebookPage(browser, address, width=1330)
    outputs = again.page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output")
    picture = outputs.nth(0).locator("img")
    assert picture.evaluate("async node => (await node.decode(), node.naturalWidth)") > 100
    assert outputs.nth(1).inner_text().strip() == caption
    text = again.page.locator(".jp-Notebook").inner_text().lower()
    assert "model not found" not in text
    assert "error displaying widget" not in text
    assert again.page.locator(".nb-view").count() == 0
    assert again.errors == []
    again.page.close()
