"""What a reader reads: no measured number typed in a text, exercises that never stop, solutions folded."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from nano_batch.lessons.exercises import exercises

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")
# What is no number of a run: inline code, links, headings, the minutes, an exercise's name.
NOT_MEASURED = (
    re.compile(r"`[^`]*`"),
    re.compile(r"\[([^\]]*)\]\([^)]*\)"),
    re.compile(r"^#+ .*$", re.MULTILINE),
    re.compile(r"\*\*Minutes\.\*\* \d+\."),
)
WITH_TORCH = {"07_paged_attention_kernel.ipynb", "08_paged_mistral.ipynb"}
FORBIDDEN = re.compile(r"\bOutput\(|\binteract(?:ive|_manual)?\b|\bFigureWidget\b")


def read(path):
    return nbformat.read(path, as_version=4).cells


def typed_numbers(cells):
    """Numbers in the texts that are no setting in a cell's code."""
    settings = set()
    for cell in cells:
        if cell.cell_type == "code":
            settings |= {number.replace("_", "") for number in re.findall(r"\d[\d_.]*", cell.source)}
    found = []
    for cell in cells:
        if cell.cell_type == "markdown":
            text = cell.source
            for pattern in NOT_MEASURED:
                text = pattern.sub(" ", text)
            found += [n for n in NUMBER.findall(text) if n.replace(",", "") not in settings]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_in_texts_are_settings_of_a_cell(path):
    assert typed_numbers(read(path)) == []


def test_a_measured_number_would_be_found():
    cells = read(FOLDER / "01_block_tables.ipynb")
    markdown = next(cell for cell in cells if cell.cell_type == "markdown")
    for sentence in ("It takes 293 steps.", "7.5 slots are lost.", "1,109 steps", "up to 91.7 %"):
        good, markdown.source = markdown.source, f"{markdown.source}\n\n{sentence}"
        assert len(typed_numbers(cells)) == 1, sentence
        markdown.source = good


def test_texts_and_code_were_seen():
    for path in NOTEBOOKS:
        kinds = [cell.cell_type for cell in read(path)]
        assert kinds.count("markdown") >= 5
        assert kinds.count("code") >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_code_is_the_lab_and_nothing_upsets_nbval(path):
    code = [cell for cell in read(path) if cell.cell_type == "code"]
    assert code[0].source.startswith("from nano_batch import lab")
    for cell in code:
        assert not FORBIDDEN.search(cell.source), cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_minutes_are_a_number_and_links_lead_somewhere(path):
    cells = read(path)
    assert re.search(r"\*\*Minutes\.\*\* \d+\.", cells[0].source)
    texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)]+)\)", texts):
        assert (FOLDER / target).exists(), target


def test_the_quickstart_leads_on():
    assert "(01_block_tables.ipynb)" in read(FOLDER / "00_quickstart.ipynb")[-1].source


def of_exercise(cells, name):
    """The unanswered cell and the folded solution of an exercise."""
    code = [cell for cell in cells if cell.cell_type == "code" and f'lab.check("{name}"' in cell.source]
    folded = [cell for cell in code if cell.metadata.get("jupyter", {}).get("source_hidden")]
    return [cell for cell in code if cell not in folded], folded


@pytest.mark.parametrize("name", sorted(exercises()))
def test_an_exercise_is_asked_unanswered_and_solved_folded(name):
    (path,) = FOLDER.glob(f"{name.split('-')[0]}_*.ipynb")
    cells = read(path)
    (asked,), (solution,) = of_exercise(cells, name)
    assert re.match(r"\w+ = None\n", asked.source) or exercises()[name].shows
    (said,) = [output.data["text/plain"] for output in asked.outputs]
    assert "not answered yet" in said
    assert solution.metadata.jupyter.outputs_hidden
    (told,) = [output.data["text/plain"] for output in solution.outputs]
    assert "right" in told
    # The question comes before the answer's cell, the solutions after all that asks.
    order = [cell.id for cell in cells]
    texts = [cell.source for cell in cells[: order.index(asked.id)] if cell.cell_type == "markdown"]
    assert f"Exercise {name}" in texts[-1]
    unfolded = [cell.id for cell in cells if cell.cell_type == "code" and not cell.metadata.get("jupyter")]
    assert order.index(solution.id) > max(order.index(each) for each in unfolded)


def test_notebooks_have_two_to_four_exercises():
    counts = Counter(name[:2] for name in exercises())
    assert counts["01"] == 4
    assert {"01", "02", "03", "04", "05", "06", "07", "08"} <= set(counts)
    assert all(2 <= count <= 4 for count in counts.values())


def test_no_cell_of_ours_failed():
    for path in NOTEBOOKS:
        for cell in read(path):
            for output in cell.get("outputs", []):
                assert output.output_type != "error", (path.name, cell.id)
                assert output.get("name") != "stderr", (path.name, cell.id)


def alone(cells):
    """Unchecked code cells that no checked one follows or precedes."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    unchecked = ["nbval-ignore-output" in cell.metadata.get("tags", []) for cell in code]
    near = [unchecked[max(0, i - 1) : i] + unchecked[i + 1 : i + 2] for i in range(len(code))]
    return [cell.id for cell, mine, beside in zip(code, unchecked, near, strict=True) if mine and all(beside)]


def test_beside_each_unchecked_cell_is_a_checked_one():
    for path in NOTEBOOKS:
        assert alone(read(path)) == [], path.name


def test_an_unchecked_cell_alone_would_be_found():
    def cell(name, *tags):
        return SimpleNamespace(cell_type="code", id=name, metadata={"tags": list(tags)})

    timed = "nbval-ignore-output"
    assert alone([cell("a"), cell("b", timed), cell("c")]) == []
    assert alone([cell("a", timed), cell("b", timed), cell("c", timed)]) == ["a", "b", "c"]
    assert alone([cell("a"), cell("b", timed), cell("c", timed), cell("d", timed)]) == ["c", "d"]


def run_without_torch(path, folder):
    cells = [cell.source for cell in read(path) if cell.cell_type == "code"]
    program = folder / "cells.py"
    blocked = "import sys; sys.modules['torch'] = None  # an import of it fails\n"
    program.write_text(
        f"{blocked}names = {{}}\nfor cell in {cells!r}:\n    exec(cell, names)\n", encoding="utf-8"
    )
    return subprocess.run([sys.executable, str(program)], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_without_torch(path, tmp_path):
    done = run_without_torch(path, tmp_path)
    if path.name in WITH_TORCH:
        assert "MissingExtraError" in done.stderr
        assert "pip install 'nano-batch[engine]'" in done.stderr
        assert "pip install 'nano-batch[engine]'" in read(path)[0].source
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all_takes_at_most_20_seconds_of_a_core(path, tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import time; print(time.process_time())"))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert 0 < float(notebook.cells[-1].outputs[0].text) < 20
