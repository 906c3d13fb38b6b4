"""The colours of the block states, in one place: the browser gets them from here.

Hues follow Okabe and Ito's colour-blind safe set (blue, purple, bluish green, vermilion), with the lightness
of each moved so that any two states differ by CIEDE2000 >= 10 in greyscale and under three kinds of colour
vision deficiency (a test computes it). The same hue means the same state in both themes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

# A selected request has the hue and the letter of its place: Okabe and Ito's set, white for black when dark;
# on a light ground the pale ones darker, to 3:1. In full colour any two differ by CIEDE2000 >= 10; where a
# sight brings them nearer the letter tells them apart, which stands in every cell of 12 px and more.
OWNERS = [
    {"letter": letter, "light": light, "dark": dark}
    for letter, light, dark in (
        ("A", "#BF8400", "#E69F00"),
        ("B", "#4797C4", "#56B4E9"),
        ("C", "#009E73", "#009E73"),
        ("D", "#9A9227", "#F0E442"),
        ("E", "#0072B2", "#0072B2"),
        ("F", "#D55E00", "#D55E00"),
        ("G", "#CC79A7", "#CC79A7"),
        ("H", "#000000", "#FFFFFF"),
    )
]
# The blocks of requests that are not selected, by turns.
OTHERS = {"light": ["#8A8F94", "#585E64"], "dark": ["#B4BAC0", "#727A82"]}
# One hue from pale to full, 3:1 from the page even where palest; the ends are fixed, so that the same
# shade is the same number at every step.
RAMPS: dict[str, dict[str, Any]] = {
    "age": {
        "light": ["#002238", "#00436A", "#00608F", "#357CAA", "#6696BD"],
        "dark": ["#E4EFFB", "#A8CAEA", "#77ABD7", "#4D8FBF", "#2074A6"],
        "from": [0, 4, 16, 64, 256],
        "labels": ["used in this step", "4 steps", "16", "64", "256 or more steps ago"],
    },
    "references": {
        "light": ["#998AB7", "#7E6DA2", "#615087", "#443663", "#231B34"],
        "dark": ["#77659D", "#9280B7", "#AF9ECF", "#CEC1E5", "#F1ECF9"],
        "from": [1, 2, 3, 5, 16],
        "labels": ["held once", "twice", "3 or 4 times", "5 to 15", "16 or more times"],
    },
}


@dataclass(frozen=True)
class Look:
    """How a phase of a request is called and drawn; `number` as in `nano_batch.records.Phase`, 5 is idle."""

    number: int
    key: str
    label: str
    note: str
    light: str
    dark: str


# In the order of the legend.
PHASES = (
    Look(1, "prefill", "prefill", "its prompt is computed", "#00385F", "#A9DBFF"),
    Look(2, "decode", "decode", "a token a step", "#4F9BD1", "#2F7DB8"),
    Look(3, "stalled", "stalled", "holds a slot, and no token of it is computed", "#F2C14E", "#E0A100"),
    Look(0, "waiting", "waiting", "in the queue: a thin line", "#6F767D", "#8A9299"),
    Look(4, "preempted", "preempted", "lost its slot and its blocks: hatched", "#A93A00", "#FF8A5C"),
    Look(5, "idle", "idle slot", "outlined: nobody holds it", "#FFFFFF", "#111111"),
)


def _state(key: str) -> dict[str, str]:
    found = next(state for state in STATES if state.key == key)
    return {"light": found.light, "dark": found.dark}


# What is drawn in a chart has the colour of its role. Slots (used to cached) are told apart in every sight
# as the states are, those cached by a hatching too; series 1 to 8 have Okabe and Ito's hues, and names.
ROLES: dict[str, dict[str, str]] = {
    "used": _state("in_use"),
    "internal": {"light": "#C84E00", "dark": "#B54A08"},
    "reserved": {"light": "#E6B422", "dark": "#FFE9A8"},
    "external": {"light": "#4A1040", "dark": "#E7A6CC"},
    "free": _state("free"),
    "cached": _state("cached"),
    "computed": _state("computed"),
    "shared": _state("shared"),
    # From most to least: what a cell holds of something, such as attention.
    **{
        f"share-{place}": {theme: RAMPS["age"][theme][place - 1] for theme in ("light", "dark")}
        for place in range(1, 6)
    },
    **{
        f"series-{place}": {theme: OWNERS["ABCDEFGH".index(letter)][theme] for theme in ("light", "dark")}
        for place, letter in enumerate("EFCGABDH", start=1)
    },
    "muted": {"light": "#767C82", "dark": "#8E969E"},
    "bound": {"light": "#1A1A1A", "dark": "#F0F0F0"},
}
HATCHED = ("cached",)


EASIER_IN_BLACK = 0.179
"""The relative luminance (WCAG 2.2) of a ground from which black has more contrast than white."""


def ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour (as in static/cells.js)."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > EASIER_IN_BLACK else "#ffffff"
