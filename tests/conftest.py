"""What several test modules share."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """A folder for kernels compiled for the CPU. Without g++ their tests are skipped, but not in CI."""
    if shutil.which("g++") is None:
        assert os.environ.get("CI") != "true", "CI needs g++ to run the kernels on the CPU"
        pytest.skip("no g++ to compile the CUDA kernels for the CPU with")
    return tmp_path_factory.mktemp("kernels_on_cpu")
