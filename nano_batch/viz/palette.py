"""The colours of the block states, in one place: the browser gets them from here.

Hues follow Okabe and Ito's colour-blind safe set (blue, purple, bluish green, vermilion), with the lightness
of each moved so that any two states differ by CIEDE2000 >= 10 in greyscale and under three kinds of colour
vision deficiency (a test computes it). The same hue means the same state in both themes.
"""

from __future__ import annotations

from dataclasses import dataclass

FREE, IN_USE, SHARED, CACHED, COMPUTED = range(5)  # as in static/replay.js


@dataclass(frozen=True)
class State:
    """One state of a physical block: its number in a frame, how it is called and drawn."""

    number: int
    key: str
    label: str
    note: str
    light: str
    dark: str


# In the order of legend and tables: what changes first, what is empty last.
STATES = (
    State(
        COMPUTED,
        "computed",
        "just computed",
        "tokens were written into it in this step",
        "#C84E00",
        "#FFE9A8",
    ),
    State(IN_USE, "in_use", "in use", "held by one sequence", "#005A93", "#3E93CF"),
    State(SHARED, "shared", "shared", "held by more than one sequence", "#4A1040", "#E7A6CC"),
    State(CACHED, "cached", "cached", "held by nobody, kept for its prefix: evictable", "#3DA27F", "#23795B"),
    State(FREE, "free", "free", "holds nothing", "#EEF1F4", "#262A2E"),
)
