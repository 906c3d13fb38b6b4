"""The workload class: its rules, parts, tables and pictures."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from nano_batch.errors import WorkloadError
from nano_batch.workloads import Families, Uniform, Workload


def blocks() -> Workload:
    return Workload([0.0, 1.5, 3.0], [5, 4, 1], [2, 3, 4], [0, 2, 3, 4], [0, 1, 0, 7], 4, name="small")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (([0.0], [1, 2], [1]), "rows"),
        (([[0.0]], [1], [1]), "2 dimensions"),
        ((["a"], [1], [1]), "must be numbers"),
        (([1.0, 0.5], [1, 1], [1, 1]), "row 1 is 0.5"),
        (([-1.0], [1], [1]), "row 0 is -1"),
        (([float("inf")], [1], [1]), "row 0 is inf"),
        (([float("nan")], [1], [1]), "first arrival"),
        (([0.0, float("nan"), 3.0], [1, 1, 1], [1, 1, 1]), "row 2 is 3.0"),
        (([0.0], [0], [1]), "prompt_tokens of row 0 is 0"),
        (([0.0], [1], [2**31]), "output_tokens of row 0 is 2147483648"),
        (([0.0], [1.5], [1]), "prompt_tokens of row 0 is 1.5"),
        (([0.0], [5], [1], [0, 1], [0], 4), "row 0 has 1 block ids"),
        (([0.0], [5], [1], [0, 2], [0, 2**29], 4), "from 0 to 536870911"),
        (([0.0], [5], [1], [0, 2], [0, 1], 0), "block_size is 0"),
        (([0.0], [5], [1], [0, 2], [0, 1], None), "together"),
        (([0.0], [5], [1], [1, 2], [0, 1], 4), "block_offsets"),
    ],
)
def test_rules(columns, words):
    with pytest.raises(WorkloadError, match=words):
        Workload(*columns)


def test_the_callers_arrays_stay_writable():
    tokens = np.array([3, 4])
    workload = Workload([0.0, 1.0], tokens, [1, 1])
    tokens[0] = 9
    assert workload.prompt_tokens.tolist() == [3, 4]


def test_slices_keep_times_and_content():
    part = blocks()[1:]
    assert part.arrival_s.tolist() == [1.5, 3.0]
    assert [part.block_ids_of(row) for row in range(2)] == [[0], [7]]
    assert [blocks()[::2].block_ids_of(row) for row in range(2)] == [[0, 1], [7]]
    assert blocks().head(1).prompt_tokens.tolist() == [5]
    assert len(blocks().head(99)) == 3
    assert len(blocks()[3:]) == 0
    with pytest.raises(WorkloadError, match="step is -1"):
        blocks()[::-1]
    with pytest.raises(WorkloadError, match="n is -1"):
        blocks().head(-1)
    with pytest.raises(TypeError, match="sliced"):
        blocks()[0]


def test_scaled_and_shifted():
    workload = blocks()
    assert workload.rate_per_s == pytest.approx(2 / 3)
    fast = workload.scaled(rate=2.0)
    assert fast.arrival_s.tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert fast.rate_per_s == pytest.approx(2.0)
    assert workload[1:].shifted(10.0).arrival_s.tolist() == [10.0, 11.5]
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(WorkloadError, match="rate is"):
            workload.scaled(rate=rate)
    with pytest.raises(WorkloadError, match="no rate"):
        Workload.synthetic(5, arrivals="closed_loop", users=2).scaled(rate=1.0)
    with pytest.raises(WorkloadError, match="start_s"):
        workload.shifted(-1.0)


def test_requests_are_keyword_arguments_of_add_request():
    first, second, _ = blocks().requests()
    assert first == {
        "request_id": "r0",
        "num_prompt_tokens": 5,
        "max_tokens": 2,
        "arrival_time": 0.0,
        "ignore_eos": True,
        "prompt_block_ids": [0, 1],
        "prompt_block_size": 4,
    }
    assert second["arrival_time"] == 1.5
    loop = Workload.synthetic(2, arrivals="closed_loop", users=1)
    assert np.isnan(loop.request(1)["arrival_time"])
    assert loop.request(1, arrival_s=4.0)["arrival_time"] == 4.0
    assert "prompt_block_ids" not in loop.request(0)


def test_frames_go_out_and_come_in():
    frame = blocks().to_frame()
    assert list(frame) == ["arrival_s", "prompt_tokens", "output_tokens", "block_ids"]
    assert frame["block_ids"].tolist() == [[0, 1], [0], [7]]
    back = Workload.from_frame(frame, arrival="arrival_s", prompt="prompt_tokens", output="output_tokens")
    assert back.arrival_s.tolist() == [0.0, 1.5, 3.0]
    assert back.prompt_tokens.tolist() == [5, 4, 1]


@pytest.mark.parametrize(
    "times",
    [
        [7.0, 5.0, 6.25],
        pd.to_datetime(["2024-01-01 00:00:02.00", "2024-01-01 00:00:00.00", "2024-01-01 00:00:01.25"]),
        pd.to_datetime(
            ["2024-01-01 00:00:02.00", "2024-01-01 00:00:00.00", "2024-01-01 00:00:01.25"]
        ).tz_localize("UTC"),
        [
            datetime.datetime(2024, 1, 1, 0, 0, 2),
            datetime.datetime(2024, 1, 1),
            datetime.datetime(2024, 1, 1, 0, 0, 1, 250_000),
        ],
        ["2024-01-01T00:00:02", "2024-01-01T00:00:00", "2024-01-01T00:00:01.25"],
    ],
)
@pytest.mark.parametrize("kind", [dict, pd.DataFrame])
def test_from_frame_takes_seconds_and_datetimes_in_any_order(times, kind):
    workload = Workload.from_frame(
        kind({"t": times, "p": [1, 2, 3], "o": [4.0, 5.0, 6.0]}), arrival="t", prompt="p", output="o"
    )
    assert workload.arrival_s.tolist() == [0.0, 1.25, 2.0]
    assert workload.prompt_tokens.tolist() == [2, 3, 1]
    assert workload.output_tokens.tolist() == [5, 6, 4]


def test_from_frame_with_mixed_time_zones_counts_utc():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    times = [
        datetime.datetime(2024, 1, 1, 2, 0, 3, tzinfo=zone),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    ]
    workload = Workload.from_frame(
        {"t": times, "p": [1, 2], "o": [1, 1]}, arrival="t", prompt="p", output="o"
    )
    assert workload.arrival_s.tolist() == [0.0, 3.0]
    assert workload.prompt_tokens.tolist() == [2, 1]


def test_from_frame_without_arrivals_is_all_at_once():
    workload = Workload.from_frame({"p": [1, 2], "o": [3, 4]}, arrival=None, prompt="p", output="o")
    assert workload.arrival_s.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"x": [1.0], "p": [1], "o": [1]}, "no column 't'; it has: x, p, o"),
        ({"t": [0.0, float("nan")], "p": [1, 1], "o": [1, 1]}, "t of row 1 is nan"),
        ({"t": [0.0], "p": [0], "o": [1]}, "p of row 0 is 0"),
        ({"t": [0.0], "p": [1], "o": [1.5]}, "o of row 0 is 1.5"),
        ({"t": [0.0], "p": [1, 2], "o": [1, 2]}, "1, 2 and 2 rows"),
        ({"t": ["noon"], "p": [1], "o": [1]}, "must be seconds or datetimes"),
        ({"t": [None], "p": [1], "o": [1]}, "t"),
    ],
)
def test_from_frame_names_what_is_wrong(table, words):
    with pytest.raises(WorkloadError, match=words):
        Workload.from_frame(table, arrival="t", prompt="p", output="o")


def test_from_frame_names_the_columns_a_frame_has():
    with pytest.raises(WorkloadError, match="no column 't'; it has: x, y"):
        Workload.from_frame(pd.DataFrame({"x": [1], "y": [2]}), arrival="t", prompt="x", output="y")


def test_from_frame_takes_nullable_integers():
    frame = pd.DataFrame({"p": pd.array([1, 2], dtype="Int64"), "o": pd.array([3, 4], dtype="Int64")})
    assert Workload.from_frame(frame, arrival=None, prompt="p", output="o").output_tokens.tolist() == [3, 4]


def test_equality_is_of_columns():
    assert blocks() == Workload(
        *[
            getattr(blocks(), name)
            for name in (
                "arrival_s",
                "prompt_tokens",
                "output_tokens",
                "block_offsets",
                "block_ids",
                "block_size",
            )
        ]
    )
    assert blocks() != blocks().scaled(rate=5.0)
    assert len({blocks(), blocks()}) == 1
    assert blocks() != 3


def test_it_shows_itself():
    text = repr(blocks())
    assert text.splitlines() == [
        "Workload small: 3 requests, 0.667/s over 3 s, CV 0, 3 distinct blocks of 4 tokens",
        "  prompt tokens: median 4, mean 3.33, p95 4.9, p99 4.98, total 10",
        "  output tokens: median 3, mean 3, p95 3.9, p99 3.98, total 9",
    ]
    html = blocks()._repr_html_()
    assert html.count("<tr>") == 3
    assert "script" not in html
    assert repr(blocks()[3:]) == "Workload small: 0 requests, 0 distinct blocks of 4 tokens"
    assert "closed loop of 2 users" in repr(Workload.synthetic(5, arrivals="closed_loop", users=2))
    assert "<script" not in Workload([0.0], [1], [1], name="<script>")._repr_html_()


def test_csv_round_trips(tmp_path):
    families = Workload.synthetic(50, prompts=Uniform(1, 40), families=Families(2, 16), seed=9)
    for number, workload in enumerate(
        [families, Workload.synthetic(50), Workload.synthetic(9, arrivals="closed_loop", users=4), blocks()]
    ):
        for suffix in ("csv", "csv.gz"):
            path = tmp_path / f"w{number}.{suffix}"
            workload.to_csv(path)
            assert Workload.read(path) == workload
    assert (tmp_path / "w3.csv").read_text().splitlines()[
        0
    ] == "arrival_s,prompt_tokens,output_tokens,block_ids_of_4"
    assert (tmp_path / "w3.csv.gz").read_bytes()[:2] == b"\x1f\x8b"
