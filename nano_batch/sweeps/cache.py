"""Points on disk: one JSON file each, there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_batch.cache_folder import cache_folder
from nano_batch.metrics.summary import Row


def default_folder() -> Path:
    """The user's folder for what can be computed again, or the one that NANO_BATCH_CACHE names."""
    return cache_folder("sweeps")


@dataclass(frozen=True)
class PointCache:
    """A folder of points by their key."""

    folder: Path

    def path(self, key: str) -> Path:
        """Where the point of this key is kept."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Row | None:
        """The point's row; None where there is none, or a file that is not one."""
        try:
            kept = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        row: Row | None = kept.get("row") if isinstance(kept, dict) else None
        return row if isinstance(row, dict) else None

    def put(self, key: str, depends: Mapping[str, Any], row: Row) -> None:
        """Keep the row. Whoever reads meanwhile, or after a kill at any moment, sees all of it or none."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"depends_on": depends, "row": row}, file)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
