"""How fast the views are: a notebook of them in JupyterLab in headless Chromium, measured in the page.

`key_to_redraw`: a key on the block-size slider until the picture is drawn anew, the schedule rerun in the
kernel in between (24 requests, 512 blocks at the start). `chart_key_to_redraw`: the same on the chart of four
allocators over time, each of which serves 200 requests anew. `load_key_to_redraw`: a key on the sequences or
the memory of one of two configurations over concurrency, never at a setting met before, so that each point
that the setting can change is simulated. `gantt_key_to_redraw`: a key on the batch slots of the Gantt that
opens 03_continuous_batching, each of whose four schemes serves the requests anew. `play`: pictures a second.
`first_picture`: from the start of opening (a saved notebook in JupyterLab, its load included; an exported
page) until a view's picture stands; for a live view from the key that runs its cell. What JupyterLab alone
takes is measured by turns with it, on a notebook with one pixel for a picture. `nano-batch bench views` also
writes the figures to `data/measured/views.json` and a picture of each view in each theme beside it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nano_batch.benchmarks.report import Row, report
from nano_batch.export import export
from nano_batch.jupyter import measure
from nano_batch.jupyter.browser import NotebookPage, chromium
from nano_batch.jupyter.server import private_lab
from nano_batch.jupyter.working_copy import notebooks_folder

MEASURED = Path(__file__).parents[2] / "data" / "measured"
NAME, BARE, QUICKSTART = "views.ipynb", "bare.ipynb", "00_quickstart.ipynb"
STILL, LIVE = ".jp-OutputArea-output img", ".nb-picture[aria-label]"
PRESSES, SECONDS, OPENINGS = 100, 5.0, 5
REDRAW_MS, FRAMES, FIRST_S = 100, 30, 3
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
# Blocks of 16 tokens and requests enough for some hundred steps on them.
SIZES = {
    16: ("60, prompts=40, outputs=60", 8, 64),
    512: ('24, like="azure_conv", families=lab.Families(count=2, prefix_tokens=256, share=0.5)', 12, 512),
    4096: ('96, like="azure_conv"', 128, 2048),
    65536: ('900, like="azure_conv"', 1024, 8192),
}
CHART = (
    'workload = lab.Workload.synthetic(200, like="azure_conv", seed=1, arrivals="at_once")\n'
    "lab.allocators(workload, memory_tokens=32_768)"
)
LOAD = "lab.saturation()"
GANTT = (
    "mix = lab.Mix(requests=32, seed=1, rate=16.0, prompt_tokens=600, output_tokens=100)\n"
    "lab.gantt(mix, max_num_seqs=8, max_num_batched_tokens=512)"
)
# 32 sequences is the fifth of eight places, 32,768 tokens the third of eight.
UNSEEN = measure.row_by_row("max_num_seqs", before=4, places=8, up="memory_tokens", rows=5)
CELLS = len(SIZES) + 4


def run() -> dict[str, Any]:
    """Measure everything, write it down, and return it."""
    with opened() as tab:
        rows = measured(tab, PRESSES, SECONDS, OPENINGS)
        result = {**report("views", rows), "versions": versions(tab)}
        MEASURED.mkdir(parents=True, exist_ok=True)
        take_pictures(tab, MEASURED)
    text = json.dumps(result, indent=1) + "\n"
    (MEASURED / "views.json").write_text(text, encoding="utf-8", newline="\n")
    return result


def write_notebook(path: Path) -> None:
    """A notebook with a block table a size, two charts, and a Gantt."""
    import nbformat

    cells = ["from nano_batch import lab"]
    for blocks, (requests, sequences, budget) in SIZES.items():
        options = f"max_num_seqs={sequences}, max_num_batched_tokens={budget}"
        cells.append(
            f'workload = lab.Workload.synthetic({requests}, seed=1, arrivals="at_once")\n'
            f"run = lab.serve(workload, memory_tokens={16 * blocks}, {options})\n"
            f"lab.block_table(run, workload, {options})"
        )
    cells += [CHART, LOAD, GANTT]
    _write(path, [nbformat.v4.new_code_cell(cell) for cell in cells])  # type: ignore[no-untyped-call]


def write_bare_notebook(path: Path) -> None:
    """A notebook saved with one pixel for a picture: what opening takes without any view."""
    import nbformat

    output = nbformat.v4.new_output("display_data", {"image/png": PIXEL})  # type: ignore[no-untyped-call]
    _write(path, [nbformat.v4.new_code_cell("", outputs=[output])])  # type: ignore[no-untyped-call]


def _write(path: Path, code: list[Any]) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=code)  # type: ignore[no-untyped-call]
    # Without a kernel's name JupyterLab asks for one.
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


@contextmanager
def opened() -> Iterator[NotebookPage]:
    """The notebook, run in JupyterLab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_notebook(Path(folder) / NAME)
        write_bare_notebook(Path(folder) / BARE)
        with private_lab(Path(folder)) as address, chromium() as browser:
            tab = NotebookPage(browser, address.format(path=NAME), width=1330)
            tab.run_all(CELLS)
            yield tab


