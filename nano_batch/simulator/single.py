"""One simulated engine: a workload in, a run out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nano_batch import _core
from nano_batch.core import check_options
from nano_batch.records import EventLog, Run
from nano_batch.records.tables import Requests, Steps
from nano_batch.simulator.costs import CostLike, as_cost
from nano_batch.simulator.policies import policy_name, scorer
from nano_batch.simulator.progress import progress_bar
from nano_batch.workloads import Workload

Reservation = Literal["max", "pow2", "oracle"]

#: Names of rows of so many digits are made once and looked up.
FEW_DIGITS = 4
_REASONS = np.array(["", "stop", "length"])


def simulate(
    workload: Workload,
    *,
    cost: CostLike = 0.02,
    steps_in_flight: int = 0,
    max_steps: int | None = None,
    keep_steps: int | None = None,
    max_tokens: int | None = None,
    reservation: Reservation | None = None,
    quantiles: bool = False,
    keep_requests: bool = True,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
    **engine: Any,
) -> Run:
    """Serve the workload on the scheduler of `Engine`, in virtual time.

    A discrete-event loop in the compiled core: it drives the same scheduler that `Engine` does, so the
    schedule is the one that `drive` gets from an `Engine` with these options and step times. A request joins
    the queue before the first step planned at or after its arrival; tokens are there when their step ends; a
    closed loop's next row arrives when a request ends; while nothing is unfinished, time jumps to the next
    arrival. Events of one moment happen in the order: ends of steps, arrivals, plans of steps.

    Args:
        workload: the requests; row i is called `r<i>`.
        cost: what a step takes: seconds, a cost model (`Roofline`, `Profile`, `Constant`), or a Python
            function of `StepFeatures` that returns the device's seconds, or (host, device).
        steps_in_flight: 0: host and device take turns, a step takes the sum of their times. 1: the host
            plans step k + 1 when step k starts on the device; it then knows the arrivals up to that moment
            and none of step k's tokens, so a stop token is seen one step late. A step starts when the
            device is free and its plan is ready.
        max_steps: stop after so many steps and leave the rest unfinished.
        keep_steps: keep at most so many rows of `Run.steps`: every second, fourth, … step of a longer run.
        max_tokens: every request asks for this many tokens and is ended at its output length by a stop token
            that the scheduler cannot foresee. By default it asks for its output length.
        reservation: instead of blocks, a contiguous region for each request out of `num_blocks` ×
            `block_size` token slots, found by first fit when it is admitted: "max" (`max_model_len` slots),
            "pow2" (its prompt and the next power of two above its output) or "oracle" (exactly what it will
            store), as in the vLLM paper (SOSP 2023, §6.1). The scheduler batches as ever, without a prefix
            cache; `Run.steps` is told in blocks of one slot and has `slots_external`.
        quantiles: count inter-token latencies, step durations, times to first token, times per output token
            and end-to-end latencies as they occur into quantiles with a relative error of 0.5 %:
            `Run.settings["totals"]`.
        keep_requests: False keeps totals and quantiles only, so that with `keep_steps` memory does not grow
            with the requests beyond the workload's own columns: `Run.requests` is empty, and what needs
            requests raises `RecordsError`.
        progress: show a progress bar (tqdm).
        settings: JSON values that are kept in the run beside the simulator's own.
        engine: the options of `Engine` (`num_blocks`, `block_size`, …; `event_log=True` keeps the events, for
            views). `policy` may be an object of the reader's own: before every step its `score(requests)`
            gets `PolicyColumns` and returns one number a request, the smallest served first.

    Returns:
        The run; `Run.settings` has `engine`, `workload`, `cost`, `simulator` and `totals` (docs/records.md,
        "Totals").

    Raises:
        InvalidArgumentError, UnknownOptionError, RequestTooLargeError: what could never be served, before
            anything runs.
        PolicyError: a policy of the reader's own returned NaN, a wrong length, or took over 50 ms for a step;
            what it raises comes through as it is.
        StalledError: unfinished requests, and no step schedules any of them.
        KeyboardInterrupt: Ctrl-C, within 0.1 s.
    """
    own = own_options(
        steps_in_flight, max_steps, keep_steps, max_tokens, reservation, quantiles, keep_requests
    )
    result = call_core(workload, cost, engine, progress, **own)
    kept = {**run_settings(workload, cost, engine, own), **(settings or {})}
    return run_of(result, 0, requests_of(result, workload, max_tokens), engine, kept)


def own_options(
    steps_in_flight: int,
    max_steps: int | None,
    keep_steps: int | None,
    max_tokens: int | None,
    reservation: Reservation | None,
    quantiles: bool,
    keep_requests: bool,
) -> dict[str, Any]:
    """The simulator's own options by name, as the core takes them and the run's settings keep them."""
    return {
        "steps_in_flight": steps_in_flight,
        "max_steps": max_steps,
        "keep_steps": keep_steps,
        "max_tokens": max_tokens,
        "reservation": reservation,
        "quantiles": quantiles,
        "keep_requests": keep_requests,
    }


def call_core(
    workload: Workload,
    cost: CostLike,
    engine: Mapping[str, Any],
    progress: bool,
    *,
    replicas: int = 1,
    routing: str = "round_robin",
    **own: Any,
) -> dict[str, Any]:
    """The compiled simulator's columns."""
    content = None
    policy = engine.get("policy", "fcfs")
    if workload.block_offsets is not None:
        content = (workload.block_offsets, workload.block_ids, workload.block_size)
    with progress_bar(progress, len(workload)) as told:
        return _core.simulate(
            workload.arrival_s,
            workload.prompt_tokens,
            workload.output_tokens,
            content,
            core_options(engine),
            as_cost(cost).core(),
            replicas=replicas,
            routing=routing,
            progress=told,
            score=None if isinstance(policy, str) else scorer(policy),
            **own,
        )


