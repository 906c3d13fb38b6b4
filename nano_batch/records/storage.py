"""Runs on disk: one npz file, or a folder of parquet files that other tools read."""

from __future__ import annotations

import importlib
import json
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_batch.errors import MissingExtraError, RecordsError
from nano_batch.records.columns import Columns
from nano_batch.records.events import STATE_ARRAYS, EventLog, State
from nano_batch.records.run import Run
from nano_batch.records.schema import SCHEMA_VERSION, check_version
from nano_batch.records.tables import Requests, Steps

Table = dict[str, Any]


def save(run: Run, path: str) -> None:
    """See `Run.save`."""
    tables, head = _to_tables(run)
    if path.endswith(".npz"):
        arrays = {
            f"{table}/{name}": column for table, columns in tables.items() for name, column in columns.items()
        }
        np.savez_compressed(path, head=np.array(json.dumps(head)), **arrays)
    else:
        _save_parquet(path, tables, head)


def load(path: str) -> Run:
    """See `Run.load`."""
    if path.endswith(".npz"):
        tables, head = _load_npz(path)
    else:
        tables, head = _load_parquet(path)
    try:
        return _from_tables(tables, head)
    except KeyError as error:
        raise RecordsError(f"{os.path.basename(path)} has no table or column {error}") from error


# A keyframe's arrays have lengths of their own: they are stored end to end, with one count per keyframe.
def _to_tables(run: Run) -> tuple[dict[str, Table], dict[str, Any]]:
    head: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "settings": dict(run.settings), "events": None}
    tables: dict[str, Table] = {"requests": dict(run.requests.items()), "steps": dict(run.steps.items())}
    if run.events is not None:
        log = run.events
        head["events"] = {
            "first_event": log.first_event,
            "num_blocks": log.num_blocks,
            "block_size": log.block_size,
            "request_ids": {str(number): name for number, name in log.request_ids.items()},
        }
        tables["events"] = dict(log.items())
        tables |= _frames_to_tables(log.keyframes)
    return tables, head


def _frames_to_tables(frames: tuple[State, ...]) -> dict[str, Table]:
    index: Table = {
        "step": np.array([frame.step for frame in frames], np.uint32),
        "event": np.array([frame.event for frame in frames], np.int64),
    }
    parts: dict[str, Table] = {"keyframes": index}
    for name, dtype in STATE_ARRAYS.items():
        arrays = [getattr(frame, name) for frame in frames]
        index[f"{name}_count"] = np.array([len(array) for array in arrays], np.int64)
        parts[f"keyframe_{name}"] = {name: np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)}
    return parts


def _from_tables(tables: dict[str, Table], head: dict[str, Any]) -> Run:
    requests = Requests(**_columns(Requests, tables["requests"]))
    steps = Steps(**_columns(Steps, tables["steps"]))
    if head["events"] is None:
        return Run(requests, steps, None, head["settings"])
    facts = head["events"]
    facts["request_ids"] = {int(number): name for number, name in facts["request_ids"].items()}
    events = EventLog(
        **_columns(EventLog, tables["events"]), keyframes=tuple(_frames_from_tables(tables)), **facts
    )
    return Run(requests, steps, events, head["settings"])


def _columns(kind: type[Columns], table: Table) -> Table:
    return {name: table[name] for name in kind.DTYPES}


def _frames_from_tables(tables: dict[str, Table]) -> list[State]:
    index = tables["keyframes"]
    ends = {name: np.cumsum(index[f"{name}_count"]) for name in STATE_ARRAYS}

    def part(name: str, row: int) -> NDArray[Any]:
        end = ends[name][row]
        array: NDArray[Any] = tables[f"keyframe_{name}"][name][end - index[f"{name}_count"][row] : end]
        return array

    return [
        State(int(step), int(event), **{name: part(name, row) for name in STATE_ARRAYS})
        for row, (step, event) in enumerate(zip(index["step"], index["event"], strict=True))
    ]


def _check_head(text: str, path: str) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(text)
    check_version(head.get("schema_version"), os.path.basename(path))
    return head


def _load_npz(path: str) -> tuple[dict[str, Table], dict[str, Any]]:
    tables: dict[str, Table] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            head = _check_head(str(file["head"]), path)
            for key in file.files:
                table, _, name = key.partition("/")
                if name:
                    tables.setdefault(table, {})[name] = file[key]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, RecordsError):
            raise
        raise RecordsError(f"{os.path.basename(path)} is not a saved run: {error}") from error
    return tables, head


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            "parquet needs pyarrow: install the extra 'parquet' (pip install 'nano-batch[parquet]'), "
            "or save to a name that ends in .npz"
        ) from error
    return importlib.import_module("pyarrow")


def _save_parquet(path: str, tables: dict[str, Table], head: dict[str, Any]) -> None:
    pyarrow = _pyarrow()
    os.makedirs(path, exist_ok=True)
    for name in os.listdir(path):
        # Tables of an earlier run that this one does not have would be taken for its own.
        if name.endswith(".parquet"):
            os.remove(os.path.join(path, name))
    metadata = {"nano_batch": json.dumps(head)}
    for name, columns in tables.items():
        table = pyarrow.table(columns).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, os.path.join(path, f"{name}.parquet"))


def _load_parquet(path: str) -> tuple[dict[str, Table], dict[str, Any]]:
    pyarrow = _pyarrow()
    name = os.path.join(path, "requests.parquet")
    if not os.path.isfile(name):
        raise RecordsError(f"{os.path.basename(path)} is not a saved run: it has no requests.parquet")
    metadata = pyarrow.parquet.read_schema(name).metadata or {}
    if b"nano_batch" not in metadata:
        raise RecordsError(f"{os.path.basename(path)} is not a saved run: its metadata lacks 'nano_batch'")
    head = _check_head(metadata[b"nano_batch"].decode(), path)
    tables: dict[str, Table] = {}
    for file in sorted(os.listdir(path)):
        if file.endswith(".parquet"):
            table = pyarrow.parquet.read_table(os.path.join(path, file))
            tables[file[: -len(".parquet")]] = {n: table[n].to_numpy() for n in table.column_names}
    return tables, head
