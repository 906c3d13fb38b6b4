"""The workload picker in the page: keyboard, path, upload; a file is refused, the last good one kept."""

import os
from pathlib import Path

import pytest

from nano_batch import Workload
from nano_batch.picker.widget import UPLOAD_BYTES

CONTRAST = """node => {
  const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (color) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const pixel = Array.from(canvas.getImageData(0, 0, 1, 1).data);
    const [red, green, blue] = pixel.map((each) => linear(each / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const paper = paint(getComputedStyle(node.closest(".nb-picker")).backgroundColor);
  const ink = paint(getComputedStyle(node).color);
  return (Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05);
}"""


@pytest.fixture
def picker(tab):
    """The picker in the quickstart's page, with its first workload."""
    widget = tab.page.locator(".nb-picker")
    widget.scroll_into_view_if_needed()
    choice(widget).select_option("azure_code")
    settled(tab)
    choice(widget).select_option("azure_conv")
    settled(tab)
    assert "Workload azure_conv: 24 requests" in understood(widget)
    return widget


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "mine.csv"
    Workload.synthetic(30, like="azure_code", seed=3).to_csv(path)
    with path.open("a", encoding="utf-8") as file:
        file.write("broken\n")
    return path


def choice(widget):
    return widget.get_by_label("Built-in workload")


def settled(tab):
    tab.page.wait_for_function("!document.querySelector('.nb-picker[data-asking]')", timeout=20_000)


def understood(widget):
    return widget.locator(".nbp-understood").inner_text()


def type_path(tab, widget, text):
    field = widget.get_by_label("Path of a trace")
    field.fill(text)
    field.press("Enter")
    settled(tab)


def upload(tab, widget, name, content):
    file = {"name": name, "mimeType": "text/csv", "buffer": content}
    widget.get_by_label("Upload a trace").set_input_files(file)
    settled(tab)


def test_what_was_understood_stands_in_the_page(tab, picker):
    choice(picker).focus()
    tab.page.keyboard.press("ArrowDown")
    picker.get_by_text("Workload azure_code: 24 requests").wait_for()
    expected = Workload.synthetic(24, like="azure_code", seed=1, arrivals="at_once")
    assert repr(expected).splitlines()[0] in understood(picker)
    for number in ("mean", "median", "p95", "p99", "total"):
        assert number in understood(picker)


def test_a_path_is_read(tab, picker, trace):
    type_path(tab, picker, str(trace))
    assert "Workload mine: 30 requests" in understood(picker)
    assert "1 lines skipped" in understood(picker)
    assert choice(picker).locator("option:checked").inner_text() == f"a file: {trace}"


def test_an_upload_is_read(tab, picker, trace):
    upload(tab, picker, "yours.csv", trace.read_bytes())
    assert "Workload yours: 30 requests" in understood(picker)
    assert choice(picker).locator("option:checked").inner_text() == "a file: yours.csv"


def test_what_is_no_trace_is_named_and_the_last_good_one_stays(tab, picker, trace):
    error = picker.get_by_role("alert")
    upload(tab, picker, "yours.csv", trace.read_bytes())
    good = understood(picker)
    bad = [
        (lambda: type_path(tab, picker, "none.csv"), "WorkloadError: none.csv cannot be opened"),
        (lambda: upload(tab, picker, "a.txt", b"once upon a time"), "TraceFormatError: a.txt begins with"),
        (lambda: upload(tab, picker, "b.csv", b"1" * (UPLOAD_BYTES + 1)), "WorkloadError: b.csv has 5.0 MB"),
    ]
    for do, message in bad:
        do()
        assert error.inner_text().startswith(message)
        assert understood(picker) == good
        assert picker.get_by_label("Path of a trace").input_value() == ""
    choice(picker).select_option("azure_code")
    settled(tab)
    assert not error.is_visible()


def test_keys_in_the_picker_do_not_reach_the_notebook(tab, picker):
    cells = tab.page.locator(".jp-Cell").count()
    for control in (choice(picker), picker.get_by_label("Upload a trace")):
        control.focus()
        for key in ("d", "d", "x"):
            tab.page.keyboard.press(key)
    tab.page.wait_for_timeout(300)
    settled(tab)
    assert tab.page.locator(".jp-Cell").count() == cells


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_texts_can_be_read_in_both_themes(tab, picker, theme):
    tab.menu("Settings", "Theme", f"JupyterLab {theme}")
    tab.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'")
    type_path(tab, picker, "none.csv")
    for part in (
        ".nbp-note",
        ".nbp-error",
        ".nbp-understood caption",
        ".nbp-understood td",
        "select",
        "label span",
    ):
        ratio = picker.locator(part).first.evaluate(CONTRAST)
        assert ratio >= 4.5, (part, ratio)
    for width in (900, 1600):
        tab.page.set_viewport_size({"width": width, "height": 1200})
        assert picker.evaluate("node => node.scrollWidth <= node.clientWidth")
        if folder := os.environ.get("NANO_BATCH_SCREENSHOTS"):
            picker.screenshot(path=Path(folder) / f"picker_{theme.lower()}_{width}.png")
    choice(picker).select_option("azure_code")
    settled(tab)


def test_the_kernel_has_the_workload_that_the_page_shows(tab, picker, trace):
    type_path(tab, picker, str(trace))
    tab.page.locator(".jp-Cell.jp-CodeCell").last.locator(".cm-content").click()
    tab.page.keyboard.press("Control+A")
    tab.page.keyboard.type("(len(picker.workload), picker.workload.name)")
    tab.page.keyboard.press("Control+Enter")
    answer = tab.page.locator(".jp-Cell.jp-CodeCell").last.locator(".jp-OutputArea-output")
    answer.get_by_text("(30, 'mine')").wait_for(timeout=10_000)


def test_nothing_failed_and_nothing_was_asked_of_the_network(tab):
    assert tab.outside == []
    assert tab.errors == []
