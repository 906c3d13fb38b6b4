"""The command line: what it says, what it starts, and that it starts at once."""

import json
import subprocess
import sys

import pytest

from nano_batch import cli

HEAVY = ("torch", "pandas", "plotly", "IPython", "ipywidgets", "anywidget", "jupyterlab", "playwright")
# What runs before the clock starts, and what is timed.
PROGRAMS = {
    "package": ("", "import nano_batch"),
    "cli": ("", "import nano_batch.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass"),
    "engine": ("import numpy", "from nano_batch import Engine; Engine(num_blocks=8, block_size=16).step()"),
    "workload": ("import numpy", "from nano_batch import Workload; Workload.synthetic(10)"),
}
# 0.3 s is the limit for each. NumPy's own import takes 0.1 s of it on an idle machine, and any time on a busy
# one: where it is needed, what this package adds to it is timed.
LIMIT_S = {"": 0.3, "import numpy": 0.2}


@pytest.mark.alone
@pytest.mark.parametrize("name", PROGRAMS)
def test_starts_at_once_and_loads_nothing_heavy(name):
    before, timed = PROGRAMS[name]
    program = (
        f"import sys, time\n{before}\nt = time.perf_counter()\n{timed}\n"
        "print(); print(time.perf_counter() - t, *{m.split('.')[0] for m in sys.modules})"
    )
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(5)]
    ends = [run.stdout.splitlines()[-1].split() for run in runs]
    modules = set(ends[0][1:])
    assert "nano_batch" in modules
    assert ("numpy" in modules) == bool(before)
    assert not set(HEAVY) & modules
    assert min(float(end[0]) for end in ends) < LIMIT_S[before]


def test_a_misspelt_benchmark_names_the_nearest(capsys):
    assert cli.main(["bench", "schedular"]) == 1
    assert "did you mean 'scheduler'?" in capsys.readouterr().err


def test_a_benchmark_prints_one_json_object(capsys, monkeypatch):
    from nano_batch.benchmarks import scheduler

    result = {"bench": "scheduler", "rows": [{"case": "decode", "running": 1, "us_per_step": 1.0}]}
    monkeypatch.setattr(scheduler, "run", lambda: result)
    assert cli.main(["bench", "scheduler", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert cli.main(["bench", "scheduler"]) == 0
    assert capsys.readouterr().out == "case=decode  running=1  us_per_step=1.0\n"


def test_the_lab_opens_a_copy_or_the_notebooks_themselves(monkeypatch, tmp_path, capsys):
    from nano_batch.jupyter import server, working_copy

    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / cli.QUICKSTART).write_text("{}", encoding="utf-8")
    opened = []
    monkeypatch.setattr(working_copy, "notebooks_folder", lambda: notebooks)
    monkeypatch.setattr(
        server, "serve", lambda folder, path, browser: opened.append((folder, path, browser)) or 0
    )
    assert cli.main(["lab", "--no-browser"]) == 0
    assert cli.main(["lab", "--no-browser", "--in-place"]) == 0
    assert opened == [(tmp_path / "lab", cli.QUICKSTART, False), (notebooks, cli.QUICKSTART, False)]
    (tmp_path / "lab" / cli.QUICKSTART).write_text("mine", encoding="utf-8")
    cli.main(["lab", "--no-browser"])
    assert "has changes of yours: it stays as it is" in capsys.readouterr().out


def test_a_named_error_is_one_line(monkeypatch, capsys):
    from nano_batch.errors import LabError
    from nano_batch.jupyter import working_copy

    def fail():
        raise LabError("no notebooks")

    monkeypatch.setattr(working_copy, "notebooks_folder", fail)
    assert cli.main(["lab"]) == 1
    assert capsys.readouterr().err == "nano-batch: LabError: no notebooks\n"
