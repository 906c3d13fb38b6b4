"""The peak of this process's resident memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

MIB = 2**20


def peak_mib() -> float:
    """Most MiB that this process had resident at a time."""
    if sys.platform == "win32":
        return _peak_on_windows() / MIB
    if sys.platform == "linux":
        # getrusage would give the parent's peak where that was higher: it survives exec.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / MIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of psapi.h."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 7),
    )


def _peak_on_windows() -> int:
    counters = _Counters(cb=ctypes.sizeof(_Counters))
    library = ctypes.CDLL("kernel32")
    library.GetCurrentProcess.restype = ctypes.c_void_p
    library.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    if not library.K32GetProcessMemoryInfo(
        library.GetCurrentProcess(), ctypes.byref(counters), ctypes.sizeof(counters)
    ):
        raise OSError("the process's memory cannot be read")
    return int(counters.peak_working_set)
