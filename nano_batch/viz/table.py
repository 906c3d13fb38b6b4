"""A small table that a view hands out: printed, shown, compared, written."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nano_batch.display import html_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of a name and numbers, as texts: the same texts stand in the page.

    Attributes:
        title: one line above the rows.
        columns: the names of the columns, units included.
        rows: one tuple of texts a row, as long as `columns`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        """The whole table as aligned text."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        texts = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join([self.title, *texts])

    def __repr__(self) -> str:
        return f"{self.title}\n{len(self.rows)} rows of {', '.join(self.columns)}"

    def _repr_html_(self) -> str:
        return html_table(self.title, list(self.columns), self.rows)

    def to_csv(self) -> str:
        """The table as CSV, columns first; numbers without separators for thousands."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([row[0], *(cell.replace(",", "") for cell in row[1:])] for row in self.rows)
        return text.getvalue()

    def to_frame(self) -> pd.DataFrame:
        """The table as a pandas frame: the first column texts, the others numbers."""
        import pandas as pd

        return pd.read_csv(io.StringIO(self.to_csv()))


def percent(part: int, whole: int) -> str:
    """`part` of `whole` in percent with one decimal, halves upwards (as in static/dom.js)."""
    tenths = (2000 * part + whole) // (2 * whole)
    return f"{tenths // 10}.{tenths % 10}"
