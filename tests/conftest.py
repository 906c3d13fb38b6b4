"""What several test modules share."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack

import pytest

WORKERS = 2
"""Of a run of all tests: a machine of two cores is what CI has."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """All tests are run by workers, a file at a time, unless -n says otherwise."""
    in_a_worker = hasattr(config, "workerinput")  # which gets the same arguments, and would start its own
    of_all = config.args_source == config.ArgsSource.TESTPATHS
    if in_a_worker or not of_all or config.getoption("numprocesses", 0) is not None:
        return
    if not config.option.usepdb and not config.option.collectonly:
        config.option.numprocesses, config.option.dist = WORKERS, "loadfile"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Nothing runs beside a test marked `alone`: all others share a room, and it has the room to itself."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    import fasteners  # a device's tests have no workers

    locks = item.config.cache.mkdir("alone")
    room = fasteners.InterProcessReaderWriterLock(locks / "room")
    entered = room.read_lock() if item.get_closest_marker("alone") is None else room.write_lock()
    with ExitStack() as inside:
        # Whoever waits for an empty room keeps the door, so that nobody else enters meanwhile.
        with fasteners.InterProcessLock(locks / "door"):
            inside.enter_context(entered)
        return (yield)


def pytest_terminal_summary(terminalreporter):
    """What tests have measured: `record_property("measured", text)`."""
    for report in terminalreporter.stats.get("passed", []):
        for name, text in report.user_properties:
            if name == "measured":
                terminalreporter.section(f"measured by {report.nodeid}")
                terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """A folder for kernels compiled for the CPU. Without g++ their tests are skipped, but not in CI."""
    if shutil.which("g++") is None:
        assert os.environ.get("CI") != "true", "CI needs g++ to run the kernels on the CPU"
        pytest.skip("no g++ to compile the CUDA kernels for the CPU with")
    return tmp_path_factory.mktemp("kernels_on_cpu")
