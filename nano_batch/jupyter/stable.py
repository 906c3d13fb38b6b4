"""What of a notebook is the same every time it is run, and so may be written down."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_METADATA = ("tags", "jupyter")  # `jupyter` holds whether a source is folded
MARK = "nano_batch"


def before_save(model: dict[str, Any], **kwargs: Any) -> None:
    """Jupyter's pre-save hook: drop references to live widgets.

    A saved notebook then shows each view's caption and picture when it is opened without a kernel, and never
    "model not found". The page that is open keeps its live views. A front end shows one form of an output, of
    these two the picture: so the caption of a live view is written once more, as an output of its own.
    """
    if model.get("type") != "notebook" or not isinstance(model.get("content"), dict):
        return
    for cell in model["content"].get("cells", []):
        if "outputs" in cell:
            cell["outputs"] = [each for output in cell["outputs"] for each in (output, *_caption(output))]
    drop_widgets(model["content"])


def _caption(output: Any) -> list[dict[str, Any]]:
    data = output.get("data", {})
    if not {WIDGET_VIEW, "image/png", "text/plain"} <= set(data):
        return []
    return [{"output_type": "display_data", "data": {"text/plain": data["text/plain"]}, "metadata": {}}]


def drop_widgets(notebook: Any) -> None:
    """Remove widget views that have another form beside them, and all widget state."""
    notebook.get("metadata", {}).pop("widgets", None)
    for cell in notebook.get("cells", []):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET_VIEW, None)


def clean(notebook: Any) -> None:
    """Keep what is stable: sources, cell ids, tags, folded sources, outputs, execution counts."""
    drop_widgets(notebook)
    kept = {"kernelspec", MARK}
    notebook.metadata = {name: value for name, value in notebook.metadata.items() if name in kept}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name in CELL_METADATA}
        if "outputs" in cell:
            cell.outputs = join_streams(cell.outputs)


def join_streams(outputs: list[Any]) -> list[Any]:
    """The outputs, neighbouring texts of one stream as one: where they are cut depends on timing."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.get("output_type") == "stream" and last.get("name") == output.get("name"):
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def code_hash(notebook: Any) -> str:
    """16 hex digits over the code of a notebook: they change when a cell was changed and not run."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return sha256("\0".join(sources).encode()).hexdigest()[:16]


def poster_hash(caption: str, view_code: str) -> str:
    """16 hex digits over what a poster shows: its caption, and the code that draws it."""
    return sha256(f"{caption}\0{view_code}".encode()).hexdigest()[:16]


def view_outputs(notebook: Any) -> list[Any]:
    """The outputs that are views: widgets with a picture, and those whose poster was taken."""
    return [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if {WIDGET_VIEW, "image/png"} <= output.get("data", {}).keys() or MARK in output.get("metadata", {})
    ]


def stale(notebook: Any, view_code: str) -> list[str]:
    """Why a committed notebook must be refreshed; empty when it need not."""
    reasons = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        reasons.append("a code cell was not run, or not in order")
    if notebook.metadata.get(MARK, {}).get("code") != code_hash(notebook):
        reasons.append("a code cell was changed since it was run")
    if "widgets" in notebook.metadata:
        reasons.append("it stores widget state")
    if any(WIDGET_VIEW in output.get("data", {}) for cell in code for output in cell.outputs):
        reasons.append("an output refers to a live widget")
    for output in view_outputs(notebook):
        caption = output.data.get("text/plain", "")
        if "image/png" not in output.data:
            reasons.append(f"a view has no poster: {caption.splitlines()[:1]}")
        if output.metadata.get(MARK, {}).get("drawn") != poster_hash(caption, view_code):
            reasons.append("the code that draws its pictures changed since the posters were taken")
    return reasons
