"""Compiled programs on disk: one file each, there whole or not at all, believed when its sum is right."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

_SUM_BYTES = hashlib.sha256().digest_size
_log = logging.getLogger("nano_batch.cuda")


def read_entry(path: Path) -> bytes | None:
    """The bytes kept at `path`; None where there are none, or others than were written."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    content = kept[_SUM_BYTES:]
    return content if hashlib.sha256(content).digest() == kept[:_SUM_BYTES] else None


def write_entry(path: Path, content: bytes) -> None:
    """Keep `content`. Two processes may write at once; a folder that cannot be written only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        _log.warning("the compiled kernel is not kept, every process compiles it anew: %s", error)
