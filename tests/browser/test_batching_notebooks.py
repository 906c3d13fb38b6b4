"""03 and 05 in JupyterLab: sliders by keyboard, the changed data read back; 03 without a kernel."""

import pytest
from notebook_runs import FOLDER, run_in_page

from nano_batch import lab as laboratory
from nano_batch.export import export


@pytest.fixture(scope="module")
def batching(browser, lab):
    tab = run_in_page(browser, lab, "03_continuous_batching.ipynb")
    yield tab
    assert tab.errors == []
    assert tab.outside == []


@pytest.fixture(scope="module")
def policies(browser, lab):
    tab = run_in_page(browser, lab, "05_policies_and_preemption.ipynb")
    yield tab
    assert tab.errors == []
    assert tab.outside == []


def rows(view, place=0):
    table = view.locator("details table").nth(place)
    return [tuple(row.locator("th, td").all_text_contents()) for row in table.locator("tbody tr").all()]


def moved(tab, view, control, key="ArrowRight"):
    """The control's value after a key on its slider."""
    view.evaluate("node => node.querySelectorAll('details').forEach(each => (each.open = true))")
    slider = view.locator(f"[data-control={control}] input[type=range]")
    slider.focus()
    tab.page.keyboard.press(key)
    tab.settle(view)
    return view.locator(f"[data-control={control}] .nb-typed").input_value()


def test_the_gantt_serves_all_schemes_again(batching):
    view, *_ = batching.views()
    mix = laboratory.Mix(requests=32, seed=1, rate=16.0, prompt_tokens=600, output_tokens=100)
    python = laboratory.gantt(mix, max_num_seqs=8, max_num_batched_tokens=512)
    assert moved(batching, view, "max_num_seqs") == "16"
    python.max_num_seqs = 16
    assert rows(view) == list(python.table().rows)
    assert moved(batching, view, "output_spread", "ArrowLeft") == "0.75"
    python.output_spread = 0.75
    assert rows(view) == list(python.table().rows)
    view.get_by_role("button", name="Reset").click()
    batching.settle(view)
    assert rows(view) != list(python.table().rows)


def test_the_gain_follows_its_slider(batching):
    view = batching.views()[1]
    python = laboratory.gain(
        laboratory.Mix(requests=64, prompt_tokens=600, output_tokens=100), max_num_seqs=8
    )
    python.max_num_seqs = 16  # the cell after it left it there
    typed = int(moved(batching, view, "max_num_seqs"))
    assert typed == 32
    python.max_num_seqs = typed
    assert rows(view) == list(python.table().rows)


def test_the_budget_follows_its_slider(policies):
    views = policies.views()
    view = next(each for each in views if "What the step budget trades" in each.inner_text())
    python = laboratory.budget(laboratory.Mix(requests=200, rate=16.0, prompt_tokens=1000, output_tokens=150))
    rate = float(moved(policies, view, "rate"))
    assert rate == 16.0  # from 8, where the cell after it left it
    python.rate = rate
    assert rows(view) == list(python.table().rows)


def test_keys_of_the_gantt_leave_the_cells_alone(batching):
    view, *_ = batching.views()
    cells = batching.page.locator(".jp-Cell").count()
    view.focus()
    for key in ("d", "d", "x", "Space", "Space", "j", "s", "+", "0", "Escape"):
        batching.page.keyboard.press(key)
    batching.settle(view)
    assert batching.page.locator(".jp-Cell").count() == cells
    assert view.locator("details table").first.is_visible()


FITS = "node => node.scrollWidth <= node.clientWidth + 1"


@pytest.mark.parametrize("theme", ["Dark", "Light"])
@pytest.mark.parametrize("width", [900, 1600])
def test_no_horizontal_scroll_in_either_theme(batching, theme, width):
    batching.page.set_viewport_size({"width": width, "height": 1200})
    batching.theme(theme)
    views = batching.views()
    for view in views:
        batching.settle(view)
        # A new width is drawn a frame or more later: what counts is what it comes to.
        batching.page.wait_for_function(FITS, arg=view.element_handle(), timeout=5000)


WIDE_FOR_A_FRAME = """node => new Promise(done => {
    const narrow = node.clientWidth, {dataset} = document.body;
    requestAnimationFrame(() => (node.style.width = `${narrow + 100}px`));
    dataset.jpThemeLight = dataset.jpThemeLight === "true" ? "false" : "true"; // the view asks for a frame
    Promise.resolve().then(() => Promise.resolve()).then(() =>
        requestAnimationFrame(() => {
            const wider = node.clientWidth - narrow;
            node.style.width = "";
            requestAnimationFrame(() => requestAnimationFrame(() => done(wider)));
        }));
})"""


def test_a_width_of_one_frame_is_not_kept(batching):
    """As in a switch of JupyterLab's theme, which takes its column of prompts away for a moment."""
    view, *_ = batching.views()
    batching.settle(view)
    light = batching.page.evaluate("document.body.dataset.jpThemeLight")
    try:
        assert view.evaluate(WIDE_FOR_A_FRAME) > 50  # so much wider, when it was drawn
        batching.page.wait_for_function(FITS, arg=view.element_handle(), timeout=2000)
    finally:
        batching.page.evaluate(f"document.body.dataset.jpThemeLight = '{light}'")


def test_a_page_without_a_kernel_moves_one_control_and_plays(browser, tmp_path):
    export([FOLDER / "03_continuous_batching.ipynb"], tmp_path)
    page = tmp_path / "03_continuous_batching.html"
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1200})
    tab = context.new_page()
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-live]", timeout=60_000)
    view = tab.locator(".nb-gantt").first
    view.locator(".nb-picture[aria-label]").wait_for()
    view.evaluate("node => node.querySelectorAll('details').forEach(each => (each.open = true))")
    mix = laboratory.Mix(requests=32, seed=1, rate=16.0, prompt_tokens=600, output_tokens=100)
    python = laboratory.gantt(mix, max_num_seqs=8, max_num_batched_tokens=512)
    assert rows(view) == list(python.table().rows)
    view.locator("[data-control=max_num_seqs] input[type=range]").focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("!document.querySelector('.nb-view[data-asking]')")
    tab.wait_for_timeout(300)
    python.max_num_seqs = 16
    assert rows(view) == list(python.table().rows)
    assert view.locator("[data-control=rate] input[type=range]").is_disabled()
    view.focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("j")
    tab.wait_for_timeout(200)
    assert "step 1 of" in view.locator(".nb-step").inner_text()
    assert view.locator(".nb-delays li").count() == 4
    assert errors == []
    context.close()
