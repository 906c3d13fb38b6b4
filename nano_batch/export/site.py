"""A folder of static pages, one a notebook, with a page that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from html import escape
from pathlib import Path

from nano_batch.benchmarks.report import commit, machine
from nano_batch.errors import LabError
from nano_batch.export.execute import execute
from nano_batch.export.page import document, page, title


def export(paths: Sequence[Path], out: Path) -> list[Path]:
    """Execute the notebooks at `paths` and write a page of each, and `index.html`, to the folder `out`.

    Returns the files written.

    Raises:
        LabError: if there is no notebook, `out` is a file, or a cell raises.
    """
    if not paths:
        raise LabError("no notebook to export")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise LabError(f"no such notebook: {missing[0]}")
    if out.exists() and not out.is_dir():
        raise LabError(f"{out} is a file; the pages need a folder")
    out.mkdir(parents=True, exist_ok=True)
    source = _source()
    written, entries = [], []
    for path in paths:
        notebook, views = execute(path)
        written.append(_write(out / f"{path.stem}.html", page(notebook, views, source)))
        entries.append(f'<li><a href="{escape(path.stem)}.html">{escape(title(notebook))}</a></li>')
    listing = f"<h1>nano_batch: the laboratory for LLM serving</h1>\n<ul>\n{chr(10).join(entries)}\n</ul>"
    return [*written, _write(out / "index.html", document("nano_batch", listing, source))]


def _source() -> str:
    here = machine()
    at = commit()
    return f"recorded: {here['processor']}, {date.today().isoformat()}" + (f", commit {at}" if at else "")


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
