"""The same requests under four ways of batching, and their Gantt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from nano_batch.display import Shown
from nano_batch.errors import ViewError, WorkloadError
from nano_batch.lessons.told import expression
from nano_batch.records import Run
from nano_batch.simulator import Roofline, simulate
from nano_batch.simulator.costs import Cost
from nano_batch.viz.controls import control
from nano_batch.viz.gantt import GanttView, Rows
from nano_batch.workloads import Workload
from nano_batch.workloads.lengths import Fixed, LogNormal

LONGEST = 4096  # of a drawn prompt or answer, tokens

# A scheme is a word for the scheduler's batching; only the last cuts prompts into pieces of the step budget.
SCHEMES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "static batches": {"policy": "static", "enable_chunked_prefill": False},
        "prefill first": {"policy": "prefill_first", "enable_chunked_prefill": False},
        "iteration level": {"policy": "fcfs", "enable_chunked_prefill": False},
        "chunked prefill": {"policy": "fcfs", "enable_chunked_prefill": True},
    }
)


@dataclass(frozen=True)
class Mix(Shown):
    """Requests whose prompts and answers are log-normal, with given means: what a few sliders draw anew.

    Attributes:
        requests: how many.
        seed: of every draw; the prompts and the arrivals are the same at every `output_spread`.
        rate: requests a second (Poisson); None: all are there at the start.
        prompt_tokens: mean of the prompts, tokens.
        prompt_spread: their sigma, the standard deviation of the logarithm; 0: all alike.
        output_tokens: mean of the answers, tokens.
        output_spread: their sigma.
    """

    requests: int = 32
    seed: int = 1
    rate: float | None = 8.0
    prompt_tokens: float = 600.0
    prompt_spread: float = 0.8
    output_tokens: float = 100.0
    output_spread: float = 1.0

    def workload(self) -> Workload:
        """The requests.

        Raises:
            WorkloadError: a mean or a spread is out of range.
        """
        return Workload.synthetic(
            self.requests,
            seed=self.seed,
            arrivals="at_once" if self.rate is None else "poisson",
            rate=self.rate,
            prompts=_lengths("prompt", self.prompt_tokens, self.prompt_spread),
            outputs=_lengths("output", self.output_tokens, self.output_spread),
            name="a mix",
        )


def _lengths(side: str, mean: float, spread: float) -> Fixed | LogNormal:
    """Lengths with about this mean whatever the spread: exp(mu + sigma²/2) is a log-normal's mean."""
    if not 1 <= mean <= LONGEST:
        raise WorkloadError(f"{side}_tokens is {mean}; it must be from 1 to {LONGEST}")
    if not 0 <= spread <= 3:
        raise WorkloadError(f"{side}_spread is {spread}; it must be from 0 to 3")
    if spread == 0:
        return Fixed(round(mean))
    return LogNormal(math.log(mean) - spread**2 / 2, spread, 1, LONGEST)


def serve_schemes(
    workload: Workload,
    *,
    memory_tokens: int,
    cost: Cost,
    schemes: Iterable[str] = tuple(SCHEMES),
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 512,
    block_size: int = 16,
    **options: Any,
) -> dict[str, Run]:
    """Serve the same requests under each scheme, by its label; the event logs are on.

    `max_num_batched_tokens` cuts prompts under "chunked prefill"; schemes that compute whole prompts have as
    many more as those need. Other options are those of `Engine`.

    Raises:
        ViewError: there is no such scheme, or the memory holds no block.
        NanoBatchError: whatever the engine refuses, by name.
    """
    unknown = [label for label in schemes if label not in SCHEMES]
    if unknown:
        raise ViewError(f"no scheme {unknown[0]!r}; it must be one of {', '.join(SCHEMES)}")
    if not 1 <= block_size <= memory_tokens:
        raise ViewError(
            f"block_size is {block_size}; it must be from 1 to the memory's {memory_tokens:,} tokens"
        )
    runs = {}
    for label in schemes:
        own = SCHEMES[label]
        runs[label] = simulate(
            workload,
            cost=cost,
            num_blocks=memory_tokens // block_size,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=scheme_budget(label, workload, max_num_batched_tokens, max_num_seqs),
            event_log=EVENTS,
            **{**options, **own},
        )
    return runs


def whole_prompts(workload: Workload, budget: int, batch: int = 1) -> int:
    """A step budget of at least `budget` that holds the longest prompt `batch` times."""
    return max(budget, batch * int(workload.prompt_tokens.max()))


def scheme_budget(label: str, workload: Workload, budget: int, slots: int) -> int:
    """The step budget of a scheme: one that cuts no prompt holds the longest beside a token of each slot.

    A static batch computes all its prompts in one step.
    """
    if SCHEMES[label]["enable_chunked_prefill"]:
        return budget
    return slots + whole_prompts(workload, budget, slots if label == "static batches" else 1)


EVENTS = 50_000_000  # at most: no start of a log may be dropped, or its spans are lost


def default_cost() -> Roofline:
    """Mistral 7B on an H100: the model and the device that the notebooks speak of."""
    return Roofline.of("h100", "mistral-7b-v0.1")


def gantt(
    requests: Mix | Workload,
    *,
    memory_tokens: int = 65_536,
    cost: Cost | None = None,
    schemes: Iterable[str] = tuple(SCHEMES),
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 512,
    rows: Rows = "slots",
    step: int | None = None,
    lead: str | None = None,
    selected: Iterable[str] = (),
    shown_s: Iterable[float] = (),
    **changed: Any,
) -> GanttView:
    """The Gantt of the same requests under each scheme, with controls that serve all of them again.

    Args:
        requests: a `Mix`, which gets controls for the spread of its answers and its rate, or a workload.
        changed: other settings of controls, or options of `Engine`.
    """
    cost, labels = cost or default_cost(), tuple(schemes)
    own: dict[str, Any] = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens}
    if isinstance(requests, Mix):
        own["output_spread"] = requests.output_spread
        if requests.rate is not None:
            own["rate"] = requests.rate
    moved = {name: changed.pop(name) for name in tuple(changed) if name in own}

    def remake(**settings: Any) -> dict[str, Run]:
        return serve_schemes(
            _drawn(requests, settings),
            memory_tokens=memory_tokens,
            cost=cost,
            schemes=labels,
            **{**changed, **settings},
        )

    view = GanttView(
        remake(**own),
        cost=cost,
        remake=remake,
        controls=tuple(control(name, value) for name, value in own.items()),
        rows=rows,
        about=f"seed {requests.seed}" if isinstance(requests, Mix) else requests.name,
        recreate=f"lab.gantt({repr_of(requests)}, memory_tokens={memory_tokens}, ...)",
        made_with={**changed, **{name: own[name] for name in ("max_num_seqs", "max_num_batched_tokens")}},
    )
    view.set_many(moved)
    if lead is not None:
        view.lead = lead
    if step is not None:
        view.step = step
    view.selected.requests, view.shown_s = list(selected), list(shown_s)
    if selected or shown_s or step is not None:
        view.opens_here()
    return view


def _drawn(requests: Mix | Workload, settings: dict[str, Any]) -> Workload:
    """The requests of a setting; what draws them is taken out of it."""
    if isinstance(requests, Workload):
        return requests
    mine = {name: settings.pop(name) for name in ("output_spread", "rate") if name in settings}
    return replace(requests, **mine).workload()


def repr_of(requests: Mix | Workload) -> str:
    """Python that makes the requests again."""
    return f"lab.{requests!r}" if isinstance(requests, Mix) else expression(requests)
