"""The browser's side of a view as one text: the ES modules of `static/` joined in the order of their imports.

A widget's module is loaded from a text without an address, where a relative import cannot be resolved. So the
files, which any page can import as they are, are joined here: an import line is replaced by the file it names
and `export` before a declaration is dropped. There is no other build step.
"""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.resources import files

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|let|function|class|async) )", re.MULTILINE)


def static_text(name: str) -> str:
    """The text of the shipped file `static/<name>`, with plain line ends."""
    text = files("nano_batch.viz").joinpath("static").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def bundle(entry: str) -> str:
    """The module `entry` with everything it imports before it, as one ES module."""
    done: list[str] = []
    parts: list[str] = []

    def add(name: str) -> None:
        if name in done:
            return
        done.append(name)
        text = static_text(name)
        for needed in _IMPORT.findall(text):
            add(needed)
        parts.append(_EXPORT.sub("", _IMPORT.sub("", text)).strip())

    add(entry)
    return "\n\n".join(parts) + "\n"


# What a picture is made by beside its numbers, which its caption has: who draws, and who says what is drawn.
DRAWS = (
    "viz",
    "viz/static",
    "lessons",
    "studies",
    "saturation",
    "picker",
    "lab.py",
    "scenes.py",
    "display.py",
)


def view_code_hash() -> str:
    """16 hex digits that change whenever the code that draws pictures does, in Python or in the browser."""
    digest = sha256()
    package = files("nano_batch")
    for name in DRAWS:
        room = package.joinpath(name)
        for file in sorted(room.iterdir(), key=lambda item: item.name) if room.is_dir() else [room]:
            if file.name.endswith((".py", ".js", ".css")):
                digest.update(file.name.encode())
                digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]
