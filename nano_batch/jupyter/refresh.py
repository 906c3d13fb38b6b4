"""Execute notebooks, take the posters of their views in a browser, and write down only what is stable."""

from __future__ import annotations

import shutil
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nano_batch.errors import LabError, MissingExtraError
from nano_batch.jupyter.browser import NotebookPage, chromium, code_cells
from nano_batch.jupyter.server import private_lab
from nano_batch.jupyter.stable import MARK, clean, code_hash, poster_hash, view_outputs
from nano_batch.viz.bundle import view_code_hash

PAGE_WIDTH = 1330  # about 900 px for an output
PAGE_HEIGHT = 1700  # a picture taller than the page is cut
CELL_SECONDS = 120


def refresh(paths: Sequence[Path]) -> None:
    """Re-execute the notebooks at `paths` in place, each in its folder, and say what was done.

    A poster is taken anew only when its caption or the code that draws changed. Cell ids, tags and folded
    sources stay; widget state is not stored. Two refreshes of the same code write the same bytes.

    Raises:
        MissingExtraError: if nbclient or Playwright is not installed.
        LabError: if a view is missing from the page, or a cell fails in the browser only.
    """
    for path in paths:
        old, new = _read(path), _execute(path)
        taken = _fill_posters(path, _posters(old), new)
        new.metadata[MARK] = {"code": code_hash(new)}
        clean(new)
        _write(path, new)
        print(f"{path}: executed, {taken} posters taken, {path.stat().st_size / 1e3:.0f} kB")


def _read(path: Path) -> Any:
    try:
        import nbformat
    except ImportError as error:
        raise MissingExtraError("notebooks need nbformat: uv sync --group dev") from error
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def _write(path: Path, notebook: Any) -> None:
    import nbformat

    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    path.write_bytes((text.rstrip("\n") + "\n").encode())


def _execute(path: Path) -> Any:
    try:
        from nbclient import NotebookClient
    except ImportError as error:
        raise MissingExtraError("refreshing notebooks needs nbclient: uv sync --group dev") from error
    notebook = _read(path)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    return notebook


def _posters(notebook: Any) -> dict[str, str]:
    """The posters a notebook has, by the hash of what they show."""
    return {
        output.metadata[MARK]["drawn"]: output.data["image/png"]
        for output in view_outputs(notebook)
        if MARK in output.metadata and "image/png" in output.data
    }


def _fill_posters(path: Path, old: dict[str, str], notebook: Any) -> int:
    outputs, view_code = view_outputs(notebook), view_code_hash()
    hashes = [poster_hash(output.data["text/plain"], view_code) for output in outputs]
    new = all(mark in old for mark in hashes)
    pictures = [old[mark] for mark in hashes] if new else _take(path, len(outputs))
    for output, mark, picture in zip(outputs, hashes, pictures, strict=True):
        output.data["image/png"] = picture
        output.metadata[MARK] = {"drawn": mark}
    return 0 if new else len(outputs)


def _take(path: Path, count: int) -> list[str]:
    """Run a copy of the notebook in JupyterLab and photograph each of its `count` views at 2x."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shutil.copy(path, folder)
        with private_lab(Path(folder)) as address, chromium() as browser:
            tab = NotebookPage(
                browser, address.format(path=path.name), width=PAGE_WIDTH, height=PAGE_HEIGHT, scale=2
            )
            tab.run_all(code_cells(path))
            views = tab.views()
            if len(views) != count:
                raise LabError(
                    f"{path.name} has {count} views, the page shows {len(views)}: {tab.errors[:3]}"
                )
            return [b64encode(tab.poster(view)).decode() + "\n" for view in views]
