"""Roles of a chart: slots are told apart in every sight, or by a hatching; lines reach 3:1 from the page."""

import itertools

import numpy as np
import pytest
from test_palette import SIGHTS, ciede2000, lab, linear

from nano_batch.viz.palette import HATCHED, ROLES, STATES

SLOTS = ("used", "internal", "reserved", "external", "free", "cached")
PAGES = {"light": "#FFFFFF", "dark": "#111111"}


def seen_as(role, theme, sight):
    return lab(np.clip(np.array(SIGHTS[sight]) @ linear(ROLES[role][theme]), 0, 1))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_two_kinds_of_slots_differ(theme, sight):
    for one, two in itertools.combinations(SLOTS, 2):
        if (one in HATCHED) == (two in HATCHED):
            assert ciede2000(seen_as(one, theme, sight), seen_as(two, theme, sight)) >= 10, (one, two)


def test_what_the_block_table_shows_too_has_its_colour():
    states = {state.key: state for state in STATES}
    for role, key in (
        ("used", "in_use"),
        ("free", "free"),
        ("cached", "cached"),
        ("computed", "computed"),
        ("shared", "shared"),
    ):
        assert ROLES[role] == {"light": states[key].light, "dark": states[key].dark}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_series_are_eight_hues_three_to_one_from_the_page(theme):
    names = [f"series-{place}" for place in range(1, 9)]
    seen = [lab(linear(ROLES[name][theme])) for name in names]
    assert all(ciede2000(one, two) >= 10 for one, two in itertools.combinations(seen, 2))
    weights = np.array([0.2126, 0.7152, 0.0722])
    page = weights @ linear(PAGES[theme])
    for name in (*names, "muted", "bound", "used", "external"):
        own = weights @ linear(ROLES[name][theme])
        low, high = sorted((own, page))
        assert (high + 0.05) / (low + 0.05) >= 3, name