def measured(tab: NotebookPage, presses: int, seconds: float, openings: int) -> list[Row]:
    """All rows (see the module): `value` in `unit`, and the `goal` with whether it is met."""
    *tables, chart, load, bars = tab.views()
    views = dict(zip(SIZES, tables, strict=True))
    there_and_back = measure.there_and_back("block_size", presses)
    rows = []
    for figure, blocks, view, keys in (
        ("key_to_redraw", 512, views[512], there_and_back),
        ("chart_key_to_redraw", 2048, chart, there_and_back),
        ("load_key_to_redraw", 2048, load, UNSEEN[:presses]),
        ("gantt_key_to_redraw", 4096, bars, measure.there_and_back("max_num_seqs", presses)),
    ):
        times = measure.key_to_redraw(tab.page, view, keys)
        rows += [
            _row(figure, blocks, measure.percentile(times, 50), "ms, median"),
            _row(figure, blocks, measure.percentile(times, 95), "ms, 95th percentile", most=REDRAW_MS),
        ]
    for blocks, view in views.items():
        frames, gap = measure.frames_per_second(tab.page, view, seconds)
        rows.append(_row("play", blocks, frames, "frames/s", least=FRAMES))
        rows.append(_row("play", blocks, gap, "ms between frames, 95th percentile"))
    return rows + first_pictures(tab, openings)


def first_pictures(tab: NotebookPage, openings: int) -> list[Row]:
    """The median of `openings`, seconds: a live view, a saved notebook and a bare one, an exported page."""
    browser = tab.page.context.browser
    assert browser is not None
    first = next(iter(SIZES))
    live = [measure.live_picture(tab.page, 1) for _ in range(openings)]
    tab.save()
    addresses = (tab.address, tab.address.replace(NAME, BARE))
    turns = [
        [measure.first_picture(browser, address, STILL) for address in addresses] for _ in range(openings)
    ]
    saved, bare = (list(times) for times in zip(*turns, strict=True))
    ours = [one - other for one, other in turns]
    with tempfile.TemporaryDirectory() as folder:
        page, _ = export([notebooks_folder() / QUICKSTART], Path(folder))
        shown = [measure.first_picture(browser, page.as_uri(), LIVE) for _ in range(openings)]
    found = (
        (first, live, "s, a live view's cell"),
        (first, saved, "s, a saved notebook, JupyterLab's start included"),
        (512, shown, "s, an exported page"),
    )
    parts = (
        (bare, "s, of which JupyterLab's: a saved notebook with a pixel for a picture"),
        (ours, "s, of which the views': the difference, opening by opening"),
    )
    rows = [
        _row("first_picture", blocks, measure.percentile(times, 50), unit, most=FIRST_S)
        for blocks, times, unit in found
    ]
    return rows + [_row("first_picture", first, measure.percentile(times, 50), unit) for times, unit in parts]


def versions(tab: NotebookPage) -> dict[str, str]:
    """What the figures depend on beside the machine."""
    browser = tab.page.context.browser
    assert browser is not None
    names = ("jupyterlab", "anywidget", "ipywidgets")
    return {"chromium": browser.version, **{name: version(name) for name in names}}


def take_pictures(tab: NotebookPage, folder: Path) -> None:
    """Each view in each theme, as `views_<blocks>_<theme>.png`."""
    tab.page.set_viewport_size({"width": 1330, "height": 2000})  # the whole of the tallest
    for theme in ("Dark", "Light"):
        tab.theme(theme)
        for blocks, view in zip(SIZES, tab.views(), strict=False):
            view.get_by_role("button", name="Reset").click()
            tab.settle(view)
            measure.screenshot(tab.page, view, folder / f"views_{blocks}_{theme.lower()}.png")


def _row(
    figure: str,
    blocks: int,
    value: float,
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
) -> Row:
    row: Row = {"figure": figure, "blocks": blocks, "value": round(value, 2), "unit": unit}
    if most is not None:
        row |= {"goal": f"at most {most:g}", "met": value <= most}
    if least is not None:
        row |= {"goal": f"at least {least:g}", "met": value >= least}
    return row
