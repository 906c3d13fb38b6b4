"""Synthetic workloads from a specification: arrivals, lengths and content drawn by the core's samplers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_batch import _core
from nano_batch._choices import check_choice
from nano_batch.errors import WorkloadError
from nano_batch.workloads import lengths as lengths_module
from nano_batch.workloads.lengths import Families
from nano_batch.workloads.tables import TraceName, table

ArrivalKind = Literal["poisson", "bursty", "closed_loop", "at_once"]


class Columns(NamedTuple):
    """What a workload is made of: arrival_s, prompt_tokens, output_tokens, and the block ids if there are
    any.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    block_offsets: NDArray[np.int64] | None = None
    block_ids: NDArray[np.int32] | None = None
    block_size: int | None = None


def specify(
    num_requests: int,
    seed: int,
    like: Any,
    arrivals: Any,
    given: Mapping[str, float | None],
    prompts: Any,
    outputs: Any,
    families: Families | None,
) -> dict[str, Any]:
    """The whole specification as JSON values, checked, with the defaults of `like` filled in.

    `given` has the keys rate, cv and users; None where the caller said nothing.
    """
    check_choice("like", like, TraceName)
    check_choice("arrivals", arrivals, ArrivalKind)
    _check_int("num_requests", num_requests, 1, 100_000_000)
    _check_int("seed", seed, 0, 2**64 - 1)
    prompts = like if prompts is None else prompts
    outputs = like if outputs is None else outputs
    lengths_module.resolve(prompts, "prompt")
    lengths_module.resolve(outputs, "output")
    return {
        "source": "synthetic",
        "generator": _core.SAMPLER_VERSION,
        "num_requests": int(num_requests),
        "seed": int(seed),
        "arrivals": {"kind": arrivals, **_arrival_numbers(arrivals, given, table(like)["arrivals"])},
        "prompts": lengths_module.to_spec(prompts),
        "outputs": lengths_module.to_spec(outputs),
        "families": None if families is None else lengths_module.plain(asdict(families)),
    }


def _arrival_numbers(
    kind: ArrivalKind, given: Mapping[str, float | None], facts: Mapping[str, Any]
) -> dict[str, float]:
    defaults: dict[ArrivalKind, dict[str, float | None]] = {
        "poisson": {"rate": facts["rate_per_s"]},
        "bursty": {"rate": facts["rate_per_s"], "cv": facts["cv"]},
        "closed_loop": {"users": None},
        "at_once": {},
    }
    wanted = defaults[kind]
    for name, value in given.items():
        if value is not None and name not in wanted:
            raise WorkloadError(f"{name} is {value}; it has no meaning with arrivals={kind!r}")
    numbers = {name: given[name] if given[name] is not None else default for name, default in wanted.items()}
    if kind == "closed_loop":
        if numbers["users"] is None:
            raise WorkloadError("arrivals='closed_loop' needs users=, the number of users")
        _check_int("users", numbers["users"], 1, 100_000_000)
        return {"users": int(numbers["users"])}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise WorkloadError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")


def build(spec: Mapping[str, Any]) -> Columns:
    """Draw the columns a specification names.

    Raises:
        WorkloadError: another version of the generator made it, or a number is out of range.
    """
    if spec["generator"] != _core.SAMPLER_VERSION:
        raise WorkloadError(
            f"the specification is of generator {spec['generator']!r}; "
            f"this version has {_core.SAMPLER_VERSION!r}"
        )
    count, seed = spec["num_requests"], spec["seed"]
    arrival_s = _arrivals(count, seed, spec["arrivals"])
    prompts = lengths_module.resolve(lengths_module.from_spec(spec["prompts"]), "prompt").sample(
        count, seed, "prompt"
    )
    outputs = lengths_module.resolve(lengths_module.from_spec(spec["outputs"]), "output").sample(
        count, seed, "output"
    )
    if spec["families"] is None:
        return Columns(arrival_s, prompts, outputs)
    families = Families(**spec["families"])
    _, prompts, offsets, ids = families.sample(prompts, seed)
    return Columns(arrival_s, prompts, outputs, offsets, ids, families.block_size)


def _arrivals(count: int, seed: int, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    if spec["kind"] == "poisson":
        return _core.poisson_arrivals(count, rate=spec["rate"], seed=seed)
    if spec["kind"] == "bursty":
        return _core.bursty_arrivals(count, rate=spec["rate"], cv=spec["cv"], seed=seed)
    return closed_loop(count, spec.get("users", count))


def closed_loop(count: int, users: int) -> NDArray[np.float64]:
    """Arrivals of a closed loop: the first `users` rows at 0, the others NaN (when an earlier request
    ends).
    """
    arrival_s = np.full(count, np.nan)
    arrival_s[:users] = 0.0
    return arrival_s
