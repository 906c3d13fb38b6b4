"""The view of the small run, with its controls."""

import pytest
from small_run import BATCH, small_run

from nano_batch import lab


@pytest.fixture
def view():
    workload, run = small_run()
    return lab.block_table(run, workload, **BATCH)
