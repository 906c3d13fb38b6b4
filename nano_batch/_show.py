"""How tables show themselves: numbers for people, and small HTML tables without a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def number(value: float) -> str:
    """`value` with 3 significant digits, or whole with thousands separated from 1,000 on."""
    if value != value:
        return "–"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table that inherits its colours, so that it is right in a light and a dark theme."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{top}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
