"""nbval compares every digit: one altered digit in a committed output must fail."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_quickstart.ipynb"


def test_one_altered_digit_in_a_caption_fails(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    (caption,) = [output.data for output in outputs if "image/png" in output.get("data", {})]
    steps = re.search(r"step \d+ of (\d+)", caption["text/plain"]).group(1)
    altered = steps[:-1] + str((int(steps[-1]) + 1) % 10)
    caption["text/plain"] = caption["text/plain"].replace(f"of {steps}", f"of {altered}")
    nbformat.write(notebook, tmp_path / "altered.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "altered.ipynb"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout
    assert "1 failed" in run.stdout
    assert altered in run.stdout
