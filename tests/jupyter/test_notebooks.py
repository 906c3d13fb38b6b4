"""Committed notebooks are what their code gives today; a stale one says why."""

import copy
from pathlib import Path

import nbformat
import pytest

from nano_batch.jupyter.stable import (
    MARK,
    WIDGET_VIEW,
    before_save,
    clean,
    join_streams,
    stale,
    view_outputs,
)
from nano_batch.viz.bundle import view_code_hash

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
LARGEST_BYTES = 1_500_000
# Cells whose output may differ from run to run; each needs a checked cell beside it.
UNCHECKED = {("07_paged_attention_kernel.ipynb", "speed"), ("08_paged_mistral.ipynb", "speed")}


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert "00_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_fresh(path):
    reasons = stale(read(path), view_code_hash())
    assert not reasons, f"{reasons}; run: nano-batch notebooks refresh notebooks/{path.name}"
    assert path.stat().st_size < LARGEST_BYTES
    assert b"\r" not in path.read_bytes()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_opens_with_question_goal_needs_and_minutes(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    for word in ("**Question.**", "**Goal.**", "**Needs.**", "**Minutes.**"):
        assert word in first.source


def test_unchecked_cells_are_listed():
    tagged = {
        (path.name, cell.id)
        for path in NOTEBOOKS
        for cell in read(path).cells
        if "nbval" in " ".join(cell.metadata.get("tags", [])) or "NBVAL" in cell.source
    }
    assert tagged == UNCHECKED


def broken(change):
    notebook = copy.deepcopy(read(NOTEBOOKS[0]))
    change(notebook, [cell for cell in notebook.cells if cell.cell_type == "code"])
    return " ".join(stale(notebook, view_code_hash()))


def test_each_kind_of_staleness_is_seen():
    def unrun(_, code):
        code[2].execution_count = None

    def edited(_, code):
        code[0].source += "\n1"

    def live(notebook, _):
        view_outputs(notebook)[0].data[WIDGET_VIEW] = {"model_id": "x"}

    def no_poster(notebook, _):
        del view_outputs(notebook)[0].data["image/png"]

    def other_numbers(notebook, _):
        output = view_outputs(notebook)[0]
        output.data["text/plain"] = output.data["text/plain"].replace("512", "513")

    def state(notebook, _):
        notebook.metadata["widgets"] = {}

    assert broken(lambda *_: None) == ""
    assert "not run" in broken(unrun)
    assert "changed since it was run" in broken(edited)
    assert "live widget" in broken(live)
    assert "no poster" in broken(no_poster)
    assert "since the posters were taken" in broken(other_numbers)
    assert "widget state" in broken(state)
    assert "since the posters were taken" in " ".join(stale(read(NOTEBOOKS[0]), "another hash"))


def test_clean_keeps_what_authors_set_and_drops_the_rest():
    notebook = read(NOTEBOOKS[0])
    ids = [cell.id for cell in notebook.cells]
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.metadata.update(tags=["a"], jupyter={"source_hidden": True}, execution={"iopub.status.busy": "2020"})
    notebook.metadata["widgets"] = {"state": {}}
    clean(notebook)
    assert [cell.id for cell in notebook.cells] == ids
    assert dict(code.metadata) == {"tags": ["a"], "jupyter": {"source_hidden": True}}
    assert set(notebook.metadata) == {"kernelspec", "language_info", MARK}


def test_a_stream_cut_in_two_is_joined():
    def stream(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)

    result = nbformat.v4.new_output("execute_result", data={"text/plain": "1"})
    outputs = [
        stream("stdout", "a"),
        stream("stdout", "b"),
        stream("stderr", "c"),
        result,
        stream("stdout", "d"),
    ]
    texts = [output.get("text") for output in join_streams(outputs)]
    assert texts == ["ab", "c", None, "d"]


def test_saving_drops_live_views_that_have_another_form():
    live = {WIDGET_VIEW: {"model_id": "x"}, "text/plain": "a"}
    alone = {WIDGET_VIEW: {"model_id": "y"}}
    cells = [
        {"outputs": [{"data": live}, {"data": alone}, {"output_type": "stream"}]},
        {"cell_type": "markdown"},
    ]
    before_save({"type": "notebook", "content": {"metadata": {"widgets": {}}, "cells": cells}})
    assert live == {"text/plain": "a"}
    assert alone == {WIDGET_VIEW: {"model_id": "y"}}
    before_save({"type": "file", "content": "text"})


def test_saving_writes_a_live_view_caption_once_beside_its_picture():
    data = {WIDGET_VIEW: {"model_id": "x"}, "text/plain": "a caption", "image/png": "A"}
    cell = {"outputs": [{"output_type": "execute_result", "data": data, "metadata": {}}]}
    model = {"type": "notebook", "content": {"metadata": {}, "cells": [cell]}}
    for _ in range(2):  # saved, reopened without a kernel, saved again
        before_save(model)
        picture, caption = cell["outputs"]
        assert set(picture["data"]) == {"text/plain", "image/png"}
        assert caption == {"output_type": "display_data", "data": {"text/plain": "a caption"}, "metadata": {}}
