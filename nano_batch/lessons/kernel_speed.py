"""The picture of what was measured of the attention kernels, under the bound that the memory sets."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, get_args

from nano_batch.benchmarks.on_gpu.cases import BLOCK_SIZES, ITEM_BYTES, SHAPES
from nano_batch.benchmarks.on_gpu.goals import geometric_mean
from nano_batch.benchmarks.report import Row
from nano_batch.display import number
from nano_batch.lessons.fragmentation import set_all
from nano_batch.lessons.measured_kernels import LiveDevice, Measured, Setting, live_device, measured, values
from nano_batch.simulator.cards import HardwareName, hardware_card
from nano_batch.viz.chart import Axis, Chart, Panel, Points, Rule, Series
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control
from nano_batch.viz.table import Table

OURS = "this kernel"
PEERS = {
    OURS: ("us", "series-1"),
    "FlashInfer": ("flashinfer_us", "series-2"),
    "PyTorch": ("torch_us", "series-3"),
}
CONTROLS = (
    Control(
        "batch",
        "Batch",
        "sequences",
        tuple(sorted({batch for batch, _ in SHAPES})),
        256,
        "more: more to read at once",
    ),
    Control(
        "context",
        "Context",
        "tokens",
        tuple(sorted({context for _, context in SHAPES})),
        4096,
        "longer: more to read for each",
    ),
    Control(
        "block_size", "Block size", "tokens", BLOCK_SIZES, 16, "smaller: more table entries for the same keys"
    ),
    Control("dtype", "Cache holds", "", tuple(ITEM_BYTES), "bf16", "fp8: half the bytes"),
    Control(
        "calls",
        "Caches",
        "",
        ("hot", "cold"),
        "hot",
        "hot: read again and again; cold: by turns, as between layers",
    ),
)


def kernel_speed(device: str | None = None, *, live: bool | LiveDevice = True, **settings: Any) -> ChartView:
    """Bandwidth over context and over the block size: this kernel, FlashInfer, PyTorch, and the bound.

    Args:
        device: whose recorded measurement, such as "h200".
        live: measure the setting on the GPU here, too, if there is one.

    Raises:
        LabError, UnknownOptionError: there is no such measurement.
    """
    recorded = measured(device)
    here = live_device() if live is True else live or None

    def make(**chosen: Any) -> Chart:
        return _chart(recorded, Setting(**chosen), here)

    source = recorded.source + (f"; diamonds: live, this machine ({here.name})" if here else "")
    own: dict[str, Any] = {
        "about": "32 query heads, 8 key/value heads, head dimension 128; ten calls in a CUDA graph, by turns",
        "source": source,
        "recreate": "lab.kernel_speed(...)",
    }
    return set_all(ChartView(make, CONTROLS, **own), settings)


def _chart(recorded: Measured, setting: Setting, here: LiveDevice | None) -> Chart:
    rows = recorded.rows(dtype=setting.dtype, block_size=setting.block_size, calls=setting.calls)
    found, now = recorded.of(setting), here.of(setting) if here else None
    bounds = [Rule("y", recorded.copy, f"copy bandwidth, {number(recorded.copy)} TB/s")]
    bounds += _data_sheet(recorded)
    bounds += [Rule("y", here.copy, f"copy bandwidth here, {number(here.copy)} TB/s")] if here else []
    tokens = setting.batch * setting.context
    kind = f"{setting.dtype}, blocks of {setting.block_size}, {setting.calls}"
    panels = [
        Panel(
            "bandwidth over context",
            Axis("context of all sequences together", "tokens", "log2", low=512, high=1.5e6),
            Axis("keys and values read", "TB/s", low=0.0),
            [*_series(rows, [each["batch"] * each["context"] for each in rows]), *_live(now, tokens)],
            [*bounds, Rule("x", tokens)],
            note=f"{kind}, {recorded.source}",
            height=320,
        ),
        *_over_block_sizes(recorded, setting, bounds),
    ]
    return Chart(
        panels,
        "How fast the kernel reads",
        settings=f"{setting.batch} contexts of {setting.context:,} tokens, {kind}",
        says=[_chosen(found, recorded), *_overall(rows, recorded), *_said_live(now, here)],
        numbers=_numbers(found, recorded),
        table=_table(rows, recorded),
    )


def _data_sheet(recorded: Measured) -> list[Rule]:
    """What the memory moves at most by the device's card; none where there is no card of it."""
    if recorded.name not in get_args(HardwareName):
        return []
    card = hardware_card(recorded.name)  # type: ignore[arg-type]
    return [Rule("y", card.bytes_per_s / 1e12, f"data sheet, {number(card.bytes_per_s / 1e12)} TB/s")]


