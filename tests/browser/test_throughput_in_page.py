"""04_throughput_vs_concurrency in JupyterLab: the page shows what its cells print and follows controls."""

import pytest
from notebook_runs import page_table, run_here, run_in_page

NOTEBOOK = "04_throughput_vs_concurrency.ipynb"


@pytest.fixture(scope="module")
def tab(browser, lab):
    tab = run_in_page(browser, lab, NOTEBOOK)
    yield tab
    tab.page.close()


@pytest.fixture(scope="module")
def python():
    """The notebook's own names once all of it has run."""
    return run_here(NOTEBOOK)


def test_the_page_shows_what_the_cells_print(tab, python):
    for node, view in zip(tab.views()[:3], (python.view, python.trade, python.rates), strict=True):
        tab.settle(node)
        assert page_table(node) == list(view.table().rows)


def test_a_control_moved_by_keyboard_gives_the_curves_of_python(tab, python):
    view = tab.views()[0]
    for name, key in (
        ("max_num_seqs", "ArrowLeft"),
        ("memory_tokens", "ArrowRight"),
        ("max_num_seqs", "Home"),
    ):
        slider = view.locator(f"[data-control={name}] input[type=range]")
        slider.focus()
        tab.page.keyboard.press(key)
        tab.settle(view)
        values = next(each["values"] for each in python.view._controls if each["name"] == name)
        now = getattr(python.view, name)
        at = 0 if key == "Home" else values.index(now) + (1 if key == "ArrowRight" else -1)
        setattr(python.view, name, values[at])
        assert page_table(view) == list(python.view.table().rows), (name, key)
        assert python.view.chart.settings in view.locator(".nb-settings").inner_text()


def test_the_line_of_an_objective_can_be_dragged(tab, python):
    view = tab.views()[0]
    grip = view.locator("[data-sets=ttft_ms]")
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    x, y = box["x"] + box["width"] / 3, box["y"] + box["height"] / 2
    mouse = tab.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x, y - 30, steps=4)
    mouse.up()
    tab.settle(view)
    typed = int(view.locator("[data-control=ttft_ms] .nb-typed").input_value())
    assert typed > python.view.ttft_ms
    python.view.ttft_ms = typed
    assert view.locator("[data-rule^=objective] text").first.text_content() == f"objective {typed:,} ms"


def test_no_errors_and_no_outside_requests(tab):
    assert tab.outside == []
    assert tab.errors == []
