"""Options that are words: checked against their `Literal`, the nearest named when misspelt."""

from __future__ import annotations

from typing import Any, get_args

from nano_batch import _core
from nano_batch.errors import UnknownOptionError


def check_choice(name: str, value: object, literal: Any) -> None:
    """Raise `UnknownOptionError` unless `value` is one of the `Literal`'s words."""
    choices = get_args(literal)
    if not (isinstance(value, str) and value in choices):
        raise unknown_option(name, value, choices)


def unknown_option(name: str, value: object, choices: tuple[str, ...]) -> UnknownOptionError:
    """The error that names `value`, the nearest choice and all of them."""
    near = _core.nearest(str(value), list(choices))
    return UnknownOptionError(f"{name} is {value!r}; did you mean {near!r}? (choices: {', '.join(choices)})")