def _over_block_sizes(recorded: Measured, setting: Setting, bounds: Sequence[Rule]) -> list[Panel]:
    """One shape, in bf16 and hot, at every block size; no panel where it was not measured."""
    rows = recorded.over_block_sizes()
    if not rows:
        return []
    return [
        Panel(
            "bandwidth over block size",
            Axis("block size", "tokens", "log2", low=0.8, high=320),
            Axis("keys and values read", "TB/s", low=0.0),
            _series(rows, [each["block_size"] for each in rows]),
            [*bounds, Rule("x", setting.block_size)],
            note=f"{rows[0]['batch']} contexts of {rows[0]['context']:,}, bf16, hot",
            height=250,
        )
    ]


def _series(rows: Sequence[Row], x: Sequence[float]) -> list[Series]:
    found: list[Series] = []
    for name, (column, colour) in PEERS.items():
        rates = values(rows, column)
        if any(isfinite(rate) for rate in rates):
            found.append(Points(name, x, rates, colour))
    return found


def _live(now: Row | None, tokens: int) -> list[Series]:
    if now is None:
        return []
    return [
        Points(f"{name}, live", [tokens], values([now], column), colour, mark="diamond")
        for name, (column, colour) in PEERS.items()
        if now[column]
    ]


def _chosen(found: Row | None, recorded: Measured) -> str:
    if found is None:
        return "This setting was not recorded; a GPU here would measure it."
    peers = [
        f"{name} takes {number(found[column])} µs"
        for name, (column, _) in PEERS.items()
        if name != OURS and found[column]
    ]
    beside = f"; {' and '.join(peers)}" if peers else ""
    share = 100 * found["tb_per_s"] / recorded.copy
    return (
        f"{found['batch']} contexts of {found['context']:,} tokens take {number(found['us'])} µs: "
        f"{number(found['tb_per_s'])} TB/s, {number(share)} % of what a copy moves{beside}."
    )


def _overall(rows: Sequence[Row], recorded: Measured) -> list[str]:
    ratios = [each["flashinfer_us"] / each["us"] for each in rows if each["flashinfer_us"]]
    if len(ratios) < 2:
        return []
    mean, least = number(geometric_mean(ratios)), number(min(ratios))
    shapes = f"Over these {len(ratios)} shapes"
    return [f"{shapes} FlashInfer takes {mean} times as long (geometric mean; least {least})."]


def _said_live(now: Row | None, here: LiveDevice | None) -> list[str]:
    if now is None or here is None:
        return []
    return [f"Live on {here.name}: {number(now['us'])} µs, {number(now['tb_per_s'])} TB/s."]


def _numbers(found: Row | None, recorded: Measured) -> dict[str, float]:
    if found is None:
        return {}
    share = 100 * found["tb_per_s"] / recorded.copy
    return {"a call, µs": found["us"], "read at, TB/s": found["tb_per_s"], "of the copy bandwidth, %": share}


def _table(rows: Sequence[Row], recorded: Measured) -> Table:
    header = (
        "batch",
        "context (tokens)",
        "this kernel (µs)",
        "FlashInfer (µs)",
        "PyTorch (µs)",
        "TB/s",
        "of a copy (%)",
        "error",
    )
    texts = tuple(_text_row(each, recorded) for each in rows)
    return Table(recorded.source, header, texts)


def _text_row(found: Row, recorded: Measured) -> tuple[str, ...]:
    times = (_text(found[name]) for name in ("us", "flashinfer_us", "torch_us"))
    share = f"{100 * found['tb_per_s'] / recorded.copy:.1f}"
    shape = (f"{found['batch']}", f"{found['context']:,}")
    error = "–" if found["error"] is None else f"{found['error']:.1e}"
    return (*shape, *times, _text(found["tb_per_s"]), share, error)


def _text(value: float | None) -> str:
    return "–" if value is None else number(value)
