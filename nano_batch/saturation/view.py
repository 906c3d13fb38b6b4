"""The live view of two configurations over a load: B has the controls, A stays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args

from nano_batch._choices import check_choice
from nano_batch.errors import ViewError
from nano_batch.metrics import SLO
from nano_batch.records import Run
from nano_batch.saturation.configuration import Configuration
from nano_batch.saturation.curve import LoadCurve, Over, load_curve
from nano_batch.saturation.picture import Side, over_load, per_user
from nano_batch.simulator import Roofline
from nano_batch.simulator.cards import HardwareName, ModelName
from nano_batch.viz.chart import Chart
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control, powers_of_two

USERS = (1, 2, 4, 8, 16, 32)
RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SHOWS = ("over the load", "user against GPU")
TTFT_MS, TPOT_MS = (20, 50, 100, 200, 500, 1000, 2000, 5000), (2, 5, 10, 20, 50, 100, 200)
OBJECTIVES = {"ttft_ms": 200, "tpot_ms": 10}


def gpu(
    hardware: HardwareName = "h200",
    model: ModelName = "mistral-7b-v0.3",
    *,
    memory_tokens: int = 32_768,
    block_size: int = 16,
    max_num_seqs: int = 32,
    max_num_batched_tokens: int = 2048,
) -> Configuration:
    """A model on a GPU, by their cards' roofline, with the engine's limits.

    Raises:
        UnknownOptionError: there is no such card; the nearest is named.
    """
    cost = Roofline.of(hardware, model, block_size=block_size)
    gib = memory_tokens * cost.kv_bytes_per_token / 2**30
    name = (
        f"{hardware}, {memory_tokens:,} tokens of KV ({gib:.3g} GiB), blocks of {block_size}, at most "
        f"{max_num_seqs} sequences, {max_num_batched_tokens:,} tokens a step"
    )
    return Configuration(name, cost, memory_tokens, block_size, max_num_seqs, max_num_batched_tokens)


@lru_cache(maxsize=64)
def _side(letter: str, configuration: Configuration, loads: tuple[float, ...], over: Over, like: str) -> Side:
    return Side.of(letter, load_curve(configuration, loads, over=over, like=like))


class _Maker:
    """Makes the chart of some settings, and remembers the sides behind the last one."""

    def __init__(self, a: dict[str, Any], over: Over, loads: tuple[float, ...], like: str) -> None:
        self.a, self.over, self.loads, self.like = a, over, loads, like
        self.sides: list[Side] = []

    def __call__(self, ttft_ms: int, tpot_ms: int, shows: str, **b: Any) -> Chart:
        slo = SLO(ttft_s=ttft_ms / 1e3, tpot_s=tpot_ms / 1e3)
        made = [("A", gpu(**self.a)), ("B", gpu(**{**self.a, **b}))]
        self.sides = [_side(letter, each, self.loads, self.over, self.like) for letter, each in made]
        return (over_load if shows == SHOWS[0] else per_user)(self.sides, slo)

    def open(self, panel: str, series: str, index: int) -> Run:
        """The run of a point, with its events."""
        letter, _, what = series.partition(", ")
        curves: dict[str, LoadCurve] = {side.letter: side.curve for side in self.sides}
        if letter not in curves or what == "bound":
            raise ViewError(f"{series!r} is no run: click on a point of a configuration")
        return curves[letter].run(index, event_log=True)


def saturation(
    a: dict[str, Any] | None = None,
    *,
    over: Over = "users",
    loads: Sequence[float] | None = None,
    like: str = "azure_conv",
    **settings: Any,
) -> ChartView:
    """Two configurations of a GPU over a load, side by side; the controls move B, and A stays.

    Args:
        a: arguments of A: `hardware`, `model`, `memory_tokens`, `block_size`, `max_num_seqs`,
            `max_num_batched_tokens`; B begins with the same.
        over: "users", a closed loop, or "rate", Poisson arrivals.
        loads: users or requests per second; by default 1 to 32 users or 1 to 32 requests/s.
        like: the trace whose lengths are drawn.
        settings: what the controls stand at, if not at A's: B's arguments, `ttft_ms`, `tpot_ms`, `shows`.

    Raises:
        UnknownOptionError, InvalidArgumentError: what the configurations refuse, by name.
    """
    check_choice("over", over, Over)
    first = {"hardware": "h200", "memory_tokens": 32_768, "block_size": 16, "max_num_seqs": 32}
    own = {**first, "max_num_batched_tokens": 2048, **(a or {})}
    chosen = tuple(float(load) for load in (loads or (USERS if over == "users" else RATES)))
    made = _Maker(own, over, chosen, like)
    arrivals = "a closed loop" if over == "users" else "Poisson arrivals"
    return ChartView(
        made,
        _controls({**own, **OBJECTIVES, "shows": SHOWS[0], **settings}),
        opens=made.open,
        about=f"{own.get('model', 'mistral-7b-v0.3')}, lengths like {like}, {arrivals}, seeds 0 to 4, fcfs; "
        "rates over the steady window, from a fifth of the arrivals to the last",
        source="simulated",
        recreate=f"lab.saturation({own!r}, over={over!r}, ...)",
    )


def _controls(at: dict[str, Any]) -> list[Control]:
    def numbers(name: str, label: str, unit: str, values: Sequence[int], note: str) -> Control:
        return Control(name, label, unit, tuple(sorted({*values, at[name]})), at[name], note)

    seqs, memory = powers_of_two(2, 256), powers_of_two(8192, 2**20)
    return [
        numbers("max_num_seqs", "B: sequences at once", "sequences", seqs, "more: fuller steps, longer ones"),
        numbers("memory_tokens", "B: KV memory", "tokens", memory, "more: fewer requests wait for blocks"),
        numbers(
            "max_num_batched_tokens",
            "B: step budget",
            "tokens",
            powers_of_two(64, 16384),
            "more: prompts are read sooner, decodes wait longer",
        ),
        Control(
            "hardware", "B: GPU", "", get_args(HardwareName), at["hardware"], "its peak rates, by its card"
        ),
        numbers(
            "block_size", "B: block size", "tokens", powers_of_two(1, 256), "larger: more slots left empty"
        ),
        numbers(
            "ttft_ms", "TTFT objective", "ms", (20, 50, 100, 200, 500, 1000, 2000, 5000), "p99, of each load"
        ),
        numbers("tpot_ms", "TPOT objective", "ms", (2, 5, 10, 20, 50, 100, 200), "p99, of each load"),
        Control("shows", "Show", "", SHOWS, at["shows"], "each load as a place on the axis, or as a point"),
    ]
