"""How long a simulation takes, and how much memory.

Poisson arrivals at 14 requests/s, log-normal prompts (mu 6.633, sigma 0.985) and outputs (mu 5.019, sigma
0.859), 256 sequences at a time, a budget of 4,096 tokens, ample blocks of 16. The roofline is fixed: 989
TFLOP/s, 3.35 TB/s, no overhead, 16.06 GB of weights (two operations a parameter of two bytes), 131,072 bytes
a token.

`10k`: 10,000 requests, every step kept. `1m`: a million, at most 10,000 steps kept. `1k`: 1,000 with the
event log on. `sweep200`: 200 points of 2,000 requests on two workers (ten rates, four limits, five seeds),
their start included, nothing read from disk. `seconds` is the wall time of the call, from arrays to columns
(to the table for `sweep200`), the best of `runs`; `peak_mib` the most resident memory of the process that
called, with Python and NumPy in it. Each case has a process of its own. `nano-batch bench simulator` also
writes `data/measured/simulator.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nano_batch.benchmarks.memory import peak_mib
from nano_batch.benchmarks.report import Row, report
from nano_batch.simulator import Roofline, simulate
from nano_batch.workloads import LogNormal, Workload

MEASURED = Path(__file__).parents[2] / "data" / "measured" / "simulator.json"
COST = Roofline(flops_per_s=989e12, bytes_per_s=3.35e12, weight_bytes=16.06e9, kv_bytes_per_token=131_072)
ENGINE: dict[str, Any] = {
    "num_blocks": 16_384,
    "block_size": 16,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 4096,
}
RATE, PROMPTS, OUTPUTS = 14.0, LogNormal(6.633, 0.985), LogNormal(5.019, 0.859)
#: case -> requests, runs, options; iterations of 10,000 requests are known from other simulators.
CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "10k": (10_000, 9, {}),
    "1m": (1_000_000, 1, {"keep_steps": 10_000}),
    "1k": (1_000, 15, {"event_log": True}),
}
ITERATIONS_10K = (86_000, 97_000)
SWEEP: dict[str, list[Any]] = {
    "rate": [float(rate) for rate in range(5, 15)],
    "max_num_seqs": [32, 64, 128, 256],
    "seed": [0, 1, 2, 3, 4],
}
SWEEP_REQUESTS, SWEEP_RUNS, WORKERS = 2_000, 3, 2


def run() -> dict[str, Any]:
    """Measure every case, write it down, and return it."""
    rows = [_in_own_process(case) for case in (*CASES, "sweep200")]
    result = report("simulator", rows)
    MEASURED.parent.mkdir(parents=True, exist_ok=True)
    MEASURED.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8", newline="\n")
    return result


def _in_own_process(case: str) -> Row:
    command = [sys.executable, "-m", "nano_batch.benchmarks.simulator", case]
    row: Row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return row


def workload(requests: int, seed: int = 0, rate: float = RATE) -> Workload:
    """The requests of all cases."""
    return Workload.synthetic(requests, seed=seed, rate=rate, prompts=PROMPTS, outputs=OUTPUTS)


def case_row(case: str, requests: int | None = None, runs: int | None = None) -> Row:
    """A case of one simulation, the best of its runs.

    Raises:
        RuntimeError: it did not serve what it was to serve.
    """
    usual, most, options = CASES[case]
    requests, runs = requests or usual, runs or most
    served = workload(requests)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        result = simulate(served, cost=COST, **ENGINE, **options)
        times.append(time.perf_counter() - start)
    totals = result.settings["totals"]
    check(result, requests, totals["iterations"], events=bool(options.get("event_log")))
    counts = {name: totals[name] for name in ("iterations", "scheduled_sequences")}
    return {"case": case, "seconds": min(times), **counts, "peak_mib": round(peak_mib(), 1), "runs": runs}


def check(result: Any, requests: int, iterations: int, *, events: bool) -> None:
    """That every request was served, to its length, in about as many steps as it must be."""
    if not (result.requests.output_tokens == result.requests.max_tokens).all():
        raise RuntimeError("not every request was served to its length")
    if len(result.requests) != requests or result.requests.preemptions.any():
        raise RuntimeError(f"{len(result.requests)} requests of {requests}, or one was preempted")
    low, high = ITERATIONS_10K
    if requests == CASES["10k"][0] and not low <= iterations <= high:
        raise RuntimeError(f"{iterations:,} iterations; they must be from {low:,} to {high:,}")
    if events != (result.events is not None and len(result.events) > requests):
        raise RuntimeError("the event log is not as the case wants it")


def sweep_row(requests: int = SWEEP_REQUESTS, runs: int = SWEEP_RUNS) -> Row:
    """The sweep, each run with fresh workers."""
    from nano_batch.sweeps import sweep

    options = {name: value for name, value in ENGINE.items() if name not in SWEEP}
    fixed = {"num_requests": requests, "prompts": PROMPTS, "outputs": OUTPUTS}
    times = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            table = sweep(SWEEP, fixed, cost=COST, n_jobs=WORKERS, cache=folder, **options)
            times.append(time.perf_counter() - start)
        _stop_workers()
    if len(table) != 200 or not (table.finished == requests).all():
        raise RuntimeError(f"{len(table)} points, {int(table.finished.sum()):,} requests finished")
    return {
        "case": "sweep200",
        "seconds": min(times),
        "iterations": int(table.iterations.sum()),
        "scheduled_sequences": int(table.scheduled_sequences.sum()),
        "peak_mib": round(peak_mib(), 1),
        "runs": runs,
        "points": len(table),
        "workers": WORKERS,
    }


def _stop_workers() -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


if __name__ == "__main__":
    print(json.dumps(sweep_row() if sys.argv[1] == "sweep200" else case_row(sys.argv[1])))
