"""How fast the CUDA kernels of paged attention are, beside FlashInfer, PyTorch and the copy bandwidth.

32 query heads, 8 key/value heads, head dimension 128, bf16 and blocks of 16 in random order where a row says
nothing else. `us` is the time of one call: ten calls in a CUDA graph, the median of twenty replays, ours and
FlashInfer's by turns (`nano_batch/benchmarks/on_gpu/timing.py`); both plan once, outside the timing.
`hot`: the ten calls read the same buffers. `cold`: they rotate over caches of at least 256 MiB in all, as
between a model's layers. `block_size`, `skew` (one long context among short ones), `fp8`, `fp16`, `fp32`: as
`hot`. `write_kv`: keys and values of new tokens to their slots, cold. `plan`: our plan, made on the device;
FlashInfer's on the host. `prefill`: chunks of `queries` tokens, outside graphs. `copy`: a tensor of 2 GiB,
read and written, the best of ten.

`tb_per_s`: bytes of keys and values that must be read (and written) over the time, 10^12 a second.
`torch_us`: this package's plain PyTorch form, called by the host, where it takes under 50 ms. `error`: norm
of the difference over norm of float64 attention, the larger of two rows. `replays_apart_percent`: the range
of the middle half of the replays.

`nano-batch bench attention` also writes `data/measured/attention_<device>.json`, after each case what is
there so far. NANO_BATCH_CASES=hot,cold measures these only; NANO_BATCH_COMMIT names the commit where there is
no checkout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from nano_batch.benchmarks.on_gpu.cases import Case, Times, row, selected
from nano_batch.benchmarks.on_gpu.goals import goals
from nano_batch.benchmarks.report import Row, report

MEASURED = Path(__file__).parents[2] / "data" / "measured"


class Measures(Protocol):
    """What measures a case: a device, or in the tests something without one."""

    failures: list[str]

    def about(self) -> dict[str, Any]:
        """Device and versions."""
        ...

    def measure(self, case: Case) -> Times:
        """Measure one case."""
        ...


def run() -> dict[str, Any]:
    """Measure every case, write it down, and return it.

    Raises:
        DeviceError: there is no CUDA device.
        MissingExtraError: the compiler of the kernels is not installed.
    """
    from nano_batch.benchmarks.on_gpu.device import Device

    return measured(Device(), selected(os.environ.get("NANO_BATCH_CASES", "")), MEASURED)


def measured(device: Measures, cases: Iterable[Case], folder: Path) -> dict[str, Any]:
    """The report of the cases; the file has what is there after each of them."""
    rows: list[Row] = []
    about = device.about()
    path = folder / f"attention_{short_name(about['device'])}.json"
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}
    for case in cases:
        rows.append(row(case, device.measure(case)))
        result = {
            **report("attention", rows),
            **about,
            "goals": goals(rows),
            "failures": device.failures,
        }
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8", newline="\n")
    return result


def short_name(device: str) -> str:
    """ "NVIDIA H200" as "h200"."""
    return "_".join(device.lower().removeprefix("nvidia ").split())