def core_options(engine: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options for the core; under a policy of the reader's own the order without it is fcfs."""
    options = check_options(**engine)
    return options if isinstance(options["policy"], str) else {**options, "policy": "fcfs"}


def requests_of(result: Mapping[str, Any], workload: Workload, max_tokens: int | None) -> Requests:
    """The table *requests*, in order of arrival."""
    columns = dict(result["requests"])
    rows = columns.pop("row")
    columns.pop("replica")
    asked = workload.output_tokens[rows] if max_tokens is None else np.full(len(rows), max_tokens, np.int64)
    return Requests.adopt(
        request_id=_names(rows),
        prompt_tokens=workload.prompt_tokens[rows],
        max_tokens=asked,
        finish_reason=_REASONS[columns.pop("reason")],
        **columns,
    )


def _names(rows: NDArray[np.int64]) -> NDArray[np.str_]:
    """`r<row>` of each row."""
    digits = len(str(int(rows.max()))) if len(rows) else 1
    return _few_names(digits)[rows] if digits <= FEW_DIGITS else _write_names(rows, digits)


@lru_cache(maxsize=FEW_DIGITS)
def _few_names(digits: int) -> NDArray[np.str_]:
    """The names of all rows of so many digits."""
    return _write_names(np.arange(10**digits), digits)


def _write_names(rows: NDArray[np.int64], digits: int) -> NDArray[np.str_]:
    # Digits as code points: a million names in milliseconds, where formatting them takes half a second.
    letters = np.zeros((len(rows), digits + 1), np.uint32)
    letters[:, 0] = ord("r")
    lengths = np.ones(len(rows), np.int64)
    for power in range(1, digits):
        lengths += rows >= 10**power
    for place in range(digits):
        shown = place < lengths
        digit = rows // 10 ** np.maximum(lengths - 1 - place, 0) % 10
        letters[:, place + 1] = np.where(shown, digit + ord("0"), 0)
    names: NDArray[np.str_] = letters.view(f"<U{digits + 1}")[:, 0]
    return names


def run_of(
    result: Mapping[str, Any], replica: int, requests: Requests, engine: Mapping[str, Any], settings: Any
) -> Run:
    """One replica's run."""
    steps = {name: column for name, column in result["steps"][replica].items() if name != "stride"}
    log = None
    if result["events"]:
        options = check_options(**engine)
        log = EventLog.of_core(result["events"][replica], options["num_blocks"], options["block_size"])
    totals = {
        **result["totals"][replica],
        "step_stride": result["steps"][replica]["stride"],
        **result["quantiles"],
    }
    return Run(requests, Steps.adopt(**steps), log, {"totals": totals, **settings})


def run_settings(
    workload: Workload,
    cost: CostLike,
    engine: Mapping[str, Any],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """What ran, as JSON values; `run_of` adds what came of it."""
    options = {name: value for name, value in check_options(**engine).items() if name != "event_log"}
    options["policy"] = policy_name(options["policy"])
    if own["reservation"] is not None:
        options |= {"num_blocks": options["num_blocks"] * options["block_size"], "block_size": 1}
    return {
        "engine": options,
        "workload": dict(workload.spec),
        "cost": as_cost(cost).describe(),
        "simulator": dict(own),
    }
