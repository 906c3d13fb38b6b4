"""Several simulated engines behind a router."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import html_table
from nano_batch.records import Run
from nano_batch.records.tables import Requests
from nano_batch.simulator.costs import CostLike
from nano_batch.simulator.single import call_core, own_options, requests_of, run_of, run_settings
from nano_batch.workloads import Workload

Routing = Literal["round_robin", "least_tokens", "prefix_affinity"]


@dataclass(frozen=True, repr=False)
class Fleet:
    """The runs of several replicas.

    Attributes:
        requests: all requests, in order of arrival; `sequence` is the number in the own replica's events.
            Empty under `keep_requests=False`.
        replica: int64, which replica served each of them.
        runs: one a replica, with its own requests.
    """

    requests: Requests
    replica: NDArray[np.int64]
    runs: tuple[Run, ...]

    def _rows(self) -> list[tuple[int, int, int, float]]:
        runs = zip(self._shares(), self.runs, strict=True)
        return [(number, requests, len(run.steps), run.span_s) for number, (requests, run) in enumerate(runs)]

    def _shares(self) -> list[int]:
        """How many requests each replica was given, kept or not."""
        return [run.settings["totals"]["requests"] for run in self.runs]

    def __repr__(self) -> str:
        shares = self._shares()
        return (
            f"Fleet of {len(self.runs)} replicas: {sum(shares):,} requests, "
            f"{min(shares):,} to {max(shares):,} a replica"
        )

    def _repr_html_(self) -> str:
        rows = [
            (number, requests, steps, f"{span:.3g}") for number, requests, steps, span in self._rows()[:9]
        ]
        return html_table(repr(self), ["replica", "requests", "steps", "span, s"], rows)


def simulate_fleet(
    workload: Workload,
    *,
    replicas: int,
    routing: Routing = "round_robin",
    cost: CostLike = 0.02,
    steps_in_flight: int = 0,
    max_steps: int | None = None,
    keep_steps: int | None = None,
    max_tokens: int | None = None,
    quantiles: bool = False,
    keep_requests: bool = True,
    progress: bool = False,
    **engine: Any,
) -> Fleet:
    """Serve the workload on several engines with the same options, each with a scheduler of its own.

    A request is routed when it arrives: in turn ("round_robin"), to the replica with the fewest prompt and
    output tokens of unfinished requests ("least_tokens"), or to the one that was sent the longest beginning
    of its prompt before, where that is at least half of the prompt's blocks, else as "least_tokens"
    ("prefix_affinity"; the idea is SGLang's cache-aware router). The other arguments and errors are those of
    `simulate`; `max_steps` counts the steps of all replicas together.
    """
    own = own_options(steps_in_flight, max_steps, keep_steps, max_tokens, None, quantiles, keep_requests)
    result = call_core(workload, cost, engine, progress, replicas=replicas, routing=routing, **own)
    own |= {"replicas": replicas, "routing": routing}
    settings = run_settings(workload, cost, engine, own)
    requests = requests_of(result, workload, max_tokens)
    replica = result["requests"]["replica"] if replicas > 1 else np.zeros(len(requests), np.int64)
    runs = tuple(
        run_of(result, number, _only(requests, replica == number), engine, {**settings, "replica": number})
        for number in range(replicas)
    )
    return Fleet(requests, replica, runs)


def _only(requests: Requests, wanted: NDArray[np.bool_]) -> Requests:
    return Requests(**{field.name: getattr(requests, field.name)[wanted] for field in fields(Requests)})
