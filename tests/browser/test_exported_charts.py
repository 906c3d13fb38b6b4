"""A notebook of charts as a page from the disk: one control has its runs, the numbers are those of Python."""

import pytest
from test_chart_notebooks import page_table
from test_exported_pages import opened, quiet

from nano_batch import lab
from nano_batch.export import export
from nano_batch.jupyter.working_copy import notebooks_folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts")
    page, _ = export([notebooks_folder() / "06_prefix_cache.ipynb"], folder)
    return page


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_recorded_control_moves_and_the_page_shows_what_python_gives(browser, exported, theme):
    tab = opened(browser, exported, theme)
    view = tab.locator(".nb-view").first
    python = lab.hit_rates(
        lab.Workload.synthetic(
            200,
            prompts=lab.Uniform(32, 256),
            outputs=32,
            seed=1,
            rate=4,
            families=lab.Families(count=48, prefix_tokens=512, share=0.8, skew=1.0),
        )
    )
    assert page_table(view) == list(python.table().rows)
    slider = view.locator("[data-control=skew] input[type=range]")
    slider.focus()
    for key, skew in (("ArrowRight", 1.5), ("Home", 0.0)):
        tab.keyboard.press(key)
        python.skew = skew
        expected = python.table().rows[0][1]
        view.locator("details table tbody tr").first.get_by_text(expected, exact=True).first.wait_for(
            state="attached"
        )
        assert page_table(view) == list(python.table().rows)
        assert view.locator(".nb-sentence").inner_text() == " ".join(python.chart.says)
    quiet(tab, exported)
    tab.context.close()


def test_a_run_behind_a_point_needs_a_kernel_and_says_so(browser, exported):
    tab = opened(browser, exported)
    view = tab.locator(".nb-view").first
    view.focus()
    for key in ("ArrowRight", "Enter"):
        tab.keyboard.press(key)
    assert "no kernel" in view.locator(".nb-error").inner_text()
    assert view.locator(".nb-opened .nb-view").count() == 0
    quiet(tab, exported)
    tab.context.close()
