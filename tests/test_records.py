"""Records: columns, replay of a hand-made log, files."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from nano_batch import Workload, simulate
from nano_batch.errors import MissingExtraError, RecordsError, ReplayError, SchemaVersionError
from nano_batch.records import (
    SCHEMA_VERSION,
    EventLog,
    Kind,
    Requests,
    Run,
    SequenceState,
    State,
    Steps,
    replay,
    walk,
)
from nano_batch.records.schema import NO_SEQUENCE

EMPTY = {"sequence": [], "state": [], "stored": [], "lane": [], "table_offsets": [0], "tables": []}
START = State(0, 0, [0, 0, 0, 0], [0, 0, 0, 0], **EMPTY)

# step, kind, sequence, block, argument: sequence 0 fills block 2 and shares it with its fork 1, which copies
# block 3 when it writes.
EVENTS = [
    (0, Kind.ARRIVED, 0, -1, 5),
    (1, Kind.ADMITTED, 0, 7, 0),
    (1, Kind.ALLOCATED, 0, 2, 0),
    (1, Kind.ALLOCATED, 0, 3, 1),
    (1, Kind.SCHEDULED, 0, -1, 5),
    (1, Kind.CACHED, 0, 2, 99),
    (1, Kind.FORKED, 1, -1, 0),
    (1, Kind.ADMITTED, 1, 4, 5),
    (1, Kind.SHARED, 1, 2, 0),
    (1, Kind.SHARED, 1, 3, 1),
    (2, Kind.COPIED, 1, 0, 3),
    (2, Kind.SCHEDULED, 1, -1, 1),
    (3, Kind.FREED, 0, 3, 1),
    (3, Kind.FREED, 0, 2, 0),
    (3, Kind.PREEMPTED, 0, -1, 0),
    (4, Kind.FINISHED, 1, -1, 1),
    (4, Kind.FREED, 1, 0, 1),
    (4, Kind.FREED, 1, 2, 0),
    (5, Kind.EVICTED, NO_SEQUENCE, 2, 99),
    (5, Kind.SWAPPED_OUT, 0, 1, 1),
    (5, Kind.SWAPPED_IN, 0, 1, 1),
]


def make_log(events=EVENTS, keyframes=(START,), first_event=0, ids=None) -> EventLog:
    columns = np.array(events, np.int64).reshape(-1, 5).T
    names = {0: "a", 1: "b"} if ids is None else ids
    return EventLog(*columns, tuple(keyframes), first_event, num_blocks=4, block_size=4, request_ids=names)


def test_replay_of_each_kind_of_event():
    log = make_log()
    first = replay(log, step=1)
    assert first.block_references.tolist() == [0, 0, 2, 2]
    assert first.block_cached.tolist() == [0, 0, 1, 0]
    assert first.sequence.tolist() == [0, 1]
    assert first.state.tolist() == [SequenceState.RUNNING, SequenceState.RUNNING]
    assert (first.stored.tolist(), first.lane.tolist()) == ([5, 5], [7, 4])
    assert [first.table(row).tolist() for row in range(2)] == [[2, 3], [2, 3]]
    second = replay(log, step=2)
    assert second.block_references.tolist() == [1, 0, 2, 1]
    assert second.table(1).tolist() == [2, 0]
    assert second.stored.tolist() == [5, 6]
    third = replay(log, step=3)
    assert third.state.tolist() == [SequenceState.WAITING, SequenceState.RUNNING]
    assert (third.stored.tolist(), third.lane.tolist()) == ([0, 6], [-1, 4])
    assert third.table(0).tolist() == []
    assert third.block_counts == (2, 0, 2)
    fourth = replay(log, step=4)
    assert fourth.sequence.tolist() == [0]
    assert fourth.block_counts == (0, 1, 3)
    assert replay(log, step=5).block_counts == (0, 0, 4)
    assert replay(log) == replay(log, step=99)
    assert replay(log, event=0) == START
    ending = replay(log, event=17)
    assert ending.state.tolist() == [SequenceState.WAITING, SequenceState.ENDING]
    assert ending.table(1).tolist() == [2, -1]


def test_walk_gives_the_state_after_each_step():
    states = list(walk(make_log()))
    assert [state.step for state in states] == [0, 1, 2, 3, 4, 5]
    assert all(state == replay(make_log(), step=state.step) for state in states)
    assert list(walk(make_log([]))) == []


def test_replay_starts_at_the_newest_keyframe():
    frame = replay(make_log(), event=10)
    assert replay(make_log(keyframes=[START, frame]), step=3) == replay(make_log(), step=3)
    # A keyframe that is not the state shows: it was used.
    other = State(1, 10, [1, 0, 0, 0], [0, 0, 0, 0], [1], [0], [5], [-1], [0, 1], [0])
    with pytest.raises(ReplayError, match="event 10"):
        replay(make_log(keyframes=[START, other]), step=3)


def test_a_log_that_lost_its_start():
    frame = replay(make_log(), event=10)
    rest = make_log(EVENTS[10:], [frame], first_event=10)
    assert replay(rest) == replay(make_log())
    assert replay(rest, step=2) == replay(make_log(), step=2)
    with pytest.raises(ReplayError, match="step 0 is not in the log; it begins at step 1"):
        replay(rest, step=0)
    with pytest.raises(ReplayError, match="event 9 is not in the log; it holds 10 to 21"):
        replay(rest, event=9)
    with pytest.raises(ReplayError, match="one of them"):
        replay(rest, step=1, event=10)
    with pytest.raises(RecordsError, match="no keyframe at its first event"):
        make_log(EVENTS[10:], [START], first_event=10)


@pytest.mark.parametrize(
    "event",
    [
        (5, Kind.ARRIVED, 0, -1, 5),
        (5, Kind.ADMITTED, 9, 0, 0),
        (5, Kind.SCHEDULED, 9, -1, 1),
        (5, Kind.FREED, 0, 2, 0),
        (5, Kind.EVICTED, NO_SEQUENCE, 2, 99),
        (5, Kind.COPIED, 0, 1, 3),
        (5, Kind.FORKED, 0, -1, 0),
        (5, Kind.ALLOCATED, 0, 4, 0),
        (5, 14, 0, 0, 0),
    ],
)
def test_a_log_that_contradicts_itself_is_refused(event):
    with pytest.raises(ReplayError, match="event 21 "):
        replay(make_log([*EVENTS, event]))


def test_a_block_allocated_while_held_is_refused():
    extra = [(5, Kind.ALLOCATED, 0, 1, 0), (5, Kind.ALLOCATED, 0, 1, 1)]
    with pytest.raises(ReplayError, match="has 1 references"):
        replay(make_log([*EVENTS, *extra]))


def test_states_compare_by_sequence_number():
    one = State(0, 0, [1, 1], [0, 0], [4, 2], [1, 1], [3, 1], [0, 1], [0, 1, 2], [0, 1])
    two = State(9, 9, [1, 1], [0, 0], [2, 4], [1, 1], [1, 3], [1, 0], [0, 1, 2], [1, 0])
    assert one == two
    changed = State(0, 0, [1, 1], [0, 1], [4, 2], [1, 1], [3, 1], [0, 1], [0, 1, 2], [1, 0])
    assert one.differences(changed) == ["block_cached", "tables"]
    with pytest.raises(RecordsError, match="differ in length"):
        State(0, 0, [1, 1], [0, 0], [4], [1, 1], [3, 1], [0, 1], [0, 1, 2], [0, 1])


def requests(count: int = 2) -> Requests:
    numbers = np.arange(count)
    ids = np.array([f"r{i}" for i in numbers], np.str_)
    times = [numbers * 1.0, numbers + 1.0, numbers + 2.0, np.where(numbers == 0, 3.0, np.nan)]
    ends = np.where(numbers == 0, "length", "")
    return Requests(numbers, ids, *times, numbers + 5, numbers, numbers + 2, numbers + 4, numbers, ends)


def steps(count: int = 3) -> Steps:
    numbers = np.arange(1, count + 1)
    return Steps(numbers, numbers - 1.0, np.ones(count), *[numbers] * 14)


def run(events: EventLog | None = None) -> Run:
    return Run(requests(), steps(), events, {"workload": {"name": "mine"}, "engine": {"num_blocks": 4}})


def test_columns_are_checked_and_frozen():
    assert requests().arrival_s.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        steps().step[0] = 3
    with pytest.raises(RecordsError, match="not of one length"):
        Steps([1], [0.0], [1.0], [1, 2], *[[1]] * 13)
    with pytest.raises(RecordsError, match=r"Steps\.step holds values outside uint32"):
        Steps(np.array([-1]), [0.0], [1.0], *[[1]] * 14)
    with pytest.raises(RecordsError, match="2 dimensions"):
        Steps([[1]], [0.0], [1.0], *[[1]] * 14)
    assert requests() == requests()
    assert requests() != requests(3)
    assert list(requests().to_frame()) == list(Requests.DTYPES)
    assert requests().to_frame()["finish_reason"].tolist() == ["length", ""]
    assert requests()._repr_html_().count("<tr>") == 3
    assert len(repr(steps()).splitlines()) <= 3


def test_columns_match_the_document():
    import re
    from pathlib import Path

    text = (Path(__file__).parents[1] / "docs" / "records.md").read_text(encoding="utf-8")
    for heading, table in (("requests", Requests), ("steps", Steps)):
        part = text.split(f"## `{heading}`")[1].split("\n## ")[0]
        names = [
            name for row in re.findall(r"^\| (`.*?) \|", part, re.M) for name in re.findall(r"`(\w+)`", row)
        ]
        assert names == list(table.DTYPES)
    kinds = re.findall(r"^\| (\d+) \| `(\w+)`", text, re.M)
    assert {int(number): name.upper() for number, name in kinds} == {kind.value: kind.name for kind in Kind}
    assert f"version **{SCHEMA_VERSION}**" in text


@pytest.mark.parametrize("name", ["run.npz", "run"])
@pytest.mark.parametrize("events", [True, False])
def test_save_and_load(tmp_path, name, events):
    frame = replay(make_log(), event=10)
    before = run(make_log(keyframes=[START, frame]) if events else None)
    before.save(tmp_path / name)
    after = Run.load(tmp_path / name)
    assert after == before
    assert after.requests.sequence.dtype == np.uint32
    if events:
        assert after.events.request_ids == {0: "a", 1: "b"}
        assert [kept.event for kept in after.events.keyframes] == [0, 10]
        assert replay(after.events) == replay(before.events)


def test_empty_tables_survive(tmp_path):
    empty = Run(requests(0), steps(0), make_log([]))
    for name in ("e.npz", "e"):
        empty.save(tmp_path / name)
        assert Run.load(tmp_path / name) == empty


def test_a_second_save_leaves_no_table_of_the_first(tmp_path):
    run(make_log()).save(tmp_path / "run")
    run().save(tmp_path / "run")
    assert Run.load(tmp_path / "run").events is None
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["requests.parquet", "steps.parquet"]


@pytest.mark.parametrize("name", ["run.npz", "run"])
def test_a_newer_schema_fails_by_name(tmp_path, monkeypatch, name):
    monkeypatch.setattr("nano_batch.records.storage.SCHEMA_VERSION", 3)
    run().save(tmp_path / name)
    with pytest.raises(SchemaVersionError, match=rf"{name} has schema version 3; this package reads 2"):
        Run.load(tmp_path / name)


def test_an_older_schema_fails_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("nano_batch.records.storage.SCHEMA_VERSION", 1)
    run().save(tmp_path / "run.npz")
    with pytest.raises(RecordsError, match="has schema version 1, without what 2 added"):
        Run.load(tmp_path / "run.npz")


@pytest.mark.parametrize("version", [0, "1", None, True])
def test_a_version_that_is_none_fails(tmp_path, monkeypatch, version):
    monkeypatch.setattr("nano_batch.records.storage.SCHEMA_VERSION", version)
    run().save(tmp_path / "run.npz")
    with pytest.raises(RecordsError, match="must be a whole number"):
        Run.load(tmp_path / "run.npz")


def test_files_that_are_no_run(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"hello")
    np.savez(tmp_path / "y.npz", head=np.array("{"))
    np.savez(
        tmp_path / "z.npz", head=np.array(json.dumps({"schema_version": 2, "events": None, "settings": {}}))
    )
    (tmp_path / "folder").mkdir()
    for name in ("x.npz", "y.npz", "z.npz", "folder"):
        with pytest.raises(RecordsError, match=name):
            Run.load(tmp_path / name)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    real = importlib.import_module

    def without(name, *args):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=r"nano-batch\[parquet\]"):
        run().save(tmp_path / "run")
    with pytest.raises(MissingExtraError, match="parquet"):
        Run.load(tmp_path / "run")


def test_a_run_shows_itself_and_becomes_a_workload():
    assert repr(run()).splitlines() == [
        "Run of mine: requests 2 (1 finished), steps 3 over 3 s",
        "  output tokens 5, preemptions 1, events off",
    ]
    assert run()._repr_html_().count("<tr>") == 6
    workload = run().to_workload()
    assert workload.arrival_s.tolist() == [0.0, 1.0]
    assert workload.prompt_tokens.tolist() == [5, 6]
    assert workload.output_tokens.tolist() == [2, 3]
    with pytest.raises(RecordsError, match="JSON"):
        Run(requests(), steps(), None, {"engine": object()})


def test_settings_are_what_comes_back_from_json():
    empty = simulate(Workload([0.0], [1], [1]), cost=0.01)
    given = {"tuple": (1, (2.5, None)), "keys": {1: True}, "nested": {"list": [{"a": "b"}]}}
    run = Run(empty.requests, empty.steps, None, given)
    assert run.settings == json.loads(json.dumps(given))
    given["nested"]["list"].append(1)
    assert run.settings["nested"] == {"list": [{"a": "b"}]}
    for wrong in (np.int64(3), {"deep": [object()]}, {(1, 2): 3}):
        with pytest.raises(RecordsError, match="not JSON values"):
            Run(empty.requests, empty.steps, None, {"wrong": wrong})
