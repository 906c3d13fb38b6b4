"""What a page without a kernel needs of its views, taken in the kernel that ran the notebook.

The views are the objects that the cells made, and every recorded setting is a real rerun: the control's trait
is set, the view calls its own `rerun`, the scheduler runs.
"""

from __future__ import annotations

import gzip
import json
import struct
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipywidgets.widgets.widget import _instances  # type: ignore[import-untyped]

from nano_batch.viz import View

MOST_POSITIONS = 8
# The reader's own: a page keeps it when a setting changes, as the kernel does.
KEPT = {"step", "_requests", "_block"}
# What only a kernel can keep true: a line of code for the view as it stands; answers are the page's to count.
DROPPED = {"_code": "", "_answers": 0}


def capture(shown: Sequence[str], path: str) -> None:
    """Write the views with the model ids `shown` (in the page's order) to the JSON file `path`.

    The first control found has its runs recorded, at most 8 of them around its default.
    """
    views = {number: _instances[number] for number in shown if isinstance(_instances.get(number), View)}
    steered: dict[str, Any] = {}
    records = {}
    for number, view in views.items():
        if not steered and (control := _control(view)):
            found, errors = _runs(view, control)
            steered = {"name": control["name"], "answers": _answers(control, found, errors)}
            records[number] = {**_record(view, found[control["default"]]), "steering": steered}
        else:
            records[number] = {**_record(view, state(view)), "steering": None}
    Path(path).write_text(json.dumps(records), encoding="utf-8")


def state(view: View) -> dict[str, Any]:
    """Every synchronised trait of `view` that its JavaScript may read."""
    own = view.page_state()
    return {**own, **{name: value for name, value in DROPPED.items() if name in own}}


def pack(values: dict[str, Any]) -> str:
    """`values` with the buffers in it as gzip in base64: length of the JSON text (u32), JSON text, buffers.

    In the JSON text a buffer is `{"$buffer": [first byte, length]}`, counted from the end of the text.
    """
    buffers: list[bytes] = []
    place = 0

    def replace(value: Any) -> Any:
        nonlocal place
        if isinstance(value, (bytes, bytearray, memoryview)):
            buffers.append(bytes(value))
            place += len(buffers[-1])
            return {"$buffer": [place - len(buffers[-1]), len(buffers[-1])]}
        if isinstance(value, dict):
            return {name: replace(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [replace(item) for item in value]
        return value

    text = json.dumps(replace(values)).encode()
    whole = struct.pack("<I", len(text)) + text + b"".join(buffers)
    return b64encode(gzip.compress(whole, mtime=0)).decode()


def positions(values: Sequence[Any], default: Any) -> list[Any]:
    """At most 8 of `values`, in their order: the default and those nearest to it."""
    home = list(values).index(default)
    near = sorted(range(len(values)), key=lambda i: (abs(i - home), -i))[:MOST_POSITIONS]
    return [values[i] for i in sorted(near)]


def _control(view: View) -> dict[str, Any] | None:
    controls: list[dict[str, Any]] = getattr(view, "_controls", [])
    return next((control for control in controls if len(control["values"]) > 1), None)


def _record(view: Any, values: dict[str, Any]) -> dict[str, Any]:
    clock = id(getattr(view, "selected", view))  # views of one run share a selection and a step
    return {"module": view.get_state(["_esm"])["_esm"], "state": pack(values), "clock": clock}


def _runs(view: Any, control: dict[str, Any]) -> tuple[dict[Any, dict[str, Any]], dict[Any, str]]:
    """The view's state at each position of `control`, or what its rerun raised.

    The run at the default is pinned: a difference is against that run, in whatever order a reader moves.
    """
    name, home = control["name"], control["default"]
    setattr(view, name, home)
    view.pinned = True
    found, errors = {}, {}
    for value in positions(control["values"], home):
        try:
            setattr(view, name, value)
        except Exception as error:  # a reader's own rerun may raise anything; the page must say it
            errors[value] = f"{type(error).__name__}: {error}"
        else:
            found[value] = state(view)
    setattr(view, name, home)
    found[home] = {**state(view), "_difference": ""}
    return found, errors


def _answers(control: dict[str, Any], found: dict[Any, Any], errors: dict[Any, str]) -> list[dict[str, Any]]:
    patches = _changes(found)
    return [
        {"value": value, "error": errors[value]}
        if value in errors
        else {"value": value, "patch": pack(patches[value])}
        for value in positions(control["values"], control["default"])
    ]


def _changes(states: dict[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Of each state the traits that differ anywhere between the states."""
    first = next(iter(states.values()))
    moving = {name for other in states.values() for name in first if other[name] != first[name]} - KEPT
    return {value: {name: each[name] for name in sorted(moving)} for value, each in states.items()}
