"""Which way was taken, said once in a process: to whom it may concern, or as a warning."""

from __future__ import annotations

import logging

import torch

_log = logging.getLogger("nano_batch.cuda")
_said: set[str] = set()


def say_once(message: str, *, warn: bool) -> None:
    """Log a message to `nano_batch.cuda` unless it was logged: a warning, or at level INFO.

    A trace of `torch.compile` logs nothing: the operators within it speak when they run.
    """
    if not torch.compiler.is_compiling() and message not in _said:
        _said.add(message)
        _log.log(logging.WARNING if warn else logging.INFO, message)
