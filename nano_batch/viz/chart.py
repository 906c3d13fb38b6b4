"""What a chart shows, as data: panels of axes, series and marks. Python computes all of it; views draw it.

Columns are one-dimensional and become float64. Colours are names of roles (`nano_batch.viz.palette.ROLES`),
so that one thing has one colour in every picture and theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nano_batch._choices import check_choice, unknown_option
from nano_batch.errors import InvalidArgumentError
from nano_batch.viz.palette import ROLES
from nano_batch.viz.table import Table

Scale = Literal["linear", "log2", "log10"]
Direction = Literal["x", "y"]
PointMark = Literal["circle", "diamond"]
Column = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """An axis: what is counted, in which unit, on which scale.

    Attributes:
        scale: "linear", "log2" or "log10".
        ticks: the values marked; by default round ones.
        names: what stands at the ticks instead of their numbers.
        low, high: the ends; by default those of the data, and zero for a linear y.
    """

    label: str
    unit: str = ""
    scale: Scale = "linear"
    ticks: Sequence[float] | None = None
    low: float | None = None
    high: float | None = None
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_choice("scale", self.scale, Scale)
        if self.names is not None and len(self.names) != len(self.ticks or ()):
            raise InvalidArgumentError(
                f"axis {self.title!r} has {len(self.names)} names for {len(self.ticks or ())} ticks"
            )

    @property
    def title(self) -> str:
        """Label and unit."""
        return ", ".join(filter(None, (self.label, self.unit)))


@dataclass(frozen=True, eq=False)
class Line:
    """A line through (x, y); it is broken where y is NaN. `dash` is as in SVG, such as "4 3"."""

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: str
    dash: str = ""
    width: float = 2.0

    def __post_init__(self) -> None:
        _columns(self, "x", "y")


@dataclass(frozen=True, eq=False)
class Area:
    """One layer over x; the areas of a panel are stacked in the order given, from zero."""

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: str

    def __post_init__(self) -> None:
        _columns(self, "x", "y")


@dataclass(frozen=True, eq=False)
class Band:
    """What lies between two lines, pale: a range, such as that of several seeds."""

    name: str
    x: ArrayLike
    low: ArrayLike
    high: ArrayLike
    colour: str

    def __post_init__(self) -> None:
        _columns(self, "x", "low", "high")


@dataclass(frozen=True, eq=False)
class Points:
    """Marks at (x, y); `hollow` says of each whether it is drawn as a ring (a value to be doubted).

    `mark` is "circle", or "diamond" for values of another source than those beside them.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: str
    hollow: ArrayLike | None = None
    mark: PointMark = "circle"

    def __post_init__(self) -> None:
        check_choice("mark", self.mark, PointMark)
        _columns(self, "x", "y")
        rings = np.zeros(len(column(self.x)), bool) if self.hollow is None else self.hollow
        object.__setattr__(self, "hollow", np.asarray(rings, bool))


@dataclass(frozen=True, eq=False)
class Bars:
    """One bar a category; bars of one `stack` lie on each other in the order given, stacks side by side."""

    name: str
    categories: Sequence[str]
    y: ArrayLike
    colour: str
    stack: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        _columns(self, "y")
        if len(self.categories) != len(column(self.y)):
            raise InvalidArgumentError(
                f"bars {self.name!r} have {len(self.categories)} categories and {len(column(self.y))} values"
            )


