"""The one form in which every benchmark reports."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def report(bench: str, rows: list[Row]) -> dict[str, Any]:
    """What `nano-batch bench NAME --json` prints: day, machine, commit and rows (units in the names)."""
    today = date.today().isoformat()
    return {"bench": bench, "date": today, "machine": machine(), "commit": commit(), "rows": rows}


def machine() -> dict[str, Any]:
    """The machine that figures were measured on, and how busy it was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_1min": load,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _processor() -> str:
    """The processor's name; Linux keeps it where `platform` does not look."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def torch_versions() -> dict[str, str | None]:
    """Of PyTorch, of the CUDA that it is built with, and of the driver where there is a device."""
    import torch  # no benchmark of the core alone needs it

    at_hand = torch.cuda.is_available()
    return {
        "driver": _driver() if at_hand else None, "cuda": torch.version.cuda, "torch": torch.__version__,
    }  # fmt: skip


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def commit() -> str | None:
    """What NANO_BATCH_COMMIT says, or else the checkout's commit, with "+" where files differ from it."""
    if told := os.environ.get("NANO_BATCH_COMMIT"):
        return told
    root = Path(__file__).parents[2]
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
