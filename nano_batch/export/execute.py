"""A notebook run as a reader runs it, in a kernel of its own, and its views taken before the kernel ends.

A kernel and not this process: the cells see a fresh interpreter in the notebook's folder, with magics and
displayed results, and one notebook cannot change what the next one shows. The views are then asked inside
that kernel, where the objects are, so that nothing has to be rebuilt from messages.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from nano_batch.errors import LabError
from nano_batch.jupyter.stable import WIDGET_VIEW

CELL_SECONDS = 120


def execute(path: Path) -> tuple[Any, dict[str, Any]]:
    """The notebook at `path`, executed, and its captured views by model id.

    Raises:
        LabError: if a cell raises; the cell's own error is in the message.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "views.json"
        try:
            with client.setup_kernel():
                for index, cell in enumerate(notebook.cells):
                    client.execute_cell(cell, index)
                _run_capture(client, notebook, target)
        except CellExecutionError as error:
            raise LabError(f"{path.name}: {error}") from error
        return notebook, json.loads(target.read_text(encoding="utf-8"))


def _run_capture(client: Any, notebook: Any, target: Path) -> None:
    taker = "__import__('nano_batch.export.capture', fromlist=['capture']).capture"  # leaves no name behind
    call = f"{taker}({_shown(notebook)!r}, {str(target)!r})"
    notebook.cells.append(nbformat.v4.new_code_cell(call))  # type: ignore[no-untyped-call]
    client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
    notebook.cells.pop()


def _shown(notebook: Any) -> list[str]:
    return [
        output.data[WIDGET_VIEW]["model_id"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if WIDGET_VIEW in output.get("data", {})
    ]
