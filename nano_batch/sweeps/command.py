"""`nano-batch sweep` and `nano-batch simulate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_batch.cli import MEMORY_TOKENS
from nano_batch.display import number
from nano_batch.errors import MissingExtraError, SweepError
from nano_batch.metrics import SLO, summary
from nano_batch.metrics.summary import Row
from nano_batch.simulator import Roofline, memory_tokens, simulate
from nano_batch.simulator.costs import CostLike
from nano_batch.sweeps.config import read_config
from nano_batch.sweeps.grid import with_blocks
from nano_batch.sweeps.sweep import sweep
from nano_batch.workloads import Workload

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_STEP_S = 0.02
SUFFIXES = (".parquet", ".csv")


def run_simulate(options: argparse.Namespace) -> int:
    """Serve a trace in virtual time and print its numbers."""
    workload = Workload.read(options.trace)
    if options.requests is not None:
        workload = workload.head(options.requests)
    if options.rate is not None:
        workload = workload.scaled(rate=options.rate)
    cost, memory = _device(options)
    names = ("block_size", "max_num_seqs", "max_num_batched_tokens", "policy")
    engine = with_blocks({"memory_tokens": memory, **{name: getattr(options, name) for name in names}})
    run = simulate(workload, cost=cost, progress=not options.json, **engine)
    row = summary(run, SLO(ttft_s=options.ttft, tpot_s=options.tpot))
    if options.out is not None:
        run.save(options.out)
    print(json.dumps(row) if options.json else as_text(repr(run), row))
    return 0


def _device(options: argparse.Namespace) -> tuple[CostLike, int]:
    """What a step takes, and the tokens that the KV memory holds."""
    if options.hardware is None:
        step_s = DEFAULT_STEP_S if options.step_time is None else options.step_time
        return step_s, MEMORY_TOKENS if options.memory_tokens is None else options.memory_tokens
    if options.step_time is not None:
        raise SweepError(
            f"--step-time {options.step_time} and --hardware {options.hardware}: give one of them"
        )
    cost = Roofline.of(options.hardware, options.model, block_size=options.block_size)
    if options.memory_tokens is not None:
        return cost, options.memory_tokens
    return cost, memory_tokens(options.hardware, options.model)


def as_text(title: str, row: Row) -> str:
    """A row of numbers, one a line, units in the names."""
    width = max(len(name) for name in row)
    return "\n".join([title, *(f"{name:<{width}}  {_cell(value):>12}" for name, value in row.items())])


def _cell(value: float | int | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else number(float(value))


def run_sweep(options: argparse.Namespace) -> int:
    """Run the sweep of a TOML file and write its table."""
    suffix = options.out.suffix
    if suffix not in SUFFIXES:
        raise SweepError(f"--out is {options.out}; it must end in {' or '.join(SUFFIXES)}")
    if not options.out.absolute().parent.is_dir():
        raise SweepError(f"--out is {options.out}; there is no folder {options.out.absolute().parent}")
    if suffix == ".parquet":
        _need_pyarrow()
    table = sweep(
        **read_config(options.config),
        n_jobs=options.jobs,
        cache=options.cache or True,
        on_error="keep" if options.keep_errors else "raise",
        progress=True,
    )
    write(table, options.out)
    print(f"{options.out}: {len(table):,} points, {len(table.columns)} columns")
    return 0


def write(table: pd.DataFrame, path: Path) -> None:
    """The table as parquet or CSV, by the path's suffix."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


def _need_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            "parquet needs pyarrow: install the extra 'parquet' (pip install 'nano-batch[parquet]'), "
            "or write a .csv file"
        ) from error
    return pyarrow
