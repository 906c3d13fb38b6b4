"""The reader's own copy of the notebooks: made once, brought up to date, never overwritten once changed."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

from nano_batch.errors import LabError

RECORD = ".originals.json"  # file name -> hash of the original that the copy was made from


def notebooks_folder() -> Path:
    """The folder `notebooks/` of the clone this package runs from.

    Raises:
        LabError: if the package was installed without the clone.
    """
    folder = Path(__file__).resolve().parents[2] / "notebooks"
    if not any(folder.glob("*.ipynb")):
        raise LabError("no notebooks beside the package: run this command from a clone of the repository")
    return folder


def make_working_copy(source: Path, target: Path) -> list[str]:
    """Copy the notebooks of `source` to `target`; return the names of those kept because they were changed.

    A copy that still is what it was copied from follows its original. Any other file is the reader's.
    """
    target.mkdir(parents=True, exist_ok=True)
    record = target / RECORD
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    kept = []
    for original in sorted(source.glob("*.ipynb")):
        copy, current = target / original.name, _hash(original)
        if copy.exists() and _hash(copy) not in (current, known.get(original.name)):
            kept.append(original.name)
            continue
        shutil.copyfile(original, copy)
        known[original.name] = current
    record.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return kept


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
