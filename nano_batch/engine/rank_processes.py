"""The processes of the ranks above 0, started and ended by rank 0."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from nano_batch.errors import ParallelError

START_S = 300.0
"""For a process to start and load PyTorch."""
GRACE_S = 5.0
"""For a process to end of itself, or to be found to have died."""
_HERE = "here"


class RankProcesses:
    """Processes that run `work(rank, *arguments)`; they end with the process that started them.

    Args:
        size: of the engine: `size` - 1 are started.
        work: a function of a module, as a spawned process finds it; it calls `here` when it has started.
        arguments: for all of them, picklable.
    """

    def __init__(self, size: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Start them; a forked process could not use CUDA."""
        context = multiprocessing.get_context("spawn")
        self._said: dict[int, Connection] = {}
        self._running: dict[int, Any] = {}
        for rank in range(1, size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=run_rank, args=(theirs, work, rank, arguments), daemon=True, name=f"rank {rank}"
            )
            process.start()
            theirs.close()
            self._said[rank], self._running[rank] = ours, process

    @property
    def process_ids(self) -> list[int]:
        """Of the processes, by rank."""
        return [process.pid for process in self._running.values()]

    def await_start(self) -> None:
        """Wait until all have started. Raises `ParallelError` where one died or took too long."""
        end = time.monotonic() + START_S
        for rank, said in self._said.items():
            if not wait([said], max(0.0, end - time.monotonic())):
                raise ParallelError(f"rank {rank} has not started after {START_S:g} s")
            # A process that died has closed its end, which can be read, too.
            if _last_words(said) != _HERE:
                raise ParallelError(self.lost(GRACE_S) or f"rank {rank} did not start")

    def lost(self, grace_s: float = 0.0) -> str | None:
        """Which rank died, and of what; None where all live `grace_s` seconds from now."""
        dead = wait([process.sentinel for process in self._running.values()], grace_s)
        for rank, process in self._running.items():
            if process.sentinel in dead:
                process.join()
                said = _last_words(self._said[rank])
                return f"rank {rank} ended with exit code {process.exitcode}" + (f": {said}" if said else "")
        return None

    def end(self, grace_s: float) -> None:
        """End those that have not ended of themselves within `grace_s` seconds."""
        end = time.monotonic() + grace_s
        for process in self._running.values():
            process.join(max(0.0, end - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()


def run_rank(says: Connection, work: Callable[..., None], rank: int, arguments: tuple[Any, ...]) -> None:
    """What such a process does; how it ends is told to rank 0, for its own output may be seen by nobody."""
    # An interrupt from the keyboard goes to all processes of a terminal, and is rank 0's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = 0
    try:
        says.send(_HERE)
        work(rank, *arguments)
    except BaseException as error:
        says.send(f"{type(error).__name__}: {error}")
        code = 1
    # Not by way of the interpreter's end: it would wait for a device that may wait for a rank that is gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def parent_lost() -> str | None:
    """Whether the process that started this one is gone."""
    parent = multiprocessing.parent_process()
    return None if parent is None or parent.is_alive() else "rank 0 is gone"


def _last_words(said: Connection) -> str | None:
    words = None
    try:
        while said.poll():
            words = said.recv()
            if words == _HERE:
                break
    except (EOFError, OSError):
        pass
    return words
