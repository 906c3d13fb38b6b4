"""Exported pages opened from the disk with the network blocked: live, true, honest about what they lack."""

import json
from types import SimpleNamespace

import nbformat
import pytest
from pixels import check_pixels

from nano_batch import lab
from nano_batch.export import capture, site
from nano_batch.export.execute import execute
from nano_batch.export.page import page as html_page
from nano_batch.jupyter.working_copy import notebooks_folder

SOURCE = "recorded: a test, 2026-01-01"
CELLS = (
    'from nano_batch import lab\nbatch = {"max_num_seqs": 12, "max_num_batched_tokens": 512}\n'
    "families = lab.Families(count=2, prefix_tokens=256, share=0.5)",
    "workload = lab.Workload.synthetic(\n"
    '    24, like="azure_conv", seed=1, arrivals="at_once", families=families)\n'
    "run = lab.serve(workload, memory_tokens=8192, block_size=16, **batch)\nrun",
    "def rerun(block_size, **other):\n"
    "    if block_size == 4:\n"
    '        raise lab.ViewError("no blocks of 4 today")\n'
    "    return lab.serve(workload, memory_tokens=8192, block_size=block_size, **{**batch, **other})\n"
    "view = lab.BlockTableView(run, rerun=rerun)\nview",
    "second = lab.block_table(run, workload, **batch)\nsecond",
)
RECORDED = [2, 4, 8, 16, 32, 64, 128, 256]  # of the 9 powers of two the 8 nearest to 16


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A notebook with two views of one run, executed and captured."""
    path = tmp_path_factory.mktemp("export") / "two_views.ipynb"
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Two views\n\n[next](00_quickstart.ipynb) and `code`"),
            *map(nbformat.v4.new_code_cell, CELLS),
        ]
    )
    nbformat.write(notebook, path)
    executed, views = execute(path)
    return SimpleNamespace(folder=path.parent, notebook=executed, views=views)


@pytest.fixture(scope="module")
def python():
    """The same view in this process."""
    names = {}
    for cell in CELLS:
        exec(cell, names)
    return SimpleNamespace(**names)


def opened(browser, path, theme="light", width=1300):
    """A page from the disk, with no network; its errors and what it asked for are noted."""
    context = browser.new_context(
        offline=True, color_scheme=theme, viewport={"width": width, "height": 900}, device_scale_factor=1
    )
    tab = context.new_page()
    tab.errors, tab.asked = [], []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("console", lambda line: tab.errors.append(line.text) if line.type == "error" else None)
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-live]", timeout=30_000)
    tab.wait_for_function("[...document.querySelectorAll('.nb-picture')].every(e => e.ariaLabel)")
    return tab


def quiet(tab, path):
    """No error, and nothing asked for but the page itself and modules made of its own text."""
    assert tab.errors == []
    assert tab.asked[0] == path.as_uri()
    assert all(address.startswith("blob:") for address in tab.asked[1:]), tab.asked


def settle(tab):
    tab.wait_for_function("!document.querySelector('.nb-view[data-asking]')")
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def table(view):
    rows = view.locator("details table tbody tr").all()
    return [tuple(text.strip() for text in row.locator("th, td").all_text_contents()) for row in rows]


def step(view):
    return int(view.locator(".nb-step").inner_text().split()[1])


@pytest.fixture(scope="module")
def tab(browser, exported):
    path = exported.folder / "two_views.html"
    path.write_text(html_page(exported.notebook, exported.views, SOURCE), encoding="utf-8")
    tab = opened(browser, path)
    tab.path = path
    yield tab
    quiet(tab, path)
    tab.context.close()


@pytest.fixture
def view(tab):
    view = tab.locator(".nb-view").first
    view.get_by_role("button", name="Reset").click()
    settle(tab)
    view.focus()
    return view


def test_the_page_holds_text_code_and_outputs(tab):
    assert tab.title() == "Two views"
    assert tab.locator("section.text a").get_attribute("href") == "00_quickstart.html"
    assert "lab.Families(" in tab.locator("pre.code").first.inner_text()
    assert tab.locator(".output").count() == 1
    assert tab.locator("figure img").count() == 0  # every view is live
    assert tab.locator(".nb-view").count() == 2
    assert tab.locator(".nb-source").first.inner_text() == SOURCE


def test_it_plays_steps_and_scrubs(tab, view, python):
    tab.keyboard.press("Home")
    tab.keyboard.press(" ")
    tab.wait_for_timeout(700)
    tab.keyboard.press(" ")
    assert 3 <= step(view) <= 40
    for key in ("ArrowRight", "Shift+ArrowRight", "ArrowLeft"):
        tab.keyboard.press(key)
    settle(tab)
    python.view.block_size, python.view.step = 16, step(view)
    assert table(view) == list(python.view.table().rows)
    strip = view.locator(".nb-strip")
    strip.click(position={"x": strip.bounding_box()["width"] / 2, "y": 40})
    settle(tab)
    last = python.view._run["last_step"]
    assert abs(step(view) - last / 2) < last / 20
    python.view.step = step(view)
    assert table(view) == list(python.view.table().rows)
    view.locator(".nb-blocks").hover(position={"x": 100, "y": 60})
    assert view.locator(".nb-tip").inner_text().startswith("block ")


def test_the_recorded_control_shows_what_the_kernel_gives(tab, view, python):
    slider = view.locator("[data-control=block_size] input[type=range]")
    assert slider.get_attribute("max") == str(len(RECORDED) - 1)
    slider.focus()
    # From the largest down: a refused value leaves the slider where it was, and Home leaps over it.
    for size, key in zip(RECORDED[::-1], ["End", *["ArrowLeft"] * 6, "Home"], strict=True):
        tab.keyboard.press(key)
        settle(tab)
        alert, line = view.get_by_role("alert"), view.locator(".nb-settings").inner_text()
        if size == 4:
            assert alert.inner_text() == "ViewError: no blocks of 4 today"
            assert "blocks of 8 tokens" in line
            continue
        assert not alert.is_visible()
        python.view.block_size, python.view.step = size, step(view)
        assert table(view) == list(python.view.table().rows), size
        assert f"{8192 // size:,} blocks of {size} tokens" in line


def test_other_controls_are_disabled_and_say_why(tab, python):
    first, second = tab.locator(".nb-view").all()
    steered = first.locator("[data-control=block_size] input").all()
    assert steered
    assert all(part.is_enabled() for part in steered)
    names = [control["name"] for control in python.second._controls]
    for view, free in ((first, "block_size"), (second, None)):
        for name in names:
            for part in view.locator(f"[data-control={name}]").locator("input, select, button").all():
                assert part.is_disabled() == (name != free), name
                assert name == free or "no kernel" in part.get_attribute("title")
        assert "one control a page has its runs" in view.locator(".nb-fixed").inner_text()
        assert view.get_by_role("button", name="Pin").is_disabled()
        assert not view.get_by_role("button", name="Copy as code").is_visible()


def test_a_request_is_selected_and_its_blocks_light_up(tab, view):
    before = view.locator(".nb-blocks").evaluate("node => node.toDataURL()")
    view.locator(".nb-blocks").click(position={"x": 100, "y": 60})
    settle(tab)
    assert view.locator(".nb-blocks").evaluate("node => node.toDataURL()") != before
    tab.keyboard.press("Escape")
    settle(tab)


def test_views_of_one_run_share_the_step(tab, view):
    second = tab.locator(".nb-view").nth(1)
    for key in ("Home", "End"):
        tab.keyboard.press(key)
        tab.wait_for_function(
            "new Set([...document.querySelectorAll('.nb-step')].map(node => node.innerText)).size === 1"
        )
        assert step(second) == step(view)


def test_views_of_one_run_share_what_is_selected(tab, view, python):
    second = tab.locator(".nb-view").nth(1)
    python.view.block_size, python.view.step = 16, step(view)
    name = next(row[1] for row in python.view.queues().rows if row[0] == "running")
    chip = f"[data-request={name}]"
    view.locator(chip).click()
    settle(tab)
    for each in (view, second):
        assert each.locator(chip).get_attribute("data-light") == "lit"
        assert each.locator(".nb-logical > div").text_content().startswith(f"A {name}: ")
    second.focus()
    tab.keyboard.press("Escape")
    settle(tab)
    for each in (view, second):
        assert each.locator(chip).get_attribute("data-light") == ""
        assert each.locator(".nb-logical > div").count() == 0


def test_a_difference_is_against_the_run_at_the_default(tab, view, python):
    python.view.block_size, python.view.pinned = 16, True
    slider = view.locator("[data-control=block_size] input[type=range]")
    slider.focus()
    for size in (32, 64):
        tab.keyboard.press("ArrowRight")
        settle(tab)
        python.view.block_size = size
        assert view.locator(".nb-difference").inner_text() == python.view._difference != ""
    python.view.pinned = False
    python.view.block_size = 16


def test_what_was_not_recorded_is_refused_by_name(tab, exported, python):
    model = (site.Path(site.__file__).parent / "static" / "model.js").read_text(encoding="utf-8")
    number = next(iter(exported.views))
    answer = tab.evaluate(
        """async ([text, view]) => {
          const module = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
          const model = new module.Model(await module.unpack(view.state), view.steering);
          const done = new Promise((done) => model.on("change:_answers", done));
          model.set("block_size", 5);
          model.save_changes();
          await done;
          return [model.get("block_size"), model.get("error")];
        }""",
        [model, exported.views[number]],
    )
    assert answer[0] == 16
    assert "Block size was recorded at 2, 4, 8, 16, 32, 64, 128, 256" in answer[1]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pixels_in_both_themes(tab, view, python, theme):
    tab.emulate_media(color_scheme=theme)
    tab.wait_for_function(f"document.querySelector('.nb-view').dataset.theme === '{theme}'")
    settle(tab)
    python.view.block_size, python.view.step = 16, step(view)
    check_pixels(view, python.view.frame(), theme)


def test_two_swapped_colours_fail_the_pixel_test(browser, exported, python):
    views = json.loads(json.dumps(exported.views))
    number = next(iter(views))
    python.view.block_size, python.view.step = 16, python.view._run["opening_step"]
    state = capture.state(python.view)
    one, two, *rest = (dict(each) for each in state["_states"])
    for theme in ("light", "dark"):
        one[theme], two[theme] = two[theme], one[theme]
    views[number]["state"] = capture.pack({**state, "_states": [one, two, *rest]})
    path = exported.folder / "swapped.html"
    path.write_text(html_page(exported.notebook, views, SOURCE), encoding="utf-8")
    tab = opened(browser, path)
    with pytest.raises(AssertionError):
        check_pixels(tab.locator(".nb-view").first, python.view.frame(), "light")
    check_pixels(tab.locator(".nb-view").nth(1), python.view.frame(), "light")
    tab.context.close()


@pytest.mark.parametrize("width", [900, 2000])
def test_no_horizontal_scroll(tab, width):
    tab.set_viewport_size({"width": width, "height": 900})
    settle(tab)
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_plotly_figures_are_drawn_without_a_network(browser, tmp_path):
    cells = (
        "import plotly.graph_objects as go",
        'go.Figure(go.Bar(x=["a", "<b>"], y=[1, 3]))',
        "go.Figure(go.Scatter(y=[2, 1]))",
    )
    path = tmp_path / "figures.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)]), path)
    notebook, views = execute(path)
    page = tmp_path / "figures.html"
    page.write_text(html_page(notebook, views, SOURCE), encoding="utf-8")
    assert page.read_text(encoding="utf-8").count("Plotly.newPlot(node") == 1
    tab = opened(browser, page)
    figures = tab.locator(".nb-plotly")
    assert figures.count() == 2
    figures.nth(0).locator(".bars .point").nth(1).wait_for()
    figures.nth(1).locator(".scatterlayer .js-line").wait_for()
    assert figures.nth(0).evaluate("node => node.data[0].x") == ["a", "<b>"]
    quiet(tab, page)
    tab.context.close()


def test_scenes_of_the_page_s_run_work_without_a_kernel(browser, tmp_path):
    cells = ("from nano_batch import lab", "view = lab.opening(scene=3)\nview")
    path = tmp_path / "scenes.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)]), path)
    notebook, views = execute(path)
    page = tmp_path / "scenes.html"
    page.write_text(html_page(notebook, views, SOURCE), encoding="utf-8")
    tab = opened(browser, page)
    view, python = tab.locator(".nb-view"), lab.opening(scene=3)
    slider = view.locator("[data-control=block_size] input[type=range]")
    for number in (1, 4, 2, 3):
        slider.focus()
        tab.keyboard.press("ArrowRight")  # another run: a scene goes back to its own
        settle(tab)
        assert "blocks of 32 tokens" in view.locator(".nb-settings").inner_text()
        view.locator(f"[data-scene='{number}']").click()
        settle(tab)
        python.scene = number
        assert "blocks of 16 tokens" in view.locator(".nb-settings").inner_text()
        assert step(view) == python.step
        assert table(view) == list(python.table().rows)
        assert view.locator(".nb-sentence").inner_text() == python._sentence
        pressed = [
            each.get_attribute("data-scene") for each in view.locator("[aria-pressed=true][data-scene]").all()
        ]
        assert pressed == [str(number)]
    for number in (5, 6):
        button = view.locator(f"[data-scene='{number}']")
        assert button.is_disabled()
        assert "another run, which this page does not hold" in button.get_attribute("title")
    quiet(tab, page)
    tab.context.close()


def test_every_committed_notebook_becomes_a_quiet_live_page(browser, tmp_path):
    paths = sorted(notebooks_folder().glob("*.ipynb"))
    pages = site.export(paths, tmp_path / "site")
    assert [page.name for page in pages] == [*(f"{path.stem}.html" for path in paths), "index.html"]
    for page in pages[:-1]:
        tab = opened(browser, page)
        assert tab.locator(".nb-view").count() >= 1
        assert tab.locator("figure[data-view] img").count() == 0
        quiet(tab, page)
        assert page.stat().st_size < 20e6
        tab.context.close()
    index = pages[-1].read_text(encoding="utf-8")
    assert all(f'href="{page.name}"' in index for page in pages[:-1])
