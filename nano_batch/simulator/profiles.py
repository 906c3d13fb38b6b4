"""A device measured: tables of times from a file, and straight lines between their points (docs/costs.md)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from nano_batch import _core
from nano_batch._choices import check_choice
from nano_batch.display import html_table
from nano_batch.errors import ProfileError
from nano_batch.simulator.cards import card_text

PROFILE_VERSION = 1
ProfileName = Literal["h100-mistral-7b", "h200-mistral-7b"]
_TABLES = {
    "linear": ("tokens", None),
    "decode_attention": ("sequences", "context"),
    "prefill_attention": ("pairs", None),
    "sampling": ("rows", None),
}
_NUMBERS = ("overhead_s", "host_s", "host_per_sequence_s", "block_copy_s", "block_swap_s")


@dataclass(frozen=True, repr=False)
class Profile:
    """Times measured on one device with one model, as docs/costs.md describes the file.

    Between the points of a table the time is a straight line, beyond its last point the last line goes on,
    below its first point it is the first point's. `fit_error` says how far the tables were from steps
    measured whole.

    Attributes:
        content: the file's JSON.
    """

    content: dict[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        self.core()

    @classmethod
    def of(cls, name: ProfileName) -> Profile:
        """A profile that comes with the package: torch's own kernels for Mistral 7B on an H100 or an H200.

        Raises:
            UnknownOptionError: there is no such profile; the nearest is named.
        """
        check_choice("profile", name, ProfileName)
        return cls(card_text("profile", name))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile.

        Raises:
            ProfileError: it is not JSON, lacks a table or a number, or one is out of its range; named.
        """
        name = os.path.basename(os.fspath(path))
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise ProfileError(f"{name} cannot be read as a profile: {error}") from error
        try:
            return cls(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(f"{name} is not a profile: {_said(error)}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that `load` reads."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.content, file, indent=1)
            file.write("\n")

    def core(self) -> _core.CostModel:
        """The compiled model."""
        version = self.content.get("version")
        if version != PROFILE_VERSION:
            raise ProfileError(f"the profile has version {version!r}; this package reads {PROFILE_VERSION}")
        grids = {name: _grid(self.content["tables"][name], *axes) for name, axes in _TABLES.items()}
        numbers: dict[str, Any] = {name: float(self.content[name]) for name in _NUMBERS}
        sizes = list(self.content.get("batch_sizes", []))
        return _core.CostModel.profile(**{**numbers, **grids}, batch_sizes=sizes)

    def describe(self) -> dict[str, Any]:
        """What was measured, where and when."""
        told = ("name", "device", "model", "date", "commit", "fit_error")
        return {"model": "profile", "profile": {key: self.content.get(key) for key in told}}

    def __repr__(self) -> str:
        about = self.content
        return f"Profile({about.get('model')} on {about.get('device')}, measured {about.get('date')})"

    def _repr_html_(self) -> str:
        rows = [(key, str(value)) for key, value in self.describe()["profile"].items()]
        return html_table(repr(self), ["", ""], rows)


def _grid(table: dict[str, Any], x: str, y: str | None) -> tuple[list[float], list[float], list[float]]:
    seconds = table["seconds"]
    flat = [value for row in seconds for value in row] if y else list(seconds)
    return list(map(float, table[x])), list(map(float, table[y])) if y else [0.0], list(map(float, flat))


def _said(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
