"""Text stands out by 4.5:1 and marks by 3:1 from every ground they lie on, in both themes."""

import re
from importlib.resources import files

import numpy as np
import pytest

from nano_batch.viz.bundle import static_text
from nano_batch.viz.palette import OTHERS, OWNERS, RAMPS, ROLES, STATES, ink_on

# What front ends lay under a view: JupyterLab's two themes, VS Code's, and the fallback in view.css.
HOSTS = {"light": {"#FFFFFF"}, "dark": {"#111111", "#1F1F1F"}}
TEXT = ("--nb-text", "--nb-quiet", "--nb-accent", "--nb-alarm")
MARKS = ("--nb-line", "--nb-accent")
PAGE_TEXT = (
    "--jp-ui-font-color0",
    "--page-quiet",
    "--page-link",
    "--code-word",
    "--code-text",
    "--code-number",
)


def luminance(colour):
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear)


def contrast(one, two):
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def variables(block):
    """The colour each variable ends with: a host's variable falls back to the last one named."""
    found = re.findall(r"(--[\w-]+):([^;]*?(#[0-9a-fA-F]{6})\)*);", block)
    return {name: colour for name, _, colour in found}


def view_theme(theme):
    css = static_text("view.css")
    light = variables(re.search(r"\.nb-view \{(.*?)\n\}", css, re.DOTALL).group(1))
    dark = variables(re.search(r'\.nb-view\[data-theme="dark"\] \{(.*?)\n\}', css, re.DOTALL).group(1))
    return light if theme == "light" else {**light, **dark}


def page_theme(theme):
    css = files("nano_batch.export").joinpath("static").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = (variables(block) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL))
    return light if theme == "light" else {**light, **dark}


def test_contrast_of_known_pairs():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", HOSTS)
def test_text_and_lines_of_a_view(theme):
    colours = view_theme(theme)
    assert {*TEXT, *MARKS, "--nb-paper"} <= set(colours)
    for paper in {colours["--nb-paper"], *HOSTS[theme]}:
        for name in TEXT:
            assert contrast(colours[name], paper) >= 4.5, (name, paper)
        for name in MARKS:
            assert contrast(colours[name], paper) >= 3, (name, paper)


@pytest.mark.parametrize("theme", HOSTS)
def test_states_stand_out(theme):
    for state in STATES:
        if state.key == "free":
            continue  # nothing is there
        for paper in HOSTS[theme]:
            assert contrast(getattr(state, theme), paper) >= 3, (state.key, paper)


@pytest.mark.parametrize("theme", HOSTS)
def test_hues_greys_and_ramps_stand_out(theme):
    hues = [owner[theme] for owner in OWNERS]
    ramps = [colour for ramp in RAMPS.values() for colour in ramp[theme]]
    assert (len(hues), len(ramps)) == (8, 10)
    for colour in [*hues, *OTHERS[theme], *ramps]:
        for paper in HOSTS[theme]:
            assert contrast(colour, paper) >= 3, (colour, paper)


@pytest.mark.parametrize("theme", HOSTS)
def test_text_of_an_exported_page(theme):
    colours = page_theme(theme)
    assert {*PAGE_TEXT, "--page-ground", "--page-line"} <= set(colours)
    for ground in (colours["--jp-layout-color0"], colours["--page-ground"]):
        for name in PAGE_TEXT:
            assert contrast(colours[name], ground) >= 4.5, (name, ground)
        assert contrast(colours["--page-line"], ground) >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_in_cells_stand_out_from_every_role(theme):
    for name, colours in ROLES.items():
        assert contrast(ink_on(colours[theme]), colours[theme]) >= 4.5, name
