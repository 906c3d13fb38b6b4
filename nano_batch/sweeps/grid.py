"""The points of a sweep: the product of lists of parameters, each parameter at its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from nano_batch._choices import unknown_option
from nano_batch.core import Engine
from nano_batch.errors import SweepError
from nano_batch.simulator.costs import CostLike
from nano_batch.workloads import Workload

WorkloadLike = Workload | Mapping[str, Any] | Callable[..., Workload]

ENGINE = tuple(name for name in inspect.signature(Engine.__init__).parameters if name != "self")
SIMULATOR = ("cost", "steps_in_flight", "max_steps", "keep_steps", "max_tokens", "reservation")
MEMORY = "memory_tokens"


@dataclass(frozen=True)
class Point:
    """One simulation: which parameters (as the table shows them), which workload, which options."""

    number: int
    shown: dict[str, Any]
    workload: Workload
    options: dict[str, Any]


def points_of(
    grid: Mapping[str, Sequence[Any] | Mapping[str, Any]], workload: WorkloadLike, fixed: Mapping[str, Any]
) -> list[Point]:
    """Every combination of the grid's values, the last name changing fastest.

    A name of the engine or the simulator goes there, any other to the workload, which is drawn once for
    each combination of its parameters. A mapping in place of a list gives the values' labels.

    Raises:
        SweepError: a name or a list that cannot be used; the name is in the message.
        NanoBatchError: whatever the workload refuses, by name.
    """
    lists = {name: _labelled(name, values) for name, values in grid.items()}
    own = _workload_names(workload)
    for name in (*lists, *fixed):
        _check_name(name, own, in_grid=name in lists)
    if clashes := sorted(set(lists) & set(fixed)):
        raise SweepError(f"{clashes[0]} is both in the grid and fixed to {fixed[clashes[0]]!r}")
    drawn: dict[str, Workload] = {}
    points = []
    for number, choice in enumerate(product(*lists.values())):
        values = {name: value for name, (_, value) in zip(lists, choice, strict=True)}
        asked = {name: value for name, value in values.items() if not _is_option(name)}
        key = repr(asked)
        if key not in drawn:
            drawn[key] = make_workload(workload, asked)
        options = {name: value for name, value in values.items() if _is_option(name)}
        shown = {name: label for name, (label, _) in zip(lists, choice, strict=True)}
        points.append(Point(number, shown, drawn[key], with_blocks({**fixed, **options})))
    return points


def make_workload(workload: WorkloadLike, asked: Mapping[str, Any]) -> Workload:
    """The workload of a point: itself, drawn from its specification, or made by the caller's function."""
    if isinstance(workload, Workload):
        return workload
    made = Workload.synthetic(**{**workload, **asked}) if isinstance(workload, Mapping) else workload(**asked)
    if not isinstance(made, Workload):
        raise SweepError(f"the workload's function gave {type(made).__name__} for {asked}, not a Workload")
    return made


def with_blocks(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `num_blocks` derived where the memory is given in tokens.

    Raises:
        SweepError: both are given, or the memory holds no such block.
    """
    rest = {name: value for name, value in options.items() if name != MEMORY}
    if options.get(MEMORY) is None:
        return rest
    if "num_blocks" in rest:
        raise SweepError("memory_tokens and num_blocks are both given: one follows from the other")
    memory, size = options[MEMORY], rest.get("block_size", 16)
    if not (isinstance(memory, int) and isinstance(size, int) and 1 <= size <= memory):
        raise SweepError(f"block_size is {size}; it must be from 1 to the memory's {memory} tokens")
    return {**rest, "num_blocks": memory // size}


def _labelled(name: str, values: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(label, value) of each value."""
    if isinstance(values, Mapping):
        pairs = list(values.items())
    elif isinstance(values, str) or not hasattr(values, "__iter__"):
        raise SweepError(f"{name} is {values!r}; a grid has a list of values for each name")
    else:
        # NumPy's scalars become Python's, which specifications and keys are made of.
        plain = [value.item() if hasattr(value, "item") else value for value in values]
        pairs = [(value if _is_plain(value) else repr(value), value) for value in plain]
    if not pairs:
        raise SweepError(f"{name} has no values: the sweep would have no points")
    return pairs


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_option(name: str) -> bool:
    return name == MEMORY or name in ENGINE or name in SIMULATOR


def _workload_names(workload: WorkloadLike) -> tuple[str, ...] | None:
    """Parameters that the workload takes; None: any."""
    if isinstance(workload, Workload):
        return ()
    if not isinstance(workload, Mapping) and not callable(workload):
        raise SweepError(
            f"workload is {type(workload).__name__}; it must be a Workload, keywords of Workload.synthetic, "
            "or a function that makes one"
        )
    made_by = Workload.synthetic if isinstance(workload, Mapping) else workload
    parameters = inspect.signature(made_by).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters)


def _check_name(name: str, own: tuple[str, ...] | None, *, in_grid: bool) -> None:
    option = _is_option(name)
    if option and own is not None and name in own:
        raise SweepError(f"{name} is an option of the engine and of the workload: call one of them otherwise")
    if option or (in_grid and (own is None or name in own)):
        return
    choices = (*ENGINE, *SIMULATOR, MEMORY, *((own or ()) if in_grid else ()))
    raise unknown_option("a sweep's parameter", name, choices)


__all__ = ["CostLike", "Point", "WorkloadLike", "make_workload", "points_of", "with_blocks"]
