"""How fast whole requests are served: this engine, Transformers, and the physical limit.

256 requests of 64 to 512 random tokens ask for 32 to 256 greedy tokens each, 37,897 together; every engine
gives exactly these, or its row is refused. The weights are random and shared by all engines. `case`:

`offline`: the first `requests` of them at t = 0, at most `concurrency` at once. `steady`: as many as
`concurrency`, each with 300 prompt tokens and 200 outputs, for `step_ms`. `poisson`: `rate_per_s` arrivals a
second.

`engine`: `nano_batch`, `InferenceEngine` as it comes, without a prefix cache. `nano_batch_tp2`: the same with
the model split among two CUDA devices, where there are two, and `steady` only.
`transformers_generate_single`: `generate()`, one request at a time. `transformers_generate`: `generate()` in
static batches of `concurrency`, padded on the left, each run to its longest output; only the tokens asked for
count. `transformers_generate_batch`: Transformers' continuous batching. `limit`: what copy bandwidth and
matrix products, measured in the same run, allow on one device (`nano_batch/benchmarks/engines/limit.py`);
`limit_sustained`: the same with the products' rates over seconds, where a GPU's power bounds them.

`tok_per_s`: output tokens over the time from the first arrival to the last token, the median of the `runs`,
beside it the least and the most. TTFT counts from arrival, `ttft_batch_p50_s` from the start of the request's
batch. `step_ms`: the median time between two tokens of a request; `limit_ms`: the same of the limit.
`limit_percent` and `sustained_percent`: throughput over the limits'. All engines have had requests before the
clock starts.

`nano-batch bench engine` also writes `data/measured/engine_<device>.json`, after each row, and keeps there
what it does not measure anew. `--model tiny`: another shape; without CUDA it is the default, in fp32.
NANO_BATCH_CASES=offline-64,steady measures these only,
NANO_BATCH_ENGINES=nano_batch,limit,limit_sustained these, NANO_BATCH_RUNS=1 so many runs (3, fewer of what
takes over 15 s in all); NANO_BATCH_COMMIT names the commit where there is no checkout.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import torch

from nano_batch.benchmarks.engines.base import EngineUnderTest, Served, check_served
from nano_batch.benchmarks.engines.measured_file import MeasuredFile
from nano_batch.benchmarks.engines.rows import row
from nano_batch.benchmarks.engines.work import Case, Request, names_in, requests_of, selected
from nano_batch.benchmarks.report import Row, commit, machine
from nano_batch.errors import InvalidArgumentError

MEASURED = Path(__file__).parents[2] / "data" / "measured"
WARM_TOKENS = 8
RUNS = "3"
ENOUGH_S = 15.0
"""No further run after so much time: a long one is its own average."""


class Serves(Protocol):
    """A model on a device with its engines, or in the tests something without one."""

    @property
    def vocab_size(self) -> int:
        """Words of the model."""

    @property
    def file_name(self) -> str:
        """Of what is measured."""

    def about(self) -> dict[str, Any]:
        """Device, model and dtype."""

    def session(self) -> dict[str, Any]:
        """Versions and what else one run has in common."""

    def engine(self, name: str) -> EngineUnderTest:
        """An engine by its name."""


@dataclass(frozen=True)
class Plan:
    """What one call measures."""

    cases: Sequence[Case]
    engines: Sequence[str]
    runs: int


def run(model: str | None = None) -> dict[str, Any]:
    """Measure every case with every engine, write it down, and return what the file has then.

    Args:
        model: a name of `nano_batch.models.mistral.SHAPES`.

    Raises:
        UnknownOptionError, InvalidArgumentError: there is no such model, case, engine or number of runs.
        BenchmarkError: an engine did not give the tokens asked for.
    """
    from nano_batch.benchmarks.engines.contest import Contest

    contest = Contest(model)
    return measured(contest, plan_of(os.environ, contest.cases), MEASURED)


def plan_of(environment: Any, cases: Sequence[Case]) -> Plan:
    """The cases, engines and runs that the environment's variables ask for.

    Raises:
        UnknownOptionError, InvalidArgumentError: there is no such case, engine or number of runs.
    """
    from nano_batch.benchmarks.engines.contest import ENGINES

    runs = environment.get("NANO_BATCH_RUNS", RUNS)
    if not runs.isdecimal() or int(runs) < 1:
        raise InvalidArgumentError(f"NANO_BATCH_RUNS={runs!r} is not a whole number of at least 1")
    wanted = names_in(environment.get("NANO_BATCH_ENGINES", ""), ENGINES, "engine")
    chosen = selected(cases, environment.get("NANO_BATCH_CASES", ""))
    return Plan(chosen, [name for name in ENGINES if not wanted or name in wanted], int(runs))


def measured(contest: Serves, plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure the plan; return what the file then has, and what failed. It is written after each row.

    A baseline that fails is told in `failures` and on standard error; the rest is measured all the same.
    """
    file = MeasuredFile(folder / contest.file_name, contest.about())
    rows: list[Row] = []
    failures: list[str] = []
    content: dict[str, Any] = {}
    known = {"date": date.today().isoformat(), "commit": commit(), "machine": machine()}
    for case in plan.cases:
        for engine in _suited(contest, plan, case):
            try:
                rows.append(row(case, engine.name, served(engine, case, contest.vocab_size, plan.runs)))
            except Exception as error:
                if not engine.baseline:
                    raise
                failures.append(f"{engine.name}, {case.label}: {type(error).__name__}: {error}")
                print(f"nano-batch: {failures[-1]}", file=sys.stderr)
            content = file.merged({**known, **contest.session(), "failures": failures}, rows)
            file.write(content)
    return {**content, "failures": failures}


def _suited(contest: Serves, plan: Plan, case: Case) -> Iterable[EngineUnderTest]:
    engines = (contest.engine(name) for name in plan.engines)
    return (engine for engine in engines if engine.suits(case))


def served(engine: EngineUnderTest, case: Case, vocab_size: int, runs: int) -> list[list[Served]]:
    """What became of the requests in each run; before the first the engine gets some to warm up with.

    Raises:
        BenchmarkError: it did not give exactly the tokens asked for.
    """
    try:
        return served_in_runs(engine, requests_of(case, vocab_size), case.concurrency, runs)
    finally:
        if (
            torch.cuda.is_available()
        ):  # nothing refers to the engine any more: the next one takes what is free
            gc.collect()
            torch.cuda.empty_cache()


def served_in_runs(
    engine: EngineUnderTest, requests: Sequence[Request], concurrency: int, runs: int
) -> list[list[Served]]:
    """What became of these requests in each run, as `served` has it for those of a case."""
    found = []
    with engine.opened(concurrency) as serve:
        if engine.clocked:
            serve(_warming(requests[:concurrency]))
        started = time.perf_counter()
        for _ in range(runs if engine.clocked else 1):
            found.append(serve(requests))
            check_served(engine.name, requests, found[-1], clocked=engine.clocked)
            if time.perf_counter() - started > ENOUGH_S:
                break
    return found


def _warming(requests: Sequence[Request]) -> list[Request]:
    """The same prompts at once, and a few tokens of each."""
    return [
        replace(each, output_tokens=min(each.output_tokens, WARM_TOKENS), arrival_s=0.0) for each in requests
    ]
