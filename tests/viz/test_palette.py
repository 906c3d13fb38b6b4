"""Any two states can be told apart: CIEDE2000 >= 10 in full colour, greyscale and three colour visions."""

import itertools

import numpy as np
import pytest

from nano_batch.viz.bundle import static_text
from nano_batch.viz.palette import OTHERS, OWNERS, PHASES, RAMPS, STATES

XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB; greyscale by luminance.
SIGHTS = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "greyscale": np.tile(XYZ[1], (3, 1)),
}


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x = XYZ @ rgb / np.array([0.95047, 1, 1.08883])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one, two):
    (l1, a1, b1), (l2, a2, b2) = one, two
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    mean_l, mean_c, mean_h = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + turn / 2) % 360
    t = (
        1
        - 0.17 * np.cos(np.radians(mean_h - 30))
        + 0.24 * np.cos(np.radians(2 * mean_h))
        + 0.32 * np.cos(np.radians(3 * mean_h + 6))
        - 0.20 * np.cos(np.radians(4 * mean_h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    rotation = -np.sin(np.radians(60 * np.exp(-(((mean_h - 275) / 25) ** 2))))
    rotation *= 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25**7))
    dl, dc, dh = (l2 - l1) / s_l, (c2 - c1) / s_c, hue / s_h
    return float(np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh))


def test_ciede2000_on_published_pairs():
    # Sharma, Wu and Dalal (2005), pairs 1, 7 and 17.
    assert ciede2000((50, 2.6772, -79.7751), (50, 0, -82.7485)) == pytest.approx(2.0425, abs=1e-4)
    assert ciede2000((50, 0, 0), (50, -1, 2)) == pytest.approx(2.3669, abs=1e-4)
    assert ciede2000((50, 2.5, 0), (73, 25, -18)) == pytest.approx(27.1492, abs=1e-4)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_two_states_differ(theme, sight):
    matrix = np.array(SIGHTS[sight])
    seen = {state.key: lab(np.clip(matrix @ linear(getattr(state, theme)), 0, 1)) for state in STATES}
    for one, two in itertools.combinations(seen, 2):
        assert ciede2000(seen[one], seen[two]) >= 10, (one, two)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("sight", SIGHTS)
def test_a_ramp_runs_one_way_in_every_sight(theme, ramp, sight):
    matrix = np.array(SIGHTS[sight])
    steps = [lab(np.clip(matrix @ linear(colour), 0, 1)) for colour in RAMPS[ramp][theme]]
    lightness = [step[0] for step in steps]
    assert lightness in (sorted(lightness), sorted(lightness, reverse=True))
    assert all(ciede2000(one, two) >= 7 for one, two in itertools.pairwise(steps))
    assert len(steps) == len(RAMPS[ramp]["from"]) == len(RAMPS[ramp]["labels"])
    assert RAMPS[ramp]["from"] == sorted(RAMPS[ramp]["from"])


def seen_as(colour, sight):
    return lab(np.clip(np.array(SIGHTS[sight]) @ linear(colour), 0, 1))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_eight_owners_have_eight_letters_and_hues(theme):
    assert "".join(owner["letter"] for owner in OWNERS) == "ABCDEFGH"
    seen = [lab(linear(owner[theme])) for owner in OWNERS]
    assert all(ciede2000(one, two) >= 10 for one, two in itertools.combinations(seen, 2))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_where_a_sight_brings_two_hues_together_their_letters_differ(theme):
    near = {
        sight: [
            (one["letter"], two["letter"])
            for one, two in itertools.combinations(OWNERS, 2)
            if ciede2000(seen_as(one[theme], sight), seen_as(two[theme], sight)) < 10
        ]
        for sight in SIGHTS
    }
    assert near["full"] == []
    assert near["greyscale"]  # the second sign is needed: a browser test finds it drawn
    assert all(one != two for pairs in near.values() for one, two in pairs)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_the_blocks_of_neighbours_differ_in_every_sight(theme, sight):
    one, two = (seen_as(colour, sight) for colour in OTHERS[theme])
    assert ciede2000(one, two) >= 10


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_the_mark_of_a_delayed_neighbour_is_no_phase(theme, sight):
    """It has the colour of the text, which view.css falls back to where the host names none.

    In greyscale a prefill comes near to it: there the mark's place, at the foot of a bar, tells them apart.
    """
    ink = {"light": "#1a1a1a", "dark": "#f0f0f0"}[theme]
    assert ink in static_text("view.css")
    near = [
        look.key
        for look in PHASES
        if ciede2000(seen_as(ink, sight), seen_as(getattr(look, theme), sight)) < 10
    ]
    assert near == (["prefill"] if sight == "greyscale" else [])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_two_phases_of_full_bars_differ(theme, sight):
    """Waiting is a thin line, preempted hatched, idle outlined: the others are told apart by colour alone."""
    matrix = np.array(SIGHTS[sight])
    bars = [look for look in PHASES if look.key not in ("waiting", "preempted")]
    seen = {look.key: lab(np.clip(matrix @ linear(getattr(look, theme)), 0, 1)) for look in bars}
    assert len(seen) == 4
    for one, two in itertools.combinations(seen, 2):
        assert ciede2000(seen[one], seen[two]) >= 10, (one, two)


@pytest.mark.parametrize(("theme", "paper"), [("light", "#FFFFFF"), ("dark", "#111111")])
def test_phases_stand_out_from_the_page(theme, paper):
    for look in PHASES:
        if look.key in ("idle", "stalled"):
            continue  # an outline, and a bar between bars
        ends = sorted(float(XYZ[1] @ linear(colour)) for colour in (getattr(look, theme), paper))
        assert (ends[1] + 0.05) / (ends[0] + 0.05) >= 3, look.key
