"""Small HTML tables for what a notebook cell ends with: no script, the host's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from html import escape
from typing import Any

MAX_ROWS = 10
MAX_CHARACTERS = 60


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table of at most 10 rows; a last line says how many more there are."""
    parts = [f"<table><caption>{escape(title)}</caption><thead><tr>"]
    parts += [f"<th>{escape(name)}</th>" for name in header]
    parts.append("</tr></thead><tbody>")
    for row in rows[:MAX_ROWS]:
        parts.append("<tr>" + "".join(f"<td>{escape(_short(cell))}</td>" for cell in row) + "</tr>")
    if len(rows) > MAX_ROWS:
        parts.append(f'<tr><td colspan="{len(header)}">… and {len(rows) - MAX_ROWS} more</td></tr>')
    return "".join(parts) + "</tbody></table>"


class Shown:
    """A dataclass whose cell in a notebook is a table of its fields."""

    def _repr_html_(self) -> str:
        held: Any = self
        rows = [(field.name, field_text(getattr(self, field.name))) for field in fields(held)]
        return html_table(type(self).__name__, ["", ""], rows)


def field_text(value: Any) -> str:
    """A field in a few words: an array by its dtype and shape, a number with 3 significant digits."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        shape = ", ".join(f"{side:,}" for side in value.shape)
        return f"{value.dtype} [{shape}]"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, tuple | list) and len(value) > 6:
        return f"{len(value):,} values"
    return "–" if value is None else str(value)


def _short(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def readable_bytes(count: int) -> str:
    """A byte count in a binary unit, at most 3 significant digits: 65536 -> '64 KiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if value < 1000 else f"{value:,.0f} TiB"


def number(value: float) -> str:
    """`value` with 3 significant digits; whole, thousands separated, from 1,000 on; "–" for NaN."""
    if value != value:
        return "–"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