@dataclass(frozen=True, eq=False)
class Cells:
    """Squares of a grid, one unit wide and high, with their middles at (x, y).

    Attributes:
        words: what stands in each, where there is room.
        tips: what is said of each that is pointed at; by default its words.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: str
    words: Sequence[str] = ()
    tips: Sequence[str] = ()

    def __post_init__(self) -> None:
        _columns(self, "x", "y")
        count = len(column(self.x))
        for name in ("words", "tips"):
            texts = tuple(getattr(self, name)) or ("",) * count
            if len(texts) != count:
                raise InvalidArgumentError(f"cells {self.name!r}: {len(texts)} {name} for {count} cells")
            object.__setattr__(self, name, texts)


Series = Line | Area | Band | Points | Bars | Cells
HALF_CELL = 0.46
"""Half the side of a cell as it is drawn: a line of paper stays between neighbours."""


@dataclass(frozen=True)
class Rule:
    """A straight line at a value of an axis, with its words; a reader drags it where it sets a control.

    Attributes:
        axis: "y": a horizontal line, "x": a vertical one.
        sets: the control whose value it shows, if it can be dragged.
    """

    axis: Direction
    at: float
    label: str = ""
    sets: str = ""

    def __post_init__(self) -> None:
        check_choice("axis", self.axis, Direction)


@dataclass(frozen=True)
class Shade:
    """A range of an axis, shaded across the panel, with its words."""

    low: float
    high: float
    label: str = ""
    axis: Direction = "x"
    colour: str = "muted"

    def __post_init__(self) -> None:
        check_choice("axis", self.axis, Direction)
        _role(self.colour, self.label)


@dataclass(frozen=True)
class Ribbon:
    """Words under the x axis: `words[i]` between `edges[i]` and `edges[i + 1]`."""

    edges: Sequence[float]
    words: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.words) + 1:
            raise InvalidArgumentError(f"a ribbon of {len(self.words)} words has {len(self.edges)} edges")


@dataclass(frozen=True)
class Text:
    """Words at a place of the panel."""

    x: float
    y: float
    words: str


Mark = Rule | Shade | Ribbon | Text


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes with what is drawn on them.

    Attributes:
        steps: where x is time: the step of each x of the first series. Such panels carry one cursor.
        note: a few words beside the title, which may change with the settings.
        height: CSS pixels, axes and title included.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series] = ()
    marks: Sequence[Mark] = ()
    steps: ArrayLike | None = None
    note: str = ""
    height: int = 250

    def __post_init__(self) -> None:
        object.__setattr__(self, "series", tuple(self.series))
        object.__setattr__(self, "marks", tuple(self.marks))
        if self.steps is not None:
            object.__setattr__(self, "steps", np.asarray(self.steps, np.int64))
        areas = [series for series in self.series if isinstance(series, Area)]
        for area in areas[1:]:
            if not np.array_equal(column(area.x), column(areas[0].x)):
                raise InvalidArgumentError(f"areas {areas[0].name!r} and {area.name!r} have not one x")

    @property
    def categories(self) -> tuple[str, ...]:
        """Those of its bars, in order; empty where x is a number."""
        bars = (series for series in self.series if isinstance(series, Bars))
        return tuple(dict.fromkeys(name for each in bars for name in each.categories))


@dataclass(frozen=True, eq=False)
class Chart:
    """Panels, and what they say in words and numbers.

    Attributes:
        columns: panels side by side (where the page is wide enough).
        share: the axes that all panels with the same label and unit have on one scale: "", "x", "y", "xy".
        settings: the line of settings in the head.
        says: one or two sentences with what was measured: in the page, in the caption.
        numbers: the figures that a later setting is held against, by name with unit.
        table: the numbers drawn, few enough to be printed; by default first, least, most and last of each
            series.
    """

    panels: Sequence[Panel]
    title: str
    columns: Literal[1, 2, 3, 4] = 1
    share: Literal["", "x", "y", "xy"] = ""
    settings: str = ""
    says: Sequence[str] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    table: Table | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "panels", tuple(self.panels))
        object.__setattr__(self, "says", tuple(self.says))
        titles = [panel.title for panel in self.panels]
        if len(set(titles)) < len(titles):
            raise InvalidArgumentError(f"two panels have one title: {titles}")


def column(values: Any) -> Column:
    """A column of a series as what it is after its checks."""
    return np.asarray(values, np.float64)


def thin(most: int, *columns: ArrayLike) -> list[NDArray[Any]]:
    """Every k-th row of the columns and the last one, at most `most` + 1 rows: a curve that can be drawn."""
    arrays = [np.asarray(each) for each in columns]
    count = len(arrays[0])
    if not count:
        return arrays
    rows = np.unique(np.r_[np.arange(0, count, max(1, -(-count // most))), count - 1])
    return [array[rows] for array in arrays]


def _columns(series: Any, *names: str) -> None:
    _role(series.colour, series.name)
    arrays = {name: column(getattr(series, name)) for name in names}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise InvalidArgumentError(f"{series.name!r}: {name} has shape {array.shape}; it is one column")
        if len(array) != len(arrays[names[0]]):
            raise InvalidArgumentError(
                f"{series.name!r}: {len(array)} values of {name} on {len(arrays[names[0]])} of {names[0]}"
            )
        object.__setattr__(series, name, array)


def _role(colour: str, name: str) -> None:
    if colour not in ROLES:
        raise unknown_option(f"the colour of {name!r}", colour, tuple(ROLES))
