"""Where this package keeps what can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The user's folder for one kind of things, or that in the folder which NANO_BATCH_CACHE names."""
    if named := os.environ.get("NANO_BATCH_CACHE"):
        return Path(named) / kind
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "nano-batch" / kind
