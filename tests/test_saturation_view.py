"""The picture of load curves: what it draws is what the curves are, and a click opens that run."""

from __future__ import annotations

import numpy as np
import pytest

from nano_batch import lab
from nano_batch.errors import SweepError, UnknownOptionError, ViewError
from nano_batch.metrics import SLO
from nano_batch.saturation import load_curve
from nano_batch.saturation.limits import THROUGHPUT
from nano_batch.saturation.view import gpu
from nano_batch.viz.chart import Line, Points, Ribbon, Rule, Shade

USERS = (1, 2, 4, 8)


@pytest.fixture
def view():
    return lab.saturation(max_num_seqs=2, loads=USERS)


def panel(view, name):
    return next(panel for panel in view.chart.panels if panel.title.startswith(name))


def series(view, name, kind, letter):
    return next(s for s in panel(view, name).series if isinstance(s, kind) and s.name.startswith(letter))


def marks(view, name, kind):
    return [mark for mark in panel(view, name).marks if isinstance(mark, kind)]


def test_it_draws_the_curves_of_both_configurations(view):
    for letter, seqs in (("A", 32), ("B", 2)):
        curve = load_curve(gpu(max_num_seqs=seqs), USERS)
        drawn = series(view, "Output", Points, f"{letter}, median")
        assert drawn.x.tolist() == list(USERS)
        assert (drawn.y == curve.spread(THROUGHPUT)[0]).all()
        goodput = series(view, "Goodput", Points, f"{letter}, median")
        assert (goodput.y == curve.goodput(SLO(ttft_s=0.2, tpot_s=0.01))[0]).all()
        ttft = series(view, "Time to first", Points, f"{letter}, p99")
        assert (ttft.y == 1e3 * curve.spread("ttft_p99_s")[0]).all()
        assert ttft.hollow.all()
        bound = series(view, "Output", Line, f"{letter}, bound")
        assert (drawn.y <= 1.05 * bound.y).all()


def test_the_ribbon_names_the_limit_and_the_shade_the_best_point(view):
    (words,) = marks(view, "Output", Ribbon)
    assert words.words == ["bandwidth", "max_num_seqs"]
    assert words.edges == pytest.approx([1, np.sqrt(8), 8])
    (shade,) = marks(view, "Goodput", Shade)
    assert shade.label == "B meets the objectives, best at 2"
    assert (shade.low, shade.high) == (1, pytest.approx(np.sqrt(8)))


def test_an_objective_moves_line_goodput_and_range_together(view):
    before = series(view, "Goodput", Points, "B, median").y
    view.tpot_ms = 3
    (rule,) = marks(view, "Time per", Rule)
    assert (rule.at, rule.sets) == (pytest.approx(3.0), "tpot_ms")
    assert (series(view, "Goodput", Points, "B, median").y < before).any()
    assert marks(view, "Goodput", Shade) == []
    assert "never meets" in view.caption()


def test_controls_move_b_only_and_the_difference_is_signed(view):
    a, b = (series(view, "Output", Points, f"{letter}, median").y for letter in "AB")
    view.max_num_seqs = 8
    assert (series(view, "Output", Points, "A, median").y == a).all()
    assert (series(view, "Output", Points, "B, median").y >= b).all()
    assert "+" in view.difference()
    assert view.table().columns[-1] == "B against A, %"
    assert [row[-1] for row in view.table().rows] == ["+0.0"] * 4


def test_a_click_opens_the_run_of_that_point(view):
    opened = view.open_run("Output throughput", "B, median", 3)
    assert "2 " in opened.caption()
    run = view._run_behind("Output throughput", "B, median", 3)
    assert run.steps.running.max() == 2
    assert run.events is not None
    assert run.requests.arrival_s[:8].tolist() == [0.0] * 8
    with pytest.raises(ViewError, match="is no run"):
        view.open_run("Output throughput", "B, bound", 0)


def test_one_user_against_the_whole_gpu(view):
    view.shows = "user against GPU"
    (only,) = view.chart.panels
    path = next(each for each in only.series if isinstance(each, Points) and each.name == "A")
    curve = load_curve(gpu(), USERS)
    assert (path.x == 1 / curve.spread("tpot_p50_s")[0]).all()
    assert (np.diff(path.y) > 0).all()
    assert (np.diff(path.x) < 0).all()


def test_over_a_rate_an_unstable_point_has_no_value():
    view = lab.saturation(over="rate", loads=(1, 16), max_num_seqs=2)
    assert np.isnan(series(view, "Output", Points, "B, median").y).tolist() == [False, True]
    assert panel(view, "Time to first").note == "B unstable at 16"
    row = view.table().rows[1]
    assert "unstable" in row
    assert row[-1] == ""
    assert view.table().columns[0] == "arrivals requests/s"


def test_a_bad_setting_is_named_and_the_picture_stays(view):
    before = view.table()
    with pytest.raises(SweepError, match="block_size is 65536"):
        view.block_size = 65_536
    assert view.block_size == 16
    assert view.table() == before
    with pytest.raises(UnknownOptionError, match="h200"):
        lab.saturation({"hardware": "h2000"})


def test_it_is_written_as_csv_and_as_one_page(view, tmp_path):
    assert view.save(tmp_path / "a.csv").read_text(encoding="utf-8").count("\n") >= 5
    page = view.save(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
