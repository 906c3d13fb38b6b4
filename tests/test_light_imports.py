"""Workloads, records and metrics load quickly and without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
start = time.perf_counter()
import numpy
middle = time.perf_counter()
import nano_batch
from nano_batch import Run, Workload, metrics
Workload.synthetic(10)
print(time.perf_counter() - middle, *sorted(sys.modules))
"""
HEAVY = {"torch", "pandas", "pyarrow", "plotly", "IPython", "ipywidgets", "anywidget", "jupyterlab", "scipy"}


@pytest.mark.alone
def test_light_imports():
    commands = [[sys.executable, "-c", PROGRAM]] * 5
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
    outputs = [run.stdout.split() for run in runs]
    modules = set(outputs[0][1:])
    assert "nano_batch.workloads.workload" in modules
    assert not HEAVY & modules
    # NumPy's own import takes 0.1 s, and more on a busy machine: what is added to it is asserted here.
    assert min(float(output[0]) for output in outputs) < 0.15
