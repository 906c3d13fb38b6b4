"""Charts as data: what is refused and stacked, where axes end; all forms show the same numbers."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from nano_batch.errors import InvalidArgumentError, UnknownOptionError, ViewError
from nano_batch.viz import (
    Area,
    Axis,
    Band,
    Bars,
    Cells,
    Chart,
    ChartView,
    Control,
    Line,
    Panel,
    Points,
    Ribbon,
    Rule,
    Shade,
    Text,
)
from nano_batch.viz.chart import thin
from nano_batch.viz.chart_wire import pack_chart
from nano_batch.viz.palette import ROLES
from nano_batch.viz.scales import spans, stacked

X = Axis("block size", "tokens", "log2")
Y = Axis("waste", "tokens")


def panel(**changed):
    areas = (Area("used", [0, 1, 2], [1, 2, 3], "used"), Area("free", [0, 1, 2], [4, 3, 2], "free"))
    return Panel(**{"title": "over time", "x": Axis("time", "s"), "y": Y, "series": areas, **changed})


def every_kind():
    """A chart with each series and each mark."""
    sizes = [1, 2, 4, 8]
    lines = (
        Band("range", sizes, [1, 2, 3, 4], [2, 4, 6, 8], "series-1"),
        Line("median", sizes, [1, np.nan, 5, 6], "series-1", dash="4 3"),
        Points("points", sizes, [1, 2, 3, 4], "series-2", hollow=[0, 1, 0, 0]),
        Points("elsewhere", [2], [7], "series-4", mark="diamond"),
    )
    cells = [Cells("read", [0, 1, 0], [0, 0, -1], "series-3", ["a", "b", "much too long a word for a cell"])]
    rows = Axis("", low=-1.5, high=0.5, ticks=[0, -1], names=["row 0", "row 1"])
    marks = (Rule("y", 5, "bound"), Shade(2, 4, "good"), Ribbon([1, 2, 8], ["a", "b"]), Text(2, 3, "here"))
    bars = [Bars(name, ["max", "paging"], [20, 90 - i], name) for i, name in enumerate(("used", "internal"))]
    return Chart(
        (
            panel(steps=[5, 6, 7]),
            Panel("over block size", X, Y, lines, marks),
            Panel("bars", Axis("allocator"), Axis("share", "%"), bars, [Shade(20.4, 38.2, "paper", "y")]),
            Panel("cells", Axis("place", low=-0.5, high=20), rows, cells),
        ),
        "A chart",
        columns=2,
        says=["It was 7."],
        numbers={"waste, tokens": 7.0},
    )


def test_a_misspelt_colour_scale_and_axis_name_the_nearest():
    with pytest.raises(UnknownOptionError, match="did you mean 'used'"):
        Line("a", [1], [1], "usd")
    with pytest.raises(UnknownOptionError, match="did you mean 'log2'"):
        Axis("a", scale="log3")
    with pytest.raises(UnknownOptionError, match="axis is 'z'"):
        Rule("z", 1)


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(InvalidArgumentError, match="2 values of y on 3 of x"):
        Line("a", [1, 2, 3], [1, 2], "used")
    with pytest.raises(InvalidArgumentError, match="one column"):
        Line("a", [[1]], [[1]], "used")
    with pytest.raises(InvalidArgumentError, match="1 categories and 2 values"):
        Bars("a", ["one"], [1, 2], "used")
    with pytest.raises(InvalidArgumentError, match="not one x"):
        panel(series=[Area("a", [0, 1], [1, 1], "used"), Area("b", [0, 2], [1, 1], "free")])
    with pytest.raises(InvalidArgumentError, match="ribbon of 2 words has 2 edges"):
        Ribbon([1, 2], ["a", "b"])
    with pytest.raises(InvalidArgumentError, match="two panels have one title"):
        Chart((panel(), panel()), "twice")
    with pytest.raises(InvalidArgumentError, match="-1 on a log2 axis"):
        spans(Chart([Panel("p", X, Y, [Line("a", [-1, 2], [1, 1], "used")])], "negative"))


def test_areas_and_bars_lie_on_each_other_in_the_order_given():
    (used, free) = stacked(panel())
    assert used[0].tolist() == [0, 0, 0]
    assert used[1].tolist() == free[0].tolist() == [1, 2, 3]
    assert free[1].tolist() == [5, 5, 5]
    two = (Bars("a", ["x", "y"], [1, 2], "used"), Bars("b", ["y"], [5], "free"))
    beside = Bars("c", ["x"], [9], "muted", stack="other")
    a, b, c = stacked(panel(series=(*two, beside)))
    assert a[1].tolist() == [1, 2]
    assert (b[0].tolist(), b[1].tolist()) == ([2], [7])
    assert c[0].tolist() == [0]


def test_axes_end_at_the_data_and_a_linear_y_starts_at_zero():
    x, y = spans(every_kind())[1]
    assert (x.low, x.high) == (1, 8)
    assert [words for _, words in x.ticks] == ["1", "2", "4", "8"]
    assert y.low == 0
    assert y.high > 8
    assert x.place([1, 8, 4]).tolist() == [0, 1, pytest.approx(2 / 3)]
    (bars, share) = spans(every_kind())[2]
    assert [words for _, words in bars.ticks] == ["max", "paging"]
    assert share.high == pytest.approx(1.04 * 179)


def test_shared_axes_have_one_scale():
    high = panel(title="other", series=[Area("used", [0, 9], [100, 100], "used")])
    apart, together = (spans(Chart((panel(), high), "two", share=share)) for share in ("", "xy"))
    assert apart[0][1].high != apart[1][1].high
    assert together[0][0].high == together[1][0].high == 9
    assert together[0][1].high == together[1][1].high
    assert together[0][1].ticks == together[1][1].ticks


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0, 37), (3, 1000), (-5, 5), (0, 32_768)):
        chart = Chart([Panel("p", Axis("x", low=low, high=high), Y, [Line("a", [0], [1], "used")])], "ticks")
        values = [value for value, _ in spans(chart)[0][0].ticks]
        assert 4 <= len(values) <= 11
        assert all(low <= value <= high for value in values)
        assert np.allclose(np.diff(values), values[1] - values[0])


@pytest.mark.parametrize(
    ("scale", "low", "high", "expected"),
    [("log10", 3.64, 9.92, [4, 6, 8]), ("log10", 5.4, 42, [6, 8, 10, 15, 20, 30, 40]),
     ("log10", 1, 9, [1, 2, 5]), ("log10", 20, 60_000, [100, 1000, 10_000]), ("log2", 8, 40, [8, 16, 32]),
     ("log10", 5, 7, [5, 5.5, 6, 6.5, 7]), ("log2", 5, 7, [5, 5.5, 6, 6.5, 7])],
)  # fmt: skip
def test_a_logarithmic_axis_has_three_ticks_or_more(scale, low, high, expected):
    axis = Axis("x", scale=scale, low=low, high=high)
    chart = Chart([Panel("p", axis, Y, [Line("a", [5, 7], [1, 2], "used")])], "ticks")
    assert [value for value, _ in spans(chart)[0][0].ticks] == pytest.approx(expected)


def test_thinned_columns_keep_their_ends():
    x, y = thin(10, np.arange(101), np.arange(101) ** 2)
    assert (x[0], x[-1], len(x)) == (0, 100, 11)
    assert (y == x**2).all()
    assert [len(each) for each in thin(10, [], [])] == [0, 0]


def test_the_wire_holds_every_value_once():
    packed = pack_chart(every_kind())
    data = np.frombuffer(packed["data"], "<f8")
    for shown, told in zip(every_kind().panels, packed["panels"], strict=True):
        for (low, high), each in zip(stacked(shown), told["series"], strict=True):
            for name, column in (("low", low), ("high", high)):
                first, count = each[name]
                assert np.array_equal(data[first : first + count], column, equal_nan=True)
    used, free = packed["panels"][0]["series"]
    assert (used["x"], used["high"]) == (free["x"], free["low"])
    assert [mark["kind"] for mark in packed["panels"][1]["marks"]] == ["rule", "shade", "ribbon", "text"]


def test_still_pictures_show_every_series_in_its_colour():
    view = ChartView(every_kind)
    svg = view.svg()
    for name in ("used", "internal", "series-1", "series-2"):
        assert ROLES[name]["light"] in svg
    for words in ("over block size", "block size, tokens", "paper", "here", "It was 7.", "paging"):
        assert words in svg
    image = Image.open(io.BytesIO(view.poster()))
    seen = {colour for _, colour in image.getcolors(1 << 20)}
    for name in ("used", "internal", "free", "series-1"):
        assert tuple(int(ROLES[name]["light"][i : i + 2], 16) for i in (1, 3, 5)) in seen


def test_the_plotly_twin_draws_the_same_numbers():
    chart, figure = every_kind(), ChartView(every_kind).figure()
    tops = {trace.name: np.asarray(trace.y) for trace in figure.data if trace.type == "scatter"}
    assert tops["median"].tolist()[2:] == [5, 6]
    assert tops["free"].tolist() == [5, 5, 5]
    bars = {
        trace.name: (trace.base.tolist(), trace.y.tolist()) for trace in figure.data if trace.type == "bar"
    }
    assert bars["internal"] == ([20, 90], [20, 89])
    assert figure.layout.title.text == chart.title


def test_caption_table_frame_and_files(tmp_path):
    view = ChartView(every_kind, about="three requests")
    lines = view.caption().splitlines()
    assert 3 <= len(lines) <= 6
    assert lines[:2] == ["A chart, live, this machine", "three requests"]
    assert "waste 7 tokens" in lines[2]
    assert repr(view) == view.caption()
    assert view.table().rows[0] == ("over time: used", "3", "1", "1", "3", "3")
    frame = view.to_frame()
    assert frame[frame.series == "free"].high.tolist() == [5, 5, 5]
    assert len(frame) == sum(len(low) for each in every_kind().panels for low, _ in stacked(each))
    for name in ("a.png", "a.svg", "a.html", "a.csv"):
        assert view.save(tmp_path / name).stat().st_size > 100
    assert re.search("over time: used,3,1,1,3,3", (tmp_path / "a.csv").read_text(encoding="utf-8"))


SIZE = Control("size", "Size", "tokens", (1, 2, 4), 2, "larger: more")
KIND = Control("kind", "Kind", "", ("one", "two"), "one", "which")


def made(size, kind):
    if size > 4:
        raise ValueError(f"size is {size}; it must be at most 4")
    line = Line("waste", [1, 2], [size, 2 * size], "series-1")
    return Chart([Panel("p", X, Y, [line])], "Steered", numbers={"waste, tokens": 2.0 * size})


def test_a_control_makes_another_chart_and_an_error_keeps_the_last_good_one():
    view = ChartView(made, (SIZE, KIND), recreate="again(...)")
    assert view.difference() == ""
    view.size = 4
    assert view.chart.numbers == {"waste, tokens": 8.0}
    assert view.difference() == "against the setting before: waste +4 tokens"
    assert view.code() == "again(size=4)"
    with pytest.raises(ValueError, match="at most 4"):
        view.size = 8
    assert (view.size, view.chart.numbers["waste, tokens"]) == (4, 8.0)
    assert view.error.startswith("ValueError: size is 8")
    with pytest.raises(UnknownOptionError, match="did you mean 'two'"):
        view.kind = "tow"
    assert view.kind == "one"
    view.pinned = True
    view.size = 1
    assert view.difference() == "against the pinned run (size 4): waste −6 tokens"
    assert view.error == ""


def test_the_run_behind_a_mark(tmp_path):
    from nano_batch import lab

    workload = lab.Workload.synthetic(4, prompts=20, outputs=4, seed=1, arrivals="at_once")
    run = lab.serve(workload, memory_tokens=256, block_size=4)

    def make():
        x, y = run.steps.start_s, run.steps.slots_used
        timed = Panel("over time", Axis("time", "s"), Y, [Area("used", x, y, "used")], steps=run.steps.step)
        sizes = Panel("sizes", X, Y, [Points("two", [1, 2], [1, 2], "series-1")])
        return Chart((timed, sizes), "runs"), {"over time": lambda: run, ("sizes", "two"): [run, None]}

    view = ChartView(make)
    opened = view.open_run("over time", "used", 2)
    assert opened is view.opened
    assert opened.step == run.steps.step[2]
    assert view._opened["_run"] == opened._run
    assert view.open_run("sizes", "two", 0).table() == lab.BlockTableView(run).table()
    with pytest.raises(ViewError, match="no run behind 'two'"):
        view.open_run("sizes", "two", 1)
    with pytest.raises(ViewError, match="2 points; there is no number 2"):
        view.open_run("sizes", "two", 2)
    with pytest.raises(UnknownOptionError, match="did you mean 'sizes'"):
        view.open_run("sises", "two")
    view._answer({"opened": {"step": 1, "_run": {}}})
    assert view.opened.step == 1
    assert view.opened._run  # only what a reader moves is taken from the page
    view._answer({"opened": None})
    assert view.opened is None


def test_one_clock_with_the_views_of_a_run():
    from nano_batch.viz import Selection

    selection = Selection()
    view = ChartView(every_kind, selection=selection)
    selection.step = 6
    assert view.cursor == 1.0
    view.cursor = 1.9
    assert selection.step == 7


def test_cells_are_squares_with_words_where_there_is_room():
    (cells,) = every_kind().panels[3].series
    low, high = stacked(every_kind().panels[3])[0]
    np.testing.assert_allclose(high - low, 0.92)
    np.testing.assert_allclose((high + low) / 2, cells.y)
    _, y = spans(every_kind())[3]
    assert y.ticks == ((0.0, "row 0"), (-1.0, "row 1"))
    told = pack_chart(every_kind())["panels"][3]["series"][0]
    assert (told["kind"], told["words"][:2], told["tips"]) == ("cells", ["a", "b"], ["", "", ""])
    text = ChartView(every_kind).svg()
    assert ">a</text>" in text
    assert "much too long" not in text


def test_cells_and_names_that_do_not_fit_are_refused():
    with pytest.raises(InvalidArgumentError, match="2 words for 1 cells"):
        Cells("read", [0], [0], "used", ["a", "b"])
    with pytest.raises(InvalidArgumentError, match="1 names for 2 ticks"):
        Axis("y", ticks=[0, 1], names=["a"])
    with pytest.raises(UnknownOptionError, match="'diamond'"):
        Points("p", [0], [0], "used", mark="diamnod")
