"""The block table's controls, scenes, downloads and cells, in a plain page joined to Python."""

import pytest

from nano_batch import lab


def test_a_typed_value_is_refused_by_name_and_more_lies_in_a_drawer(table):
    view = table.view
    typed = table.node.locator("[data-control=block_size] .nb-typed")
    before = view.table()
    typed.fill("0")
    typed.press("Enter")
    table.settle()
    error = table.node.get_by_role("alert")
    assert error.inner_text().startswith("InvalidArgumentError: block_size is 0")
    assert typed.input_value() == "16"
    assert view.table() == before
    typed.fill("12x")
    typed.press("Enter")
    assert "block_size is '12x'; it must be a whole number" in error.inner_text()
    shown = [node for node in table.node.locator(".nb-control").all() if node.is_visible()]
    assert len(shown) == 4
    table.node.get_by_role("button", name="More (4)").click()
    eviction = table.node.locator("[data-control=eviction] select")
    eviction.select_option("fifo")
    table.settle()
    assert view.eviction == "fifo"
    assert not error.is_visible()
    table.node.get_by_role("button", name="Reset").click()
    table.settle()
    assert view.eviction == "lru"


def test_of_many_settings_only_the_newest_is_computed(table):
    view, asked = table.view, []
    rerun = view._rerun
    view._rerun = lambda **settings: asked.append(settings["max_num_seqs"]) or rerun(**settings)
    table.node.locator("[data-control=max_num_seqs] input[type=range]").evaluate(
        "node => { for (const at of [7, 6, 5, 4, 3, 2, 1, 0])"
        " { node.value = at; node.dispatchEvent(new Event('input')); } }"
    )
    table.settle()
    table.settle()
    assert asked == [128, 1]
    assert view.max_num_seqs == 1


def test_the_setting_before_stays_in_words_and_as_a_line(table):
    view, strip = table.view, table.node.locator(".nb-strip")
    plain = strip.screenshot()
    slider = table.node.locator("[data-control=block_size] input[type=range]")
    slider.focus()
    table.page.keyboard.press("ArrowLeft")
    table.settle()
    assert table.node.locator(".nb-difference").inner_text() == view.difference() != ""
    with_line = strip.screenshot()
    table.node.get_by_role("button", name="Pin").click()
    table.settle()
    slider.focus()
    table.page.keyboard.press("ArrowLeft")
    table.settle()
    assert view.block_size == 4
    assert "against the pinned run (block_size 8)" in table.node.locator(".nb-difference").inner_text()
    table.node.get_by_role("button", name="Pin").click()
    table.settle()
    assert table.node.locator(".nb-difference").inner_text() == ""
    assert with_line not in (plain, strip.screenshot())


def test_scene_buttons_move_the_page(table):
    view = table.view
    for number in (1, 2, 3, 5):
        table.node.locator(f"[data-scene='{number}']").click()
        table.settle()
        assert view.scene == number
        assert table.node.locator(".nb-sentence").inner_text() == view._sentence
        assert table.node.locator(".nb-step").inner_text() == f"step {view.step} of {view._usage.steps}"
    assert "4,096 blocks" in table.node.locator(".nb-settings").inner_text()
    assert int(table.node.locator(".nb-blocks").get_attribute("data-cell")) in range(6, 24)


def test_downloads_and_code(table):
    view = table.view
    menu = table.node.get_by_label("Download")
    for form, begin in (
        ("csv", b"state,blocks"),
        ("png", b"\x89PNG"),
        ("svg", b"<svg"),
        ("html", b"<!doctype html>"),
    ):
        with table.page.expect_download() as caught:
            menu.select_option(form)
        name = caught.value.suggested_filename
        assert name == f"blocks_step_{view.step}.{form}"
        with open(caught.value.path(), "rb") as file:
            data = file.read()
        assert data.startswith(begin)
        if form == "csv":
            assert data.decode() == view.table().to_csv()
    assert table.node.get_by_role("button", name="Copy as code").get_attribute("data-code") == view.code()


@pytest.mark.parametrize(
    ("blocks", "cell", "per"), [(16, 50, 1), (4096, 6, 1), (65_536, 3, 1), (200_000, 3, 4)]
)
def test_cells_by_number_of_blocks(opened, blocks, cell, per):
    engine = lab.Engine(blocks, 16, event_log=True)
    engine.add_request("a", num_prompt_tokens=100, max_tokens=5)
    while engine.has_unfinished:
        engine.update(dict.fromkeys(engine.step().sampled_requests, 0))
    table = opened(lab.BlockTableView(engine), scale=2)
    canvas = table.node.locator(".nb-blocks")
    assert int(canvas.get_attribute("data-cell")) == cell
    assert int(canvas.get_attribute("data-per")) == per
    assert canvas.evaluate("node => node.width / node.clientWidth") == pytest.approx(2, abs=0.01)
    said = table.node.locator(".nb-now").inner_text()
    assert ("one mark stands for 4 blocks" in said) == (per == 4)
    if cell < 6:
        canvas.hover(position={"x": 100, "y": 100})
        assert table.node.locator(".nb-lens").is_visible() == (per == 1)
