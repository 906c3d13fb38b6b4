"""Frozen tables of NumPy columns: the base of all records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from textwrap import fill
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import html_table, number
from nano_batch.errors import RecordsError

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

REPR_WIDTH = 110


class Columns:
    """A table whose dataclass fields are read-only columns of one length; `DTYPES` gives each one's type."""

    DTYPES: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        lengths = set()
        for name, dtype in self.DTYPES.items():
            column = self._as_column(name, dtype)
            object.__setattr__(self, name, column)
            lengths.add(len(column))
        if len(lengths) > 1:
            raise RecordsError(
                f"{type(self).__name__} has columns of {sorted(lengths)} rows, not of one length"
            )

    @classmethod
    def adopt(cls, **values: Any) -> Self:
        """A table of new arrays of the schema's types that nobody else holds: taken as they are."""
        table = object.__new__(cls)
        for name in cls.DTYPES:
            values[name].flags.writeable = False
        table.__dict__.update(values)
        return table

    def _as_column(self, name: str, dtype: Any) -> NDArray[Any]:
        given = np.asarray(getattr(self, name))
        if given.ndim != 1:
            raise RecordsError(f"{type(self).__name__}.{name} has {given.ndim} dimensions; it must have 1")
        try:
            column = given.astype(dtype)
        except (TypeError, ValueError) as error:
            raise RecordsError(f"{type(self).__name__}.{name} is not {np.dtype(dtype)}: {error}") from error
        if column.dtype.kind in "iu" and given.size and not np.array_equal(column, given):
            raise RecordsError(f"{type(self).__name__}.{name} holds values outside {column.dtype}")
        column.flags.writeable = False
        return column

    def __len__(self) -> int:
        return len(getattr(self, next(iter(self.DTYPES))))

    def items(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """(name, column) in the schema's order."""
        return ((name, getattr(self, name)) for name in self.DTYPES)

    def __eq__(self, other: object) -> bool:
        """Equal columns, NaN equal to NaN."""
        if not isinstance(other, Columns) or type(self) is not type(other):
            return NotImplemented
        return all(same(getattr(self, name), getattr(other, name)) for name in self.DTYPES)

    __hash__ = None  # type: ignore[assignment]

    def to_frame(self) -> pd.DataFrame:
        """The columns as a pandas table."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame({name: np.asarray(column) for name, column in self.items()})
        return frame

    def __repr__(self) -> str:
        names = [field.name for field in fields(self) if field.name in self.DTYPES]  # type: ignore[arg-type]
        return fill(f"{type(self).__name__}: {len(self):,} rows of {', '.join(names)}", REPR_WIDTH)

    def _repr_html_(self) -> str:
        caption = f"{type(self).__name__}: {len(self):,} rows"
        shown = range(min(len(self), 8))
        rows = [[_cell(column[row]) for _, column in self.items()] for row in shown]
        return html_table(caption, list(self.DTYPES), rows)


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Equal arrays, NaN equal to NaN."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, str) else number(float(value))
