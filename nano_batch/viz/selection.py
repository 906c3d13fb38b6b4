"""What is selected in a run: requests, a block and a step, one for all views of that run."""

from __future__ import annotations

import weakref
from typing import Any

import traitlets

from nano_batch._core import nearest
from nano_batch.errors import ViewError

MOST_REQUESTS = 8  # one hue and one letter each
LETTERS = "ABCDEFGH"


class Selection(traitlets.HasTraits):
    """The requests, the block and the step that the views of a run show together.

    Attributes:
        requests: ids of up to eight requests; the first has the letter A.
        block: a physical block, or -1.
        step: the step shown.
    """

    requests: traitlets.List[str] = traitlets.List(traitlets.Unicode())
    block = traitlets.Int(-1)
    step = traitlets.Int(0)

    def __init__(self) -> None:
        super().__init__()
        self.known: tuple[str, ...] = ()

    @traitlets.validate("requests")
    def _check(self, proposal: Any) -> list[str]:
        return check_requests(proposal["value"], self.known)

    def clear(self) -> None:
        """Select nothing; the step stays."""
        self.requests, self.block = [], -1

    def __repr__(self) -> str:
        names = ", ".join(f"{LETTERS[i]} {name}" for i, name in enumerate(self.requests))
        block = f", block {self.block}" if self.block >= 0 else ""
        return f"selected at step {self.step}: {names or 'no request'}{block}"


def check_requests(requests: list[str], known: tuple[str, ...]) -> list[str]:
    """`requests` without repeats.

    Raises:
        ViewError: more than eight, or an id that the run does not have; the nearest is named.
    """
    names = list(dict.fromkeys(requests))
    if len(names) > MOST_REQUESTS:
        raise ViewError(f"{len(names)} requests selected; a view tells at most {MOST_REQUESTS} apart")
    for name in names:
        if known and name not in known:
            raise ViewError(f"no request {name!r} in the run; did you mean {nearest(name, list(known))!r}?")
    return names


_SELECTIONS: dict[int, tuple[weakref.ref[Any], Selection]] = {}


def selection_of(run: Any) -> Selection:
    """The selection that all views of the object `run` share."""
    kept = _SELECTIONS.get(id(run))
    if kept is not None and kept[0]() is run:
        return kept[1]
    new, key = Selection(), id(run)
    _SELECTIONS[key] = (weakref.ref(run, lambda _: _SELECTIONS.pop(key, None)), new)
    return new
