"""What the rows of `nano-batch bench attention` are held to, each with its number and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, log
from typing import Any

from nano_batch.benchmarks.on_gpu.cases import SHAPES, rows_of
from nano_batch.benchmarks.report import Row

HOT_US = dict(zip(SHAPES, (7.5, 36, 21.4, 35, 127, 129, 254, 984), strict=True))
HOT_GAIN, HOT_LEAST, COLD_GAIN = 1.10, 0.99, 1.05
SHARE_OF_COPY, FROM_BYTES = 95, 0.5e9
FP8_GAIN = 1.7
WRITE_SHARE, WRITTEN_TOKENS = 80, 8192
MOST_ERROR = {"bf16": 3e-3, "fp16": 1e-3, "fp32": 1e-5, "fp8": 3e-3}


def goals(rows: Sequence[Row]) -> list[Row]:
    """`figure`, `value` in `unit`, `goal` and `met`; what the rows do not say is left out."""
    return [*_times(rows), *_ratios(rows), *_shares(rows), *_quantised(rows), *_errors(rows)]


def geometric_mean(values: Iterable[float]) -> float:
    """Of ratios: of r and 1 / r it is 1."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))


def gains(rows: Sequence[Row], case: str) -> list[float]:
    """How many times FlashInfer's time is ours, of each row that has both."""
    return [each["flashinfer_us"] / each["us"] for each in rows_of(rows, case) if each["flashinfer_us"]]


def copy_rate(rows: Sequence[Row]) -> float | None:
    """The device's copy bandwidth, bytes read and written, TB/s."""
    return next((float(each["tb_per_s"]) for each in rows_of(rows, "copy")), None)


def _times(rows: Sequence[Row]) -> list[Row]:
    return [
        _goal(f"hot {each['batch']}x{each['context']}", each["us"], "us", most=HOT_US[shape])
        for each in rows_of(rows, "hot")
        if (shape := (each["batch"], each["context"])) in HOT_US
    ]


def _ratios(rows: Sequence[Row]) -> list[Row]:
    hot, cold, unit = gains(rows, "hot"), gains(rows, "cold"), "FlashInfer's time / ours"
    found = []
    if hot:
        found.append(_goal("hot, geometric mean", geometric_mean(hot), unit, least=HOT_GAIN))
        found.append(_goal("hot, worst shape", min(hot), unit, least=HOT_LEAST))
    if cold:
        found.append(_goal("cold, geometric mean", geometric_mean(cold), unit, least=COLD_GAIN))
    return found


def _shares(rows: Sequence[Row]) -> list[Row]:
    copy, unit, found = copy_rate(rows), "% of the copy bandwidth", []
    if copy is None:
        return []
    for each in rows_of(rows, "hot"):
        if each["cache_bytes"] >= FROM_BYTES:
            name = f"hot {each['batch']}x{each['context']}, bandwidth"
            found.append(_goal(name, 100 * each["tb_per_s"] / copy, unit, least=SHARE_OF_COPY))
    for each in rows_of(rows, "write_kv"):
        if each["context"] == WRITTEN_TOKENS:
            share = 100 * each["tb_per_s"] / copy
            found.append(_goal(f"write_kv of {WRITTEN_TOKENS} tokens", share, unit, least=WRITE_SHARE))
    return found


def _quantised(rows: Sequence[Row]) -> list[Row]:
    whole = {(each["batch"], each["context"]): each["us"] for each in rows_of(rows, "hot")}
    found = []
    for each in rows_of(rows, "fp8"):
        shape = (each["batch"], each["context"])
        if shape in whole:
            name, gain = f"fp8 cache {shape[0]}x{shape[1]}", whole[shape] / each["us"]
            found.append(_goal(name, gain, "bf16's time / fp8's", least=FP8_GAIN))
    return found


def _errors(rows: Sequence[Row]) -> list[Row]:
    worst: dict[str, float] = {}
    for each in rows:
        if each["error"] is not None and each["case"] != "write_kv":
            worst[each["dtype"]] = max(each["error"], worst.get(each["dtype"], 0.0))
    return [
        _goal(f"largest error, {dtype}", value, "norm of the difference / norm", most=MOST_ERROR[dtype])
        for dtype, value in worst.items()
    ]


def _goal(
    figure: str, value: float, unit: str, *, most: float | None = None, least: float | None = None
) -> Row:
    made: dict[str, Any] = {"figure": figure, "value": float(f"{value:.4g}"), "unit": unit}
    if most is not None:
        return {**made, "goal": f"at most {most:g}", "met": value <= most}
    assert least is not None
    return {**made, "goal": f"at least {least:g}", "met": value >= least}
