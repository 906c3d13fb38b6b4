"""The Rust side: unit, property and documentation tests. The one module that calls cargo."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def cargo_test(*arguments):
    path = shutil.which("cargo")
    if path is None:
        pytest.fail("cargo is not on the PATH: the Rust tests need the toolchain that builds the package")
    command = [path, "test", "--package", "nano_batch_rs", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    output = run.stdout + run.stderr
    assert run.returncode == 0, f"{' '.join(command[1:])} failed:\n{output[-20_000:]}"
    return sum(map(int, re.findall(r"test result: ok\. (\d+) passed", output)))


def test_units_and_properties():
    assert cargo_test("--lib", "--tests") >= 10


def test_documentation():
    cargo_test("--doc")
