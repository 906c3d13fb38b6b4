"""What an export takes and refuses, without a browser."""

import gzip
import json
import struct
from base64 import b64decode

import nbformat
import pytest

from nano_batch import cli, lab
from nano_batch.errors import LabError
from nano_batch.export import capture, export
from nano_batch.export.page import markdown, page


def unpack(text):
    whole = gzip.decompress(b64decode(text))
    (length,) = struct.unpack("<I", whole[:4])
    return json.loads(whole[4 : 4 + length]), whole[4 + length :]


def test_a_packed_state_comes_back():
    values = {"a": [1, {"b": b"xyz"}], "c": memoryview(b"12345"), "d": "é<"}
    head, buffers = unpack(capture.pack(values))
    assert head == {"a": [1, {"b": {"$buffer": [0, 3]}}], "c": {"$buffer": [3, 5]}, "d": "é<"}
    assert buffers == b"xyz12345"
    assert capture.pack(values) == capture.pack(values)


def test_at_most_eight_positions_around_the_default():
    assert capture.positions([1, 2, 4], 2) == [1, 2, 4]
    assert capture.positions([1 << i for i in range(9)], 16) == [1 << i for i in range(1, 9)]
    assert capture.positions(list(range(100)), 0) == list(range(8))
    assert capture.positions(list(range(100)), 50) == [47, 48, 49, 50, 51, 52, 53, 54]


def test_a_state_is_what_the_page_reads():
    workload = lab.Workload.synthetic(4, prompts=40, outputs=20, seed=1, arrivals="at_once")
    view = lab.block_table(lab.serve(workload, memory_tokens=512), workload)
    state = capture.state(view)
    assert {"_run", "_states", "_controls", "block_size", "step", "error"} <= set(state)
    assert not [
        name for name in state if name.startswith(("_view", "_model", "_esm", "_css")) or name == "layout"
    ]
    head, buffers = unpack(capture.pack(state))
    first, length = head["_run"]["events"]["kind"]["$buffer"]
    assert buffers[first : first + length] == view._run["events"]["kind"]


def test_text_becomes_html_without_a_way_out():
    assert 'href="01_next.html"' in markdown("[on](01_next.ipynb)")
    cells = [
        nbformat.v4.new_markdown_cell("# A & B"),
        nbformat.v4.new_code_cell(
            "x < 1", outputs=[nbformat.v4.new_output("stream", text="\x1b[31m<b>\x1b[0m")]
        ),
        nbformat.v4.new_code_cell("y = 2", metadata={"jupyter": {"source_hidden": True}}),
    ]
    text = page(nbformat.v4.new_notebook(cells=cells), {}, "recorded")
    assert "<title>A &amp; B</title>" in text
    assert "&lt;b&gt;</pre>" in text
    assert "<details><summary>code</summary>" in text
    assert "http" not in text


def test_mathematics_stands_as_it_was_written():
    assert '<code class="math">x_1 &lt; \\frac{a}{b}</code>' in markdown(r"for $x_1 < \frac{a}{b}$")
    assert '<pre class="math">\\sum_i x</pre>' in markdown("$$\n\\sum_i x\n$$")
    assert "<code>$5</code>" in markdown("`$5` costs $5")
    assert "costs $5" in markdown("`$5` costs $5")


def test_a_failing_cell_and_bad_paths_are_named(tmp_path, capsys):
    path = tmp_path / "bad.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    with pytest.raises(LabError, match=r"bad\.ipynb: .*") as caught:
        export([path], tmp_path / "site")
    assert "ZeroDivisionError" in str(caught.value)
    with pytest.raises(LabError, match="no such notebook"):
        export([tmp_path / "none.ipynb"], tmp_path / "site")
    with pytest.raises(LabError, match="no notebook to export"):
        export([], tmp_path / "site")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert cli.main(["export", "--out", str(tmp_path / "file"), str(path)]) == 1
    assert "is a file" in capsys.readouterr().err
